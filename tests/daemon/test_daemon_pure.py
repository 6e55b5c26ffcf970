"""The pure parts: order rules, writer states, limits, the mount table, the catalogue, the document."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowset.daemon import main
from shadowset.daemon.catalogue import Catalogue, VolumeRow
from shadowset.daemon.document import merge_reply
from shadowset.daemon.freeze import freeze_layers
from shadowset.daemon.limits import Limits
from shadowset.daemon.mounts import mount_of_path
from shadowset.daemon.quiet import HoldingHandler
from shadowset.daemon.sequence import Sequence
from shadowset.daemon.volume_checks import check_name
from shadowset.daemon.writer_states import WriterProgress
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component, Failure, WriterComponents
from shadowset.vss.enums import ComponentType, Context, SnapshotState, WriterEvent, WriterState
from shadowset.vss.mountinfo import Mount, parse_mountinfo
from shadowset.vss.provider import ALLOWED_CODES, translated

# ---- order of calls ----

CALLS = list(get_args(rp.ToCoordinator))


def make(kind: Any, **named: Any) -> Any:
    """A call of a kind, with something in every field that must be given."""
    values = {field.name: _value(field.type) for field in msgspec.structs.fields(kind) if field.required}
    return kind(**{**values, **named})


def _value(kind: Any) -> Any:
    if kind is str:
        return "x"
    if kind is bool:
        return True
    if kind is int:
        return 0
    if getattr(kind, "__origin__", None) is list:
        return []
    return next(iter(kind))


def ran(*calls: Any) -> Sequence:
    sequence = Sequence()
    for call in (rp.ServiceHello(0), *calls):
        sequence.check(call)
        sequence.done(call)
    return sequence


def refused(sequence: Sequence, call: Any) -> str:
    with pytest.raises(VssError) as caught:
        sequence.check(call)
    assert caught.value.code == Code.VSS_E_BAD_STATE
    return caught.value.message


@pytest.mark.vss(1)
@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(CALLS), max_size=40), st.sampled_from(list(Context)))
def test_any_order_is_taken_or_refused_with_bad_state(kinds: list[Any], context: Context) -> None:
    sequence = Sequence()
    for kind in kinds:
        call = make(kind, context=int(context)) if kind is rp.SetContext else make(kind)
        try:
            sequence.check(call)
        except VssError as error:
            assert error.code == Code.VSS_E_BAD_STATE and len(error.message) > 20
        else:
            sequence.done(call)
        assert not (sequence.has(rp.DoSnapshotSet) and not sequence.has(rp.StartSnapshotSet))
        assert not (sequence.has(rp.PrepareForBackup) and not sequence.has(rp.SetBackupState, rp.StartSnapshotSet))
        assert not (sequence.has(rp.PostRestore) and not sequence.has(rp.PreRestore))
        assert not sequence.has(rp.InitializeForBackup, rp.InitializeForRestore)


BACKUP = [
    rp.InitializeForBackup,
    rp.SetBackupState,
    rp.GatherWriterMetadata,
    rp.AddComponent,
    rp.StartSnapshotSet,
    rp.AddToSnapshotSet,
    rp.SetBackupOptions,
    rp.PrepareForBackup,
    rp.GatherWriterStatus,
    rp.DoSnapshotSet,
    rp.SetBackupSucceeded,
    rp.BackupComplete,
    rp.SaveAsXml,
    rp.AbortBackup,
]


def test_the_whole_backup_in_order() -> None:
    assert not ran(*map(make, BACKUP)).aborted


@pytest.mark.vss(5)
@pytest.mark.parametrize(
    ("done", "call", "word"),
    [
        (0, rp.SetContext, "initialize-for-backup"),
        (2, rp.AddComponent, "gather-writer-metadata"),
        (2, rp.StartSnapshotSet, "gather-writer-metadata"),
        (3, rp.GatherWriterMetadata, "only once"),
        (3, rp.EnableWriterClasses, "before gather-writer-metadata"),
        (5, rp.AddComponent, "before start-snapshot-set"),
        (5, rp.SetContext, "before start-snapshot-set"),
        (5, rp.DoSnapshotSet, "after prepare-for-backup"),
        (5, rp.SaveAsXml, "after prepare-for-backup"),
        (8, rp.SetBackupState, "before prepare-for-backup"),
        (8, rp.SetBackupOptions, "before prepare-for-backup"),
        (8, rp.SetBackupSucceeded, "after do-snapshot-set"),
        (8, rp.BackupComplete, "after do-snapshot-set"),
        (10, rp.DoSnapshotSet, "only once"),
        (10, rp.AddToSnapshotSet, "before do-snapshot-set"),
        (12, rp.SetBackupSucceeded, "before backup-complete"),
        (12, rp.PreRestore, "initialize-for-restore"),
        (12, rp.InitializeForBackup, "already carries"),
        (12, rp.ServiceHello, "only once"),
    ],
)
def test_calls_out_of_order_say_what_is_missing(done: int, call: Any, word: str) -> None:
    assert word in refused(ran(*map(make, BACKUP[:done])), make(call))


def test_contexts_without_writers() -> None:
    sequence = ran(make(rp.InitializeForBackup), make(rp.SetContext, context=int(Context.NAS_ROLLBACK)))
    for call in (rp.AddComponent, rp.PrepareForBackup, rp.BackupComplete):
        assert "without writers" in refused(sequence, make(call))
    for call in map(make, (rp.StartSnapshotSet, rp.AddToSnapshotSet, rp.DoSnapshotSet, rp.SaveAsXml)):
        sequence.check(call)
        sequence.done(call)


def test_after_an_abort_or_a_failure() -> None:
    sequence = ran(*map(make, BACKUP[:8]), make(rp.AbortBackup))
    assert "abort-backup" in refused(sequence, make(rp.DoSnapshotSet))
    sequence.check(make(rp.AbortBackup))
    sequence = ran(*map(make, BACKUP[:8]))
    sequence.set_failed()
    assert "has failed" in refused(sequence, make(rp.DoSnapshotSet))
    sequence.check(make(rp.GatherWriterStatus))


def test_restore_in_order_and_out_of_it() -> None:
    begun = [rp.InitializeForRestore, rp.SetRestoreState]
    assert "gather" in refused(ran(*map(make, begun)), make(rp.SetSelectedForRestore))
    wishes = (rp.AddNewTarget, rp.SetRangesFilePath, rp.SetAuthoritativeRestore, rp.SetRestoreName, rp.SetRollForward)
    for call in (rp.SetRestoreOptions, rp.SetAdditionalRestores, rp.SetSelectedForRestoreEx, *wishes):
        assert "after gather-writer-metadata" in refused(ran(*map(make, begun)), make(call))
    begun += [rp.GatherWriterMetadata, rp.SetSelectedForRestore, rp.SetRestoreOptions, rp.SetAdditionalRestores]
    assert "after pre-restore" in refused(ran(*map(make, begun)), make(rp.PostRestore))
    begun += [rp.PreRestore, rp.SetFileRestoreStatus]
    for call in (rp.SetRestoreOptions, rp.SetSelectedForRestoreEx, *wishes):
        assert "before pre-restore" in refused(ran(*map(make, begun)), make(call))
    begun += [rp.PostRestore]
    assert "before post-restore" in refused(ran(*map(make, begun)), make(rp.SetFileRestoreStatus))


# ---- writer states ----

EVENTS = list(WriterEvent)
OK_PATH = [
    (WriterEvent.PREPARE_BACKUP, WriterState.STABLE),
    (WriterEvent.PREPARE_SNAPSHOT, WriterState.WAITING_FOR_FREEZE),
    (WriterEvent.FREEZE, WriterState.WAITING_FOR_THAW),
    (WriterEvent.THAW, WriterState.WAITING_FOR_POST_SNAPSHOT),
    (WriterEvent.POST_SNAPSHOT, WriterState.WAITING_FOR_BACKUP_COMPLETE),
    (WriterEvent.BACKUP_COMPLETE, WriterState.STABLE),
]


def test_states_of_a_backup_that_goes_well() -> None:
    progress = WriterProgress()
    for event, state in OK_PATH:
        assert progress.takes(event)
        progress.sent(event)
        progress.succeed(event)
        assert progress.state is state


@pytest.mark.parametrize("at", range(len(OK_PATH)))
@pytest.mark.parametrize("veto", [True, False])
def test_a_failure_stays_and_a_veto_ends_taking_part(at: int, veto: bool) -> None:
    progress = WriterProgress()
    for event, _ in OK_PATH[:at]:
        progress.succeed(event)
    event = OK_PATH[at][0]
    progress.fail(event, Failure(1, 2, "first"), veto)
    assert progress.state.name == "FAILED_AT_" + event.name
    for later, _ in OK_PATH[at + 1 :]:
        assert progress.takes(later) is not veto
        progress.succeed(later)
    progress.fail(WriterEvent.BACKUP_SHUTDOWN, Failure(3), True)
    assert progress.failure == Failure(1, 2, "first")
    assert progress.takes(WriterEvent.ABORT) and progress.takes(WriterEvent.BACKUP_SHUTDOWN)


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.booleans(), st.booleans())))
def test_no_sequence_of_outcomes_leaves_the_table(steps: list[tuple[WriterEvent, bool, bool]]) -> None:
    progress = WriterProgress()
    for event, ok, veto in steps:
        before = progress.reached
        progress.sent(event)
        if ok:
            progress.succeed(event)
        else:
            progress.fail(event, Failure(1), veto)
        assert progress.reached in list(WriterState)[1:6]
        if event is WriterEvent.ABORT:
            assert progress.reached is WriterState.STABLE
        elif not ok and veto and event is not WriterEvent.BACKUP_SHUTDOWN:
            assert progress.reached is before


# ---- small things ----


def test_limits_from_options() -> None:
    limits = Limits.from_options(["hold_ms=5"], ["ABC=7"])
    assert limits.hold_ms == 5 and limits.window("abc", 60_000) == 7 and limits.window("x", 0, 20_000) == 20_000
    assert limits.of(WriterEvent.POST_RESTORE) == limits.restore_ms
    assert all(limits.of(event) > 0 for event in WriterEvent)
    for bad in ("hold_ms", "hold_ms=0", "hold_ms=-1", "hold=1", "writer_windows=1"):
        with pytest.raises(VssError):
            Limits.from_options([bad])


def test_the_mount_table() -> None:
    text = (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "40 22 7:0 / /a\\040b rw,relatime shared:1 - xfs /dev/loop0 rw\n"
        "41 40 7:1 / /a\\040b/in rw - ext4 /dev/loop1 rw\n"
        "nonsense\n"
    )
    table = parse_mountinfo(text)
    assert [mount.path for mount in table] == ["/", "/a b", "/a b/in"]
    found = mount_of_path("/a b/in/file", table)
    assert isinstance(found, Mount) and found.device == "7:1"
    assert mount_of_path("/a bc", table) == table[0]
    assert freeze_layers(["/", "/a b", "/a b/in", "/z"]) == [["/a b/in"], ["/a b", "/z"], ["/"]]


def test_umlauts_in_mount_points() -> None:
    table = parse_mountinfo("1 1 8:1 / /mit\\040ü rw - ext4 /dev/sda1 rw")
    assert table[0].path == "/mit ü"


def test_names_of_volumes() -> None:
    for good in ("a", "A1", "x.y_z-0", "a" * 64):
        check_name(good)
    for bad in ("", ".a", "-a", "a/b", "a b", "a" * 65, "a\n", ".."):
        with pytest.raises(VssError, match="not a volume name"):
            check_name(bad)


def test_codes_that_no_provider_may_return() -> None:
    for code in Code:
        error = translated(VssError(code, "why"), "vol")
        assert error.code in ALLOWED_CODES and "why" in error.message


def test_writers_change_only_what_is_theirs() -> None:
    entry = WriterComponents("w", "i", components=[Component(ComponentType.FILEGROUP, "", "a", backup_options="mine")])
    theirs = Component(ComponentType.FILEGROUP, "", "a", backup_succeeded=True, backup_stamp="s", backup_options="no")
    foreign = merge_reply(entry, [theirs, Component(ComponentType.FILEGROUP, "x", "b")])
    assert foreign == ["x\\b"]
    ours = entry.components[0]
    assert (ours.backup_stamp, ours.backup_options, ours.backup_succeeded) == ("s", "mine", False)


def test_log_lines_wait_while_nothing_may_be_written() -> None:
    lines: list[str] = []
    target = logging.Handler()
    target.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    handler = HoldingHandler(target)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.error("one")
    handler.hold()
    logger.error("two")
    assert lines == ["one"]
    handler.let_go()
    logger.error("three")
    assert lines == ["one", "two", "three"]


# ---- the catalogue ----


def record(set_id: str, status: SnapshotState, created_ns: int = 1) -> rp.SetRecord:
    copy = rp.SnapshotProperties(
        f"copy-{set_id}", set_id, 1, "/d", "vol", "m", "m", "", "", "p", 0, created_ns, status, 1, 1, created_ns, []
    )
    return rp.SetRecord(set_id, "s", created_ns, 0, status, 0.0, [copy], [], [], [])


def test_the_catalogue_survives_closing(tmp_path: Path) -> None:
    path = str(tmp_path / "catalogue.db")
    catalogue = Catalogue(path)
    row = VolumeRow("vol", "/o", "/s", 16384, True, "fuse", "/dev/loop7")
    catalogue.put_volume(row)
    assert catalogue.next_device_numbers(2) == [1, 2]
    catalogue.put_set(record("a", SnapshotState.CREATED))
    catalogue.put_set(record("b", SnapshotState.ABORTED))
    catalogue.add_event("set-created", "text", "vol", "a")
    catalogue.close()
    catalogue = Catalogue(path)
    assert catalogue.volumes() == [row]
    assert catalogue.next_device_numbers(1) == [3]
    assert catalogue.is_created("a") and not catalogue.is_created("b") and not catalogue.is_created("c")
    assert [copy.snapshot_id for copy in catalogue.snapshots()] == ["copy-a"]
    catalogue.mark_deleting(["copy-a"])
    assert catalogue.snapshots() == [] and catalogue.deleting("vol") == ["copy-a"]
    catalogue.forget_snapshot("copy-a")
    assert catalogue.deleting("vol") == []
    assert [(event.id, event.name) for event in catalogue.events()] == [(1, "set-created")]
    assert catalogue.events(1) == []


def test_failed_sets_do_not_pile_up(tmp_path: Path) -> None:
    catalogue = Catalogue(str(tmp_path / "catalogue.db"))
    catalogue.put_set(record("kept", SnapshotState.CREATED))
    for number in range(120):
        catalogue.put_set(record(str(number), SnapshotState.ABORTED, number))
    assert catalogue.set_record("0") is None and catalogue.set_record("119") and catalogue.set_record("kept")


def test_a_newer_catalogue_is_refused_by_name(tmp_path: Path) -> None:
    path = str(tmp_path / "catalogue.db")
    Catalogue(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(VssError, match=r"catalogue\.db has schema version 99"):
        Catalogue(path)


def test_a_damaged_catalogue_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    path.write_bytes(b"this is not a data base" * 100)
    with pytest.raises(VssError, match="cannot be used"):
        Catalogue(str(path))


def test_the_coordinator_needs_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(main.WITHOUT_ROOT, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main.main([]) == 1
    told = capsys.readouterr().err
    assert "run it as root" in told and len(told.splitlines()) == 1
