"""Chains of backups, restored in order, with the test writer as a data base that applies what it is given."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.plan import Choice, parse_selector
from shadowset.requester.restore.engine import RestoreJob
from shadowset.requester.restore.extract import extracted
from shadowset.requester.restore.step import RestoreStep
from shadowset.requester.restore.verify import verify
from shadowset.requester.restore.wishes import Relocation, Wishes
from shadowset.vss.codes import VssError
from shadowset.vss.enums import BackupType, FileRestoreStatus, WriterEvent

FULL, INCREMENTAL, DIFFERENTIAL, LOG = (
    BackupType.FULL, BackupType.INCREMENTAL, BackupType.DIFFERENTIAL, BackupType.LOG,
)  # fmt: skip
WRITER = """
supports_incremental = true
supports_differential = true
supports_log = true
[restore_method]
method = "RESTORE_IF_CAN_REPLACE"
[[component]]
component_type = "database"
component_name = "db"
stamps = true
component_file = [
    { path = "{data}", filespec = "*.db", inc_backup_required = false, diff_backup_required = false, {live} },
    { path = "{data}", filespec = "*.log", log_file = true, {live} },
]
differenced_file = [{ path = "{data}", filespec = "*.db", since = 0 }]
"""


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def lose_all(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def listen(writer: Any) -> list[tuple[str, str, bool, dict[str, bytes]]]:
    """Pre-restore and post-restore as the writer hears them: event, stamp, whether more comes, files then."""
    heard: list[tuple[str, str, bool, dict[str, bytes]]] = []
    original = writer.handle

    def handle(event: Any) -> Any:
        if event.event in (WriterEvent.PRE_RESTORE, WriterEvent.POST_RESTORE):
            component = event.components[0]
            place = Path(writer.settings.components[0].info.database_files[0].path)
            heard.append((event.event.value, component.backup_stamp, component.additional_restores, contents(place)))
        return original(event)

    writer.handle = handle
    return heard


def make(service: Any, name: str, kind: BackupType, base: str = "") -> dict[str, bytes]:
    """A backup, and what there was at its time."""
    there = contents(service.data)
    assert service.backup(name, Choice(kind, base=str(service.directory / base) if base else "")).succeeded
    return there


@pytest.mark.vss(59, 76)
def test_three_increments_come_back_in_order(service: Any) -> None:
    writer = service.writer(WRITER)
    for name in ("a.db", "b.db", "c.db"):
        (service.data / name).write_bytes(name.encode())
    then = [make(service, "0", FULL)]
    (service.data / "a.db").write_bytes(b"a, second")
    then.append(make(service, "1", INCREMENTAL, "0"))
    (service.data / "b.db").unlink()
    (service.data / "d.db").write_bytes(b"d")
    then.append(make(service, "2", INCREMENTAL, "1"))
    (service.data / "a.db").write_bytes(b"a, third")
    (service.data / "b.db").write_bytes(b"b again")
    then.append(make(service, "3", INCREMENTAL, "2"))
    for number, expected in enumerate(then):
        for name, content in expected.items():
            with extracted(str(service.directory / str(number)), f"{service.data}/{name}") as source:
                assert os.read(source, 100) == content
        if "b.db" not in expected:
            with (
                pytest.raises(VssError, match="is in no component of"),
                extracted(str(service.directory / str(number)), f"{service.data}/b.db"),
            ):
                pass
    heard = listen(writer)
    for number, expected in enumerate(then):
        lose_all(service.data)
        (service.data / "stale.db").write_bytes(b"newer than all of them")
        del heard[:]
        report = service.restore(str(number))
        assert report.succeeded, report
        assert contents(service.data) == expected
        assert [more for event, _, more, _ in heard if event == "post-restore"] == [True] * number + [False]
        stamps = [stamp for event, stamp, _, _ in heard if event == "pre-restore"]
        assert stamps == sorted(stamps) and len(set(stamps)) == number + 1
        assert heard[-1][3] == expected and heard[1][3] == then[0], (
            "each backup is in place when its writer hears of it"
        )
        assert report.components[0].backups == number + 1
        assert verify(str(service.directory / str(number)), restored=True).differences == []


@pytest.mark.vss(58, 76)
def test_logs_roll_forward_from_a_differential_backup(service: Any) -> None:
    writer = service.writer(WRITER)
    (service.data / "a.db").write_bytes(b"a")
    (service.data / "1.log").write_bytes(b"1")
    make(service, "full", FULL)
    (service.data / "a.db").write_bytes(b"a, later")
    make(service, "diff", DIFFERENTIAL, "full")
    (service.data / "1.log").unlink()
    (service.data / "2.log").write_bytes(b"2")
    (service.data / "a.db").write_bytes(b"only in memory, as it were")
    make(service, "log", LOG, "diff")
    heard = listen(writer)
    lose_all(service.data)
    assert service.restore("log").succeeded
    assert contents(service.data) == {"a.db": b"a, later", "1.log": b"1", "2.log": b"2"}
    assert [more for event, _, more, _ in heard if event == "pre-restore"] == [True, True, False]


@pytest.mark.vss(68)
def test_two_requesters_have_a_chain_each(service: Any) -> None:
    service.writer(WRITER)
    (service.data / "a.db").write_bytes(b"0")
    then = {"mine0": make(service, "mine0", FULL)}
    (service.data / "a.db").write_bytes(b"1")
    then["theirs0"] = make(service, "theirs0", FULL)
    (service.data / "b.db").write_bytes(b"2")
    then["mine1"] = make(service, "mine1", INCREMENTAL, "mine0")
    (service.data / "c.db").write_bytes(b"3")
    then["theirs1"] = make(service, "theirs1", INCREMENTAL, "theirs0")
    (service.data / "a.db").write_bytes(b"4")
    then["mine2"] = make(service, "mine2", INCREMENTAL, "mine1")
    taken = [file.path for file in bundle.load(str(service.directory / "mine1")).files if file.kind == "file"]
    assert str(service.data / "a.db") in taken, "their full backup in between does not hide the change"
    for name, expected in then.items():
        lose_all(service.data)
        assert service.restore(name).succeeded and contents(service.data) == expected


def test_a_chain_into_a_directory(service: Any) -> None:
    service.writer(WRITER)
    for name in ("a.db", "b.db"):
        (service.data / name).write_bytes(name.encode())
    make(service, "full", FULL)
    (service.data / "a.db").write_bytes(b"later")
    (service.data / "b.db").unlink()
    expected = make(service, "one", INCREMENTAL, "full")
    job = RestoreJob(str(service.directory / "one"), paths=service.paths)
    assert job.run_to(str(service.directory / "look")).succeeded
    assert contents(Path(f"{service.directory}/look{service.data}")) == expected


def test_chains_may_move_but_not_break(service: Any, tmp_path: Path) -> None:
    service.writer(WRITER)
    (service.data / "a.db").write_bytes(b"a")
    make(service, "full", FULL)
    expected = make(service, "one", INCREMENTAL, "full")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("full", "one"):
        shutil.move(service.directory / name, elsewhere / name)
    lose_all(service.data)
    assert service.restore("elsewhere/one").succeeded and contents(service.data) == expected
    stored = next(file.stored for file in bundle.load(str(elsewhere / "full")).files if file.stored)
    (elsewhere / "full" / stored).write_bytes(b"b")
    with pytest.raises(VssError, match="was altered after the backup"):
        service.restore("elsewhere/one")
    shutil.rmtree(elsewhere / "full")
    with pytest.raises(VssError, match=r"builds on the full backup of set .*bring it back"):
        service.restore("elsewhere/one")
    lose_all(service.data)
    make(service, "full", FULL)
    with pytest.raises(VssError, match="bring it back"):
        service.restore("elsewhere/one")
    assert contents(service.data) == {}


def test_a_component_that_fails_stops_there(service: Any) -> None:
    refusing = '[[action]]\nwriter_event = "PreRestore"\ntimes = 1\ncode = "VSS_E_WRITERERROR_RETRYABLE"\n'
    service.writer(WRITER + refusing)
    (service.data / "a.db").write_bytes(b"a")
    make(service, "full", FULL)
    make(service, "one", INCREMENTAL, "full")
    (service.data / "a.db").write_bytes(b"newer")
    report = service.restore("one", wanted=(parse_selector("Test Writer:db"),))
    assert report.components[0].status == FileRestoreStatus.NONE and "the writer to fail" in report.components[0].reason
    assert (service.data / "a.db").read_bytes() == b"newer"


def test_a_chain_goes_to_new_targets_as_a_whole(service: Any) -> None:
    service.writer(WRITER)
    for name in ("a.db", "b.db"):
        (service.data / name).write_bytes(name.encode())
    make(service, "full", FULL)
    (service.data / "a.db").write_bytes(b"later")
    expected = make(service, "one", INCREMENTAL, "full")
    lose_all(service.data)
    new = service.directory / "new"
    moved = Wishes(relocations=(Relocation(parse_selector("Test Writer"), str(service.data), str(new)),))
    report = service.restore("one", wishes=moved)
    assert report.succeeded, report
    assert contents(new) == expected and contents(service.data) == {}


def test_a_writer_that_goes_between_two_backups_of_a_chain(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = service.writer(WRITER)
    (service.data / "a.db").write_bytes(b"a")
    make(service, "full", FULL)
    (service.data / "a.db").write_bytes(b"later")
    make(service, "one", INCREMENTAL, "full")
    real = RestoreStep.run

    def run(step: RestoreStep) -> Any:
        results = real(step)
        service.stop(writer)
        return results

    monkeypatch.setattr(RestoreStep, "run", run)
    report = service.restore("one")
    assert not report.succeeded and report.components[0].status == FileRestoreStatus.FAILED
    assert f"{service.directory}/one: writer Test Writer does not run" in report.components[0].reason
    assert contents(service.data) == {"a.db": b"a"}


SET = """
[restore_method]
method = "RESTORE_IF_CAN_REPLACE"
[[component]]
component_type = "filegroup"
component_name = "all"
[[component]]
component_type = "filegroup"
logical_path = "all"
component_name = "one"
selectable = false
selectable_for_restore = true
component_file = [{ path = "{data}/one", filespec = "*", {live} }]
[[component]]
component_type = "filegroup"
logical_path = "all"
component_name = "two"
selectable = false
selectable_for_restore = true
component_file = [{ path = "{data}/two", filespec = "*", {live} }]
"""


def test_two_members_of_a_set_are_one_component_to_the_writer(service: Any) -> None:
    writer = service.writer(SET)
    for name in ("one", "two"):
        (service.data / name).mkdir()
        (service.data / name / "file").write_bytes(b"then")
    assert service.backup("b").succeeded
    (service.data / "two/file").unlink()
    (service.data / "two/file").mkdir()
    heard = []
    original = writer.handle

    def handle(event: Any) -> Any:
        if event.event in (WriterEvent.PRE_RESTORE, WriterEvent.POST_RESTORE):
            heard.append(event.components[0])
        return original(event)

    writer.handle = handle
    who = parse_selector("Test Writer:all")
    members = tuple(parse_selector(f"Test Writer:all/{name}") for name in ("one", "two"))
    report = service.restore("b", wanted=members, wishes=Wishes(options=((who, '"X"="1"'),)))
    assert [each.status for each in report.components] == [FileRestoreStatus.ALL, FileRestoreStatus.NONE]
    assert [each.name for each in heard[0].restore_subcomponents] == ["one", "two"]
    assert heard[0].restore_options == '"X"="1"' and heard[1].file_restore_status == FileRestoreStatus.FAILED
