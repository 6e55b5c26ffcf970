"""Every restore method in every situation, services that are stopped and started, and files that wait for a boot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shadowset.requester.backup.engine import BackupJob
from shadowset.requester.backup.plan import Choice
from shadowset.requester.cli import main
from shadowset.requester.restore.engine import RestoreJob, RestoreReport
from shadowset.requester.restore.pending import PendingList
from shadowset.vss.codes import VssError
from shadowset.vss.enums import ComponentType, FileRestoreStatus, RestoreMethodType, WriterRestore
from shadowset.vss.metadata import ComponentInfo, FileSet, LocationMapping, RestoreMethod

ALL, NONE = FileRestoreStatus.ALL, FileRestoreStatus.NONE
Method = RestoreMethodType

SYSTEMCTL = """#!/bin/sh
echo "$1 $3" >> {log}
if [ -e {marker} ]; then echo "Job for $3 failed." >&2; exit 1; fi
"""


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command that notes what it was called with, and fails while ``broken`` is there; returns its directory."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "systemctl").write_text(SYSTEMCTL.format(log=place / "log", marker=place / "broken"))
    (place / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return place


def made(coordinator: Any, data: Path, target: Path, method: RestoreMethod, mapped: bool = True) -> Path:
    """A backup of two files in ``data/app`` by a writer with this restore method."""
    (data / "app").mkdir(exist_ok=True)
    for name in ("one", "two"):
        (data / "app" / name).write_bytes(b"then")
    component = ComponentInfo(ComponentType.FILEGROUP, "app", files=(FileSet(str(data / "app"), "*"),))
    mapping = LocationMapping(str(data / "app"), "*", False, str(data / "other"))
    coordinator.writers[0] = msgspec.structs.replace(
        coordinator.writers[0],
        components=(component,),
        restore_method=method,
        alternate_location_mappings=(mapping,) if mapped else (),
    )
    BackupJob(str(target), Choice()).run()
    return target


def restore(source: Path) -> RestoreReport:
    return RestoreJob(str(source)).run()


def arrange(data: Path, situation: str) -> None:
    """gone: no file is there; half: one is; there: both are; blocked: one place is taken by a directory."""
    for name in ("one", "two"):
        (data / "app" / name).write_bytes(b"now")
    if situation in ("gone", "half"):
        (data / "app/one").unlink()
    if situation == "gone":
        (data / "app/two").unlink()
    if situation == "blocked":
        (data / "app/one").unlink()
        (data / "app/one").mkdir()


def outcome(data: Path, report: RestoreReport) -> str:
    """Where the two files of the backup are now."""
    result = report.components[0]
    if result.at_reboot:
        return "boot"
    if result.status != ALL:
        return "refused"
    for place in ("app", "other"):
        if all(
            (data / place / name).is_file() and (data / place / name).read_bytes() == b"then" for name in ("one", "two")
        ):
            return place
    return "nowhere"


SITUATIONS = ("gone", "half", "there", "blocked")
OUTCOMES = {
    Method.RESTORE_IF_NOT_THERE: ("app", "other", "other", "other"),
    Method.RESTORE_IF_CAN_REPLACE: ("app", "app", "app", "other"),
    Method.STOP_RESTORE_START: ("app", "app", "app", "other"),
    Method.RESTORE_TO_ALTERNATE_LOCATION: ("other", "other", "other", "other"),
    Method.RESTORE_AT_REBOOT: ("boot", "boot", "boot", "boot"),
    Method.RESTORE_AT_REBOOT_IF_CANNOT_REPLACE: ("app", "app", "app", "boot"),
    Method.RESTORE_STOP_START: ("app", "app", "app", "other"),
}


@pytest.mark.vss(36)
@pytest.mark.parametrize("method", OUTCOMES)
def test_each_method_in_each_situation(
    coordinator: Any, data: Path, tmp_path: Path, systemctl: Path, method: RestoreMethodType
) -> None:
    source = made(coordinator, data, tmp_path / "b", RestoreMethod(method, "app.service"))
    for situation, expected in zip(SITUATIONS, OUTCOMES[method], strict=True):
        arrange(data, situation)
        for name in ("one", "two"):
            (data / "other" / name).unlink(missing_ok=True)
        report = restore(source)
        assert outcome(data, report) == expected, situation
        assert report.reboot_required == (expected == "boot")
        for path, _ in PendingList(coordinator.paths.pending).records():
            os.unlink(path)
        if situation == "blocked":
            (data / "app/one").rmdir()


@pytest.mark.vss(36)
@pytest.mark.parametrize("method", [Method.UNDEFINED, Method.CUSTOM])
def test_what_no_requester_can_do(coordinator: Any, data: Path, tmp_path: Path, method: RestoreMethodType) -> None:
    source = made(coordinator, data, tmp_path / "b", RestoreMethod(method))
    with pytest.raises(VssError, match=f"restored by {method.name}"):
        restore(source)


@pytest.mark.vss(36)
@pytest.mark.parametrize(
    ("wish", "blocked", "told"),
    [
        (WriterRestore.ALWAYS, False, True),
        (WriterRestore.NEVER, False, False),
        (WriterRestore.NEVER, True, False),
        (WriterRestore.IF_REPLACE_FAILS, False, False),
        (WriterRestore.IF_REPLACE_FAILS, True, True),
    ],
)
def test_whether_the_writer_is_told(
    coordinator: Any, data: Path, tmp_path: Path, wish: WriterRestore, blocked: bool, told: bool
) -> None:
    source = made(coordinator, data, tmp_path / "b", RestoreMethod(writer_restore=wish))
    arrange(data, "blocked" if blocked else "there")
    coordinator.calls.clear()
    assert outcome(data, restore(source)) == ("other" if blocked else "app")
    assert ("set-selected-for-restore" in coordinator.names()) == told


@pytest.mark.vss(36)
def test_the_reboot_flag_is_passed_on(
    coordinator: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = made(coordinator, data, tmp_path / "b", RestoreMethod(reboot_required=True))
    assert main(["restore", str(source)]) == 0
    assert "restart the host to finish the restore" in capsys.readouterr().err


# ---- services ----


@pytest.mark.vss(78)
@pytest.mark.parametrize(
    ("method", "calls"),
    [
        (Method.STOP_RESTORE_START, ["stop app.service", "start app.service"]),
        (Method.RESTORE_STOP_START, ["stop app.service", "start app.service"]),
    ],
)
def test_the_service_is_stopped_and_started(
    coordinator: Any, data: Path, tmp_path: Path, systemctl: Path, method: RestoreMethodType, calls: list[str]
) -> None:
    source = made(coordinator, data, tmp_path / "b", RestoreMethod(method, "app.service"))
    arrange(data, "there")
    seen = {}

    def look(session: Any) -> None:
        seen["log"] = (systemctl / "log").read_text() if (systemctl / "log").exists() else ""

    coordinator.on_call["pre-restore"] = look
    assert restore(source).succeeded and seen["log"] == ""
    assert (systemctl / "log").read_text().splitlines() == calls
    coordinator.on_call["set-file-restore-status"] = look
    assert restore(source).succeeded
    during = seen["log"].splitlines()[len(calls) :]
    assert during == (calls[:1] if method == Method.STOP_RESTORE_START else []), "stopped before or after the files"


@pytest.mark.vss(78)
def test_a_service_that_does_not_stop_keeps_its_files(
    coordinator: Any, data: Path, tmp_path: Path, systemctl: Path
) -> None:
    source = made(coordinator, data, tmp_path / "b", RestoreMethod(Method.STOP_RESTORE_START, "app.service"))
    arrange(data, "there")
    (systemctl / "broken").touch()
    report = restore(source)
    assert report.components[0].status == NONE
    assert report.components[0].reason == "service app.service does not stop: Job for app.service failed."
    assert (data / "app/one").read_bytes() == b"now" and "start" not in (systemctl / "log").read_text()


def test_a_service_that_does_not_start_again_is_told(
    coordinator: Any, data: Path, tmp_path: Path, systemctl: Path
) -> None:
    source = made(coordinator, data, tmp_path / "b", RestoreMethod(Method.STOP_RESTORE_START, "app.service"))
    coordinator.on_call["set-file-restore-status"] = lambda session: (systemctl / "broken").touch()
    report = restore(source)
    assert report.components[0].status == ALL and not report.succeeded
    assert report.problems == ["after the restore service app.service does not start: Job for app.service failed."]


def test_the_service_is_started_whatever_happens(coordinator: Any, data: Path, tmp_path: Path, systemctl: Path) -> None:
    source = made(coordinator, data, tmp_path / "b", RestoreMethod(Method.STOP_RESTORE_START, "app.service"))
    coordinator.die_on = "set-file-restore-status"
    with pytest.raises(VssError, match="during set-file-restore-status"):
        restore(source)
    assert (systemctl / "log").read_text().splitlines() == ["stop app.service", "start app.service"]


@pytest.mark.parametrize("name", ["", "--now", "a b", "x;reboot"])
def test_what_is_no_unit_is_no_argument_either(
    coordinator: Any, data: Path, tmp_path: Path, systemctl: Path, name: str
) -> None:
    source = made(coordinator, data, tmp_path / "b", RestoreMethod(Method.STOP_RESTORE_START, name))
    report = restore(source)
    assert "is no name of a unit" in report.components[0].reason and not (systemctl / "log").exists()


# ---- at the next boot ----


@pytest.mark.vss(77)
def test_files_take_their_places_at_the_next_boot(
    coordinator: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = made(coordinator, data, tmp_path / "b", RestoreMethod(Method.RESTORE_AT_REBOOT))
    arrange(data, "half")
    (data / "app/stale").write_bytes(b"stale")
    report = restore(source)
    assert report.succeeded and report.components[0].at_reboot and report.reboot_required
    assert coordinator.restore_status() == {"app": ALL}
    assert not (data / "app/one").exists() and (data / "app/two").read_bytes() == b"now"
    second = BackupJob(str(tmp_path / "second"), Choice()).run()
    assert second.files == 2, "what waits is nobody's file"
    assert main(["restore-pending", "--list"]) == 0
    assert capsys.readouterr().out == f"SQLite Writer: app from {source}, 2 files\n"
    assert main(["restore-pending"]) == 0
    assert sorted(path.name for path in (data / "app").iterdir()) == ["one", "two"]
    assert (data / "app/one").read_bytes() == (data / "app/two").read_bytes() == b"then"
    assert PendingList(coordinator.paths.pending).records() == []


@pytest.mark.vss(77)
def test_what_was_interrupted_is_finished_and_what_is_not_mounted_waits(
    coordinator: Any, data: Path, tmp_path: Path
) -> None:
    source = made(coordinator, data, tmp_path / "b", RestoreMethod(Method.RESTORE_AT_REBOOT))
    arrange(data, "there")
    restore(source)
    waiting = PendingList(coordinator.paths.pending)
    ((_, record),) = waiting.records()
    os.rename(record.swaps[0].temporary, record.swaps[0].destination)  # as far as a first attempt came
    (data / "app").rename(data / "away")
    ((_, trouble),) = waiting.carry_out()
    assert "is not there; mount its file system" in trouble and len(waiting.records()) == 1
    (data / "away").rename(data / "app")
    ((_, trouble),) = waiting.carry_out()
    assert trouble == "" and waiting.records() == []
    assert {path.name: path.read_bytes() for path in (data / "app").iterdir()} == {"one": b"then", "two": b"then"}


def test_a_later_restore_takes_the_place_of_what_waits(coordinator: Any, data: Path, tmp_path: Path) -> None:
    source = made(coordinator, data, tmp_path / "b", RestoreMethod(Method.RESTORE_AT_REBOOT))
    arrange(data, "there")
    for _ in range(2):
        assert restore(source).succeeded
    waiting = PendingList(coordinator.paths.pending)
    assert len(waiting.records()) == 1 and len(list((data / "app").iterdir())) == 4
    waiting.cancel()
    assert waiting.records() == [] and sorted(path.name for path in (data / "app").iterdir()) == ["one", "two"]
