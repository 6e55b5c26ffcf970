"""Requesters that want to make a set at the same time: their order, what they are told, and holders that die."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from shadowset.daemon.creation import CreationQueue, Turn
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Context

HOLDER = """
from shadowset.requester.backup_components import BackupComponents
from shadowset.vss.codes import VssError
calls = BackupComponents(client="Holder")
calls.initialize_for_backup()
calls.set_context(0x10)
calls.start_snapshot_set()
print("ready", flush=True)
input()
try:
    calls.add_to_snapshot_set("one")
except VssError as error:
    print(error, flush=True)
"""


@pytest.fixture
def holder(host: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that has the turn and does nothing with it."""
    host.start("--limit", "creation_idle_ms=3000")
    host.volume("one")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], env=host.environment(), stdin=-1, stdout=-1, stderr=-1, text=True
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def begin(host: Any) -> Any:
    requester = host.requester()
    requester.call(rp.InitializeForBackup)
    requester.call(rp.SetContext, Context.FILE_SHARE_BACKUP)
    return requester


def waiting(host: Any, wait_ms: int = 60_000) -> tuple[Any, int]:
    """A requester that stands in the queue, and the number of its call."""
    requester = begin(host)
    seq = requester.send(rp.StartSnapshotSet, wait_ms=wait_ms)
    requester.places(1)
    return requester, seq


def cut(requester: Any, seq: int, *volumes: str) -> rp.SetRecord:
    assert seq == 0 or requester.result(seq, rp.StartSnapshotSet)
    for volume in volumes:
        requester.call(rp.AddToSnapshotSet, volume)
    return requester.call(rp.DoSnapshotSet)  # type: ignore[no-any-return]


def test_ten_requesters_on_two_volumes_all_succeed_in_their_order(host: Any) -> None:
    host.start()
    host.volume("one")
    host.volume("two", "xfs")
    first = begin(host)
    first.call(rp.StartSnapshotSet)
    queue = [waiting(host) for _ in range(9)]
    records = [cut(first, 0, "one", "two")]
    records += [cut(*each, "one", "two") for each in queue]
    assert sorted(records, key=lambda record: record.created_ns) == records
    assert all(len(record.snapshots) == 2 for record in records)
    for number, (requester, _) in enumerate(queue, 1):
        assert requester.places(number) == list(range(number, 0, -1))
        assert "[pid " in requester.notices[0].text


def test_whoever_waits_in_vain_is_told_who_is_in_the_way(host: Any, holder: Any) -> None:
    for wait_ms in (0, 50):
        requester = begin(host)
        with pytest.raises(VssError) as caught:
            requester.call(rp.StartSnapshotSet, wait_ms=wait_ms)
        assert caught.value.code == Code.VSS_E_SNAPSHOT_SET_IN_PROGRESS
        assert re.search(rf"by Holder \[pid {holder.pid}\], since 20\d\d-", caught.value.message)


def test_who_goes_away_leaves_the_queue(host: Any, holder: Any) -> None:
    (dies, _), (cancels, call), (aborts, other), (last, seq) = [waiting(host) for _ in range(4)]
    dies.close()
    cancels.call(rp.Cancel, call)
    with pytest.raises(VssError) as caught:
        cancels.result(call, rp.StartSnapshotSet)
    assert caught.value.code == Code.VSS_S_ASYNC_CANCELLED
    aborts.call(rp.AbortBackup)
    with pytest.raises(VssError):
        aborts.result(other, rp.StartSnapshotSet)
    assert last.places(4) == [4, 3, 2, 1]
    holder.kill()
    assert cut(last, seq, "one").snapshots


def test_a_holder_that_hangs_loses_its_turn_and_is_told(host: Any, holder: Any) -> None:
    holder.send_signal(signal.SIGSTOP)
    assert cut(*waiting(host), "one").snapshots
    holder.send_signal(signal.SIGCONT)
    told, _ = holder.communicate("go on\n", timeout=60)
    assert re.search(r"Holder \[pid \d+\] made no call for 3 s .* open a new connection", told), told
    assert any(event.name == "backup-aborted" for event in host.requester().call(rp.ListEvents))


def test_the_turn_that_comes_with_the_cancellation_goes_on_to_the_next() -> None:
    async def meet() -> None:
        queue = CreationQueue()
        turns = [Turn(str(number), f"set {number}", "somebody") for number in range(3)]
        await queue.take(turns[0], 0)
        second, third = (asyncio.ensure_future(queue.take(turn, 60_000)) for turn in turns[1:])
        await asyncio.sleep(0)
        queue.leave("0")
        assert queue.holds("1")
        second.cancel()
        await asyncio.gather(second, third, return_exceptions=True)
        assert second.cancelled() and queue.holds("2")

    asyncio.run(meet())
