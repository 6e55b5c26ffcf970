"""The calls that the Windows tools make, in their order, and what is left when one of them fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.windows import diskshadow, vshadow, vssadmin
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Failure
from shadowset.vss.documents.bundle import open_bundle
from shadowset.vss.enums import BackupType, WriterState

BACKUP = [
    "initialize-for-backup",
    "set-context",
    "set-backup-state",
    "gather-writer-metadata",
    "add-component",
    "add-component",
    "start-snapshot-set",
    "add-to-snapshot-set",
    "prepare-for-backup",
    "do-snapshot-set",
]
WRITER = "{11111111-0000-0000-0000-000000000001}"


def session_of(coordinator: Any, *names: str) -> list[str]:
    """The calls that make and complete sets, without those that only ask."""
    asked = {"hello", "volume-list", "is-volume-supported", "save-as-xml", "gather-writer-status", *names}
    return [name for name in coordinator.names() if name not in asked]


def state(coordinator: Any) -> rp.SetBackupState:
    return next(call for call in coordinator.calls if isinstance(call, rp.SetBackupState))


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., int]:
    """Run lines of diskshadow's language from a file."""

    def running(*lines: str) -> int:
        (tmp_path / "script.dsh").write_text("\n".join(lines))
        return diskshadow.main(["/s", str(tmp_path / "script.dsh")])

    return running


@pytest.mark.vss(128)
def test_a_full_backup_of_diskshadow(coordinator: Any, data: Path, script: Any, tmp_path: Path) -> None:
    metadata = tmp_path / "kept.cab"
    assert script(f"set metadata {metadata}", "begin backup", "add volume data", "create", "end backup") == 0
    expected = ["initialize-for-backup", *BACKUP, "set-backup-succeeded", "set-backup-succeeded", "backup-complete"]
    assert session_of(coordinator) == expected
    assert state(coordinator).backup_type == BackupType.FULL and state(coordinator).select_components
    members = open_bundle(metadata.read_bytes()).members
    assert [member.entry.name for member in members] == ["BCDocument.xml", "WM0.xml"]
    assert all(component.backup_succeeded for one in members[0].document.writers for component in one.components)


@pytest.mark.vss(128)
def test_a_copy_of_diskshadow_completes_nothing(coordinator: Any, data: Path, script: Any, capsys: Any) -> None:
    assert script("add volume data", "create", "end backup") == 1
    assert session_of(coordinator) == ["initialize-for-backup", *BACKUP]
    assert state(coordinator).backup_type == BackupType.COPY
    assert script("begin backup", "add volume data", "create") == 0
    assert "writers not notified BackupComplete" in capsys.readouterr().out
    assert "backup-complete" not in coordinator.names()


@pytest.mark.parametrize("names", ["SQLite Writer", "sqlite writer", WRITER, f"{WRITER}:\\databases\\orders"])
def test_writers_are_left_out(coordinator: Any, data: Path, script: Any, names: str) -> None:
    assert script(f"writer exclude {names}", "add volume data", "create") == 0
    added = [call.name for call in coordinator.calls if isinstance(call, rp.AddComponent)]
    assert added == (["stock"] if "orders" in names else [])


def test_without_writers_nobody_is_asked(coordinator: Any, data: Path, script: Any, capsys: Any) -> None:
    assert script("set context volatile nowriters", "set metadata x.cab", "add volume data", "create") == 0
    assert session_of(coordinator) == ["initialize-for-backup", *[name for name in BACKUP if name in (
        "initialize-for-backup", "set-context", "set-backup-state", "start-snapshot-set", "add-to-snapshot-set",
        "do-snapshot-set",
    )]]  # fmt: skip
    assert "No documents are saved" in capsys.readouterr().out


def failed_writer(coordinator: Any) -> None:
    """From the cut on the writer has failed."""
    one = coordinator.writers[0]
    failure = Failure(Code.VSS_E_WRITERERROR_TIMEOUT, 0, "too slow")
    coordinator.status[one.instance_id] = rp.WriterStatus(
        one.writer_id, one.instance_id, one.name, WriterState.FAILED_AT_FREEZE, failure
    )


def test_a_writer_to_verify_that_fails_takes_the_set_back(
    coordinator: Any, data: Path, script: Any, capsys: Any
) -> None:
    failed_writer(coordinator)
    assert script("set context persistent", "writer verify SQLite Writer", "add volume data", "create") == 1
    assert "VSS_E_WRITERERROR_TIMEOUT" in capsys.readouterr().err
    assert coordinator.copies == {}


@pytest.mark.vss(129)
def test_a_writer_that_fails_has_not_succeeded(coordinator: Any, data: Path, capsys: Any) -> None:
    failed_writer(coordinator)
    assert vshadow.main(["-p", "data"]) == 1
    told = [call.succeeded for call in coordinator.calls if isinstance(call, rp.SetBackupSucceeded)]
    assert told == [False, False]
    assert "too slow" in capsys.readouterr().err and len(coordinator.copies) == 1


@pytest.mark.vss(129)
def test_vshadow_makes_a_full_backup(coordinator: Any, data: Path, tmp_path: Path) -> None:
    assert vshadow.main([f"-bc={tmp_path / 'bc.xml'}", "data"]) == 0
    assert session_of(coordinator) == [*BACKUP, "set-backup-succeeded", "set-backup-succeeded", "backup-complete"]
    assert state(coordinator).backup_type == BackupType.FULL
    assert (tmp_path / "bc.xml").read_text().count("COMPONENT ") >= 2


@pytest.mark.parametrize("call", ["gather-writer-metadata", "add-component", "start-snapshot-set", "do-snapshot-set"])
@pytest.mark.parametrize("tool", ["vshadow", "diskshadow"])
def test_a_call_that_fails_is_one_sentence_and_the_session_is_over(
    coordinator: Any, data: Path, script: Any, capsys: Any, eventually: Any, call: str, tool: str
) -> None:
    coordinator.fail_on[call] = VssError(Code.VSS_E_PROVIDER_VETO, "not today")
    status = vshadow.main(["-p", "data"]) if tool == "vshadow" else script("add volume data", "create", "list writers")
    assert status == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "Error: not today [VSS_E_PROVIDER_VETO (0x80042306)]"
    assert coordinator.copies == {} and "list-writers" not in coordinator.names()
    assert eventually(lambda: all("closed" in session.done for session in coordinator.sessions))


@pytest.mark.parametrize("tool", ["vshadow", "diskshadow"])
def test_a_set_whose_documents_cannot_be_saved_is_taken_back(
    coordinator: Any, data: Path, script: Any, capsys: Any, tmp_path: Path, tool: str
) -> None:
    place = tmp_path / "nowhere" / "file"
    if tool == "vshadow":
        assert vshadow.main(["-p", f"-bc={place}", "data"]) == 1
    else:
        assert script("set context persistent", f"set metadata {place}", "add volume data", "create") == 1
    assert "cannot be written" in capsys.readouterr().err
    assert coordinator.copies == {}


@pytest.mark.parametrize("call", ["do-snapshot-set", "backup-complete"])
def test_a_coordinator_that_dies_is_one_sentence(coordinator: Any, data: Path, capsys: Any, call: str) -> None:
    coordinator.die_on = call
    assert vshadow.main(["data"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert call in line and "aborted" in line


@pytest.mark.vss(127)
def test_vssadmin_deletes_what_is_asked_for(coordinator: Any, data: Path, monkeypatch: Any, capsys: Any) -> None:
    for _ in range(3):
        assert vssadmin.main(["create", "shadow", "/for=data"]) == 0
    assert [call.context for call in coordinator.calls if isinstance(call, rp.SetContext)] == [0x1D] * 3
    oldest = min(coordinator.copies.values(), key=lambda copy: copy.created_ns)
    assert vssadmin.main(["delete", "shadows", "/for=data", "/oldest", "/quiet"]) == 0
    assert oldest.snapshot_id not in coordinator.copies and len(coordinator.copies) == 2
    capsys.readouterr()
    coordinator.fail_on["delete-snapshots"] = VssError(Code.VSS_E_VOLUME_IN_USE, "it is being read")
    assert vssadmin.main(["delete", "shadows", "/all", "/quiet"]) == 1
    assert "being read" in capsys.readouterr().err and len(coordinator.copies) == 2
