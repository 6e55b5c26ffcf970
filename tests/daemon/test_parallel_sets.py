"""Sets that share nothing are made side by side, others one after the other; a killed daemon leaves none frozen."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shadowset.daemon.creation import CreationQueue, Footprint, Turn
from shadowset.daemon.guardian_link import remove_journal, thaw_leftovers, write_journal
from shadowset.vss import requester_protocol as rp
from shadowset.vss import writer_protocol as wp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import BackupType, ComponentType, Context, SnapshotState

pytestmark = pytest.mark.host
WAIT_S = 60


def choose(host: Any, writers: list[Any]) -> Any:
    """A backup of one component of each of these writers, up to start-snapshot-set."""
    requester = host.requester()
    requester.call(rp.InitializeForBackup)
    if writers:
        requester.call(rp.SetBackupState, True, False, BackupType.FULL)
        requester.call(rp.GatherWriterMetadata)
    else:
        requester.call(rp.SetContext, Context.FILE_SHARE_BACKUP)
    for each in writers:
        requester.call(rp.AddComponent, each.writer_id, each.instance_id, ComponentType.FILEGROUP, "", "data")
    return requester


def begin(host: Any, writers: list[Any], volumes: list[str]) -> tuple[Any, int]:
    requester = choose(host, writers)
    return requester, requester.send(rp.StartSnapshotSet, volumes=volumes)


def make(requester: Any, seq: int, volumes: list[str], writers: bool = True) -> rp.SetRecord:
    requester.result(seq, rp.StartSnapshotSet)
    for volume in volumes:
        requester.call(rp.AddToSnapshotSet, volume)
    if writers:
        requester.call(rp.PrepareForBackup)
    return requester.call(rp.DoSnapshotSet)  # type: ignore[no-any-return]


@pytest.fixture
def pair(host: Any) -> tuple[str, str]:
    host.start("--limit", "frozen_ms=58000", "--limit", "hold_ms=50000")
    return host.volume("one", "ext4"), host.volume("two", "xfs")


@pytest.mark.vss(20)
def test_two_that_share_nothing_are_frozen_at_the_same_time(host: Any, pair: Any) -> None:
    writers = [host.writer("First"), host.writer("Second")]
    meeting = threading.Barrier(2)

    def freeze(event: wp.Event) -> wp.Reply:
        meeting.wait(WAIT_S)  # only when both are asked at once
        return wp.Reply(event.seq)

    for writer in writers:
        writer.on["freeze"] = freeze
    runs = [begin(host, [writer], [volume]) for writer, volume in zip(writers, ("one", "two"), strict=True)]
    with ThreadPoolExecutor(2) as pool:
        records = list(pool.map(lambda each: make(*each[0], [each[1]]), zip(runs, ("one", "two"), strict=True)))
    assert all(record.status is SnapshotState.CREATED and len(record.snapshots) == 1 for record in records)
    assert not meeting.broken and not any(map(host.is_frozen, pair)) and not os.path.exists(host.paths.frozen)
    for writer in writers:
        sessions = {event.session for event in writer.seen if event.event.value == "freeze"}
        assert len(sessions) == 1, "it took part in the set of another writer"


@pytest.mark.vss(20)
@pytest.mark.parametrize("shared", ["writer", "volume", "undeclared"])
def test_two_that_share_something_wait_for_each_other(host: Any, pair: Any, shared: str) -> None:
    writers = [host.writer("First"), host.writer("Second")]
    under_way, go_on = threading.Event(), threading.Event()
    writers[0].on["freeze"] = lambda e: (under_way.set(), go_on.wait(WAIT_S), wp.Reply(e.seq))[2]
    first, seq = begin(host, writers[:1], ["one"])
    chosen, volumes = {
        "writer": (writers[:1], ["two"]),
        "volume": (writers[1:], ["one"]),
        "undeclared": (writers[1:], []),
    }[shared]
    second = choose(host, chosen)
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(make, first, seq, ["one"])
        assert under_way.wait(WAIT_S)
        with pytest.raises(VssError) as caught:
            second.call(rp.StartSnapshotSet, volumes=volumes)
        assert caught.value.code == Code.VSS_E_SNAPSHOT_SET_IN_PROGRESS
        waits = second.send(rp.StartSnapshotSet, volumes=volumes, wait_ms=WAIT_S * 1000)
        assert second.places(1) == [1] and not making.done()
        go_on.set()
        assert making.result(WAIT_S).status is SnapshotState.CREATED
    assert make(second, waits, volumes or ["two"]).status is SnapshotState.CREATED


def test_a_volume_that_was_not_named_is_refused(host: Any, pair: Any) -> None:
    requester, seq = begin(host, [], ["one"])
    requester.result(seq, rp.StartSnapshotSet)
    with pytest.raises(VssError, match="volume two was not among") as caught:
        requester.call(rp.AddToSnapshotSet, "two")
    assert caught.value.code == Code.VSS_E_BAD_STATE
    with pytest.raises(VssError):
        make(*begin(host, [], ["nowhere"]), [], writers=False)
    host.requester().call(rp.Query)


@pytest.mark.parametrize("guardians_too", [False, True])
def test_killed_with_two_sets_frozen(host: Any, pair: Any, guardians_too: bool) -> None:
    meeting = threading.Barrier(2)  # once one has frozen its file system, the other could come no further than this
    for volume in ("one", "two"):
        writer = host.writer(volume)
        writer.on["freeze"] = lambda event: (meeting.wait(WAIT_S), wp.Reply(event.seq))[1]
        host.faults(volume, hold={"delay": 60, "mark": f"{host.base}/held-{volume}"})
        requester, seq = begin(host, [writer], [volume])
        requester.result(seq, rp.StartSnapshotSet)
        requester.call(rp.AddToSnapshotSet, volume)
        requester.call(rp.PrepareForBackup)
        requester.send(rp.DoSnapshotSet)
    host.until(lambda: all(os.path.exists(f"{host.base}/held-{each}") for each in ("one", "two")), "both to be held")
    assert len(os.listdir(host.paths.frozen)) == 2
    if guardians_too:
        host.process.send_signal(signal.SIGSTOP)
        for pid in host.guardians():
            os.kill(pid, signal.SIGKILL)
    host.kill()
    if not guardians_too:
        host.until(lambda: not any(map(host.is_frozen, pair)), "the guardians to thaw")
    for volume in ("one", "two"):
        host.faults(volume)
    host.start()
    assert not any(map(host.is_frozen, pair)) and not os.path.exists(host.paths.frozen)
    names = [event.name for event in host.requester().call(rp.ListEvents)]
    assert names.count("thawed-leftover") == 2
    for volume in ("one", "two"):
        assert make(*begin(host, [], [volume]), [volume], writers=False).status is SnapshotState.CREATED


def test_journals_of_a_killed_daemon_are_read_whatever_lies_beside_them(tmp_path: Path) -> None:
    directory = tmp_path / "frozen"
    assert thaw_leftovers(str(directory)) == []
    for set_id in ("a", "b"):
        write_journal(str(directory), set_id, [])
    (directory / "c.json").write_text('{"file_systems": [{"path": "/nowhere", "device": "99:99"}]}')
    (directory / "d.json").write_text("rubbish")
    (directory / "e.json.new").write_text("{")
    (directory / "f").mkdir()
    remove_journal(str(directory), "a")
    told = thaw_leftovers(str(directory))
    assert len(told) == 3 and "/nowhere" in told[0] and "d.json" in told[1] and "frozen/f" in told[2]
    assert [each.name for each in directory.iterdir()] == ["f"]


# ---- the order ----


def turn(name: str, *volumes: str, **more: frozenset[str]) -> Turn:
    places: list[int] = []
    footprint = Footprint(frozenset(volumes) if volumes else None, **more)
    made = Turn(name, f"set {name}", name, lambda ahead, sentence: places.append(ahead), footprint)
    made.places = places  # type: ignore[attr-defined]
    return made


@pytest.mark.vss(20)
def test_nobody_overtakes_one_that_it_would_keep_waiting() -> None:
    import asyncio

    async def meet() -> None:
        queue = CreationQueue(at_once=3)
        await queue.take(turn("a", "one"), 0)
        await queue.take(turn("b", "two"), 0)
        alone = asyncio.ensure_future(queue.take(turn("c"), 60_000))
        late = asyncio.ensure_future(queue.take(turn("d", "three"), 60_000))
        await asyncio.sleep(0)
        assert queue.set_ids == {"set a", "set b"} and queue.uses("one") and not queue.uses("three")
        queue.leave("a")
        queue.leave("b")
        await alone
        assert queue.set_ids == {"set c"} and queue.uses("three"), "nobody knows what it holds"
        queue.leave("c")
        await late
        nested = turn("e", "five", below=frozenset({"7:1"}))
        await queue.take(turn("f", "four", devices=frozenset({"7:1"})), 0)
        with pytest.raises(VssError, match="by f, since"):
            await queue.take(nested, 0)
        await queue.take(turn("g", "six"), 0)
        with pytest.raises(VssError):  # there are as many as may be
            await queue.take(turn("h", "seven"), 0)
        for name in "dfg":
            queue.leave(name)
        assert not queue.busy

    asyncio.run(meet())
