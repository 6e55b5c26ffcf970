"""Two requesters at once, with a front-end and a back-end writer: one dies, and the backup of the other is right."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from shadowset.vss import requester_protocol as rp
from shadowset.vss import writer_protocol as wp
from shadowset.vss.enums import BackupType, ComponentType, Level, SnapshotState, WriterState

EVENTS = ["identify", "prepare-backup", "prepare-snapshot", "freeze", "thaw", "post-snapshot", "backup-complete"]


class Stop:
    """Keeps a writer in one event of one session until it may go on."""

    def __init__(self, writer: Any, phase: str, session: str) -> None:
        self.reached, self.leave = threading.Event(), threading.Event()
        self._writer, self._session = writer, session
        writer.on = {phase: self._handle}

    def _handle(self, event: wp.Event) -> wp.Reply:
        if event.session == self._session:
            self.reached.set()
            self.leave.wait(30)
        reply: wp.Reply = self._writer.default(event)
        return reply


def stand_in_line(host: Any) -> tuple[Any, str, int]:
    """A backup that waits for its turn: requester, session and the number of its call."""
    requester = host.requester()
    session = requester.call(rp.InitializeForBackup)
    requester.call(rp.SetContext, 0)
    requester.call(rp.SetBackupState, True, False, BackupType.FULL)
    for each in requester.call(rp.GatherWriterMetadata):
        requester.call(rp.AddComponent, each.writer_id, each.instance_id, ComponentType.FILEGROUP, "", "data")
    seq = requester.send(rp.StartSnapshotSet, wait_ms=60_000)
    requester.places(1)
    return requester, session, seq


def told(writer: Any, session: str) -> list[tuple[str, float]]:
    """What a writer was told for a session, and when."""
    pairs = zip(writer.events, list(writer.seen), strict=False)
    return [event for event, message in pairs if message.session == session]


@pytest.mark.parametrize("phase", EVENTS[1:])
@pytest.mark.parametrize("stopped", [0, 1], ids=["front-end", "back-end"])
def test_the_death_of_one_requester_leaves_the_others_backup_right(
    host: Any, backup: Any, phase: str, stopped: int
) -> None:
    host.start()
    host.volume("one")
    writers = [host.writer("Front", Level.FRONT_END), host.writer("Back", Level.BACK_END)]
    dies = backup(["one"])
    requester, session, seq = stand_in_line(host)
    stop = Stop(writers[stopped], phase, dies.session)
    for call in (rp.PrepareForBackup, rp.DoSnapshotSet, rp.BackupComplete):
        dies.requester.send(call)
    assert stop.reached.wait(30), f"the first backup never came to {phase}"
    dies.requester.close()
    stop.leave.set()

    set_id = requester.result(seq, rp.StartSnapshotSet)
    requester.call(rp.AddToSnapshotSet, "one")
    requester.call(rp.PrepareForBackup)
    record = requester.call(rp.DoSnapshotSet)
    requester.call(rp.BackupComplete)
    assert record.set_id == set_id and record.status is SnapshotState.CREATED and len(record.snapshots) == 1
    front, back = (dict(told(writer, session)) for writer in writers)
    assert list(front) == list(back) == EVENTS
    assert front["freeze"] < back["freeze"] and back["thaw"] < front["thaw"]
    assert {each.state for each in requester.call(rp.GatherWriterStatus)} == {WriterState.STABLE}
    host.until(
        lambda: [each.snapshot_set_id for each in host.requester().call(rp.Query)] == [set_id], "the other's copy"
    )
    for writer in writers:
        others = [name for name, _ in told(writer, dies.session)]
        assert "freeze" not in others or {"thaw", "abort"} & set(others), "left frozen by the one that died"
