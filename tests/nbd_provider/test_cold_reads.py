"""Reads that wait for a disk: the threads that do them, the groups they are done in, and what is read ahead."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.cold_reads import NEAR, STEP, STREAM, WINDOW, Stream
from shadowset.nbd_provider.reads import READS_PER_THREAD
from shadowset.nbd_provider.replies import Replies
from shadowset.nbd_provider.requests import Request
from shadowset.nbd_provider.threads import Threads
from shadowset.nbd_provider.transmission import Transmission

SIZE = 64 << 20


class Disk:
    """An export whose bytes arrive when a test says so; a read of them says where it was."""

    name = description = "disk"
    size = SIZE
    flags = p.FLAG_READ_ONLY
    gate = in_place = page_cache = sender = None

    def __init__(self) -> None:
        self.arrived: set[int] = set()
        self.bad: set[int] = set()
        self.prefetched: list[tuple[int, int]] = []
        self.waited: list[int] = []
        self.closed = False

    def _content(self, offset: int, length: int) -> bytes:
        if offset in self.bad:
            raise OSError(errno.EIO, "bad sector")
        return (offset | 1).to_bytes(8, "big") * (length // 8)

    def read_now(self, offset: int, target: memoryview) -> bool:
        if offset in self.arrived:
            target[:] = self._content(offset, len(target))
        return offset in self.arrived

    def read(self, offset: int, length: int) -> bytes:
        self.waited.append(offset)
        return self._content(offset, length)

    def prefetch(self, offset: int, length: int) -> None:
        self.prefetched.append((offset, length))
        if offset in self.bad:
            raise OSError(errno.EIO, "bad sector")

    def close(self) -> None:
        self.closed = True


class Host:
    """A transmission whose threads run when a test says so."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.jobs: list[tuple[Callable[[], Any], Callable[[object], None]]] = []
        self.replies = Replies()
        self.rounds = 0
        disk: Any = self.disk
        self.transmission = Transmission(
            disk, (), self.replies, lambda *job: self.jobs.append(job), self._answered, self._broken, self._broken
        )

    def _answered(self) -> None:
        self.rounds += 1

    def _broken(self) -> None:
        raise AssertionError("only writes break a connection, or have answers that go out early")

    def ask(self, *places: int, length: int = 4096) -> None:
        self.transmission.process([Request(p.CMD_READ, 0, at, at, length, memoryview(b"")) for at in places])

    def run(self) -> None:
        """The first job, from its thread to the loop."""
        work, done = self.jobs.pop(0)
        done(work())

    def answers(self) -> dict[int, int | bytes]:
        """Error number or first eight bytes, by cookie."""
        sent = bytearray()

        def sendmsg(pieces: Any) -> int:
            sent.extend(b"".join(pieces))
            return sum(map(len, pieces))

        self.replies.send(sendmsg)
        found: dict[int, int | bytes] = {}
        while sent:
            _, error, cookie = p.SIMPLE_REPLY.unpack_from(sent)
            found[cookie] = error or bytes(sent[16:24])
            del sent[: 16 if error else 16 + 4096]
        return found


def right(*places: int) -> dict[int, bytes]:
    return {at: (at | 1).to_bytes(8, "big") for at in places}


def test_the_cold_reads_of_a_batch_go_to_a_thread_together() -> None:
    host = Host()
    places = [at << 20 for at in range(1, 9)]
    host.disk.arrived.add(places[3])
    host.ask(*places)
    assert len(host.jobs) == 1
    assert host.answers() == right(places[3])
    host.disk.arrived.update(places)
    cold = places[:3] + places[4:]
    host.run()
    assert host.disk.prefetched == [(at, 4096) for at in cold]
    assert host.disk.waited == cold[:1]
    assert host.answers() == right(*cold)
    assert host.rounds == 1 and host.transmission.idle and not host.jobs


def test_a_slow_read_holds_up_no_answer_before_it() -> None:
    host = Host()
    places = [4096, 1 << 20, 8 << 20, 9 << 20]
    host.ask(*places)
    host.disk.arrived.add(places[1])
    host.run()
    assert host.answers() == right(*places[:2])
    assert len(host.jobs) == 1 and not host.transmission.idle
    host.disk.arrived.add(places[3])
    host.run()
    assert host.disk.waited == [places[0], places[2]]
    assert host.answers() == right(*places[2:])
    assert host.transmission.idle and len(host.disk.prefetched) == len(places)


@pytest.mark.parametrize("first", [True, False])
def test_a_failing_read_answers_its_own_request_only(first: bool) -> None:
    host = Host()
    places = [4096, 1 << 20, 8 << 20]
    host.ask(*places)
    host.disk.arrived.update(places)
    bad = places[0 if first else 1]
    host.disk.bad.add(bad)
    host.run()
    others = [at for at in places if at != bad]
    assert host.answers() == right(*others) | {bad: p.ERRORS[errno.EIO]}
    assert host.transmission.idle


def test_many_cold_reads_are_shared_out() -> None:
    host = Host()
    places = [at << 18 for at in range(1, 2 * READS_PER_THREAD + 2)]
    host.ask(*places)
    assert len(host.jobs) == 3
    host.disk.arrived.update(places)
    while host.jobs:
        host.run()
    assert host.answers() == right(*places)


def test_a_disconnect_before_the_answers_leaves_none_out() -> None:
    host = Host()
    request = Request(p.CMD_READ, 0, 5, 4096, 4096, memoryview(b""))
    host.transmission.process([request, Request(p.CMD_DISC, 0, 6, 0, 0, memoryview(b""))])
    assert host.transmission.leaving and not host.transmission.idle
    host.run()
    assert host.answers() == {5: (4097).to_bytes(8, "big")} and host.transmission.idle


def test_the_export_closes_when_the_threads_are_done_with_it() -> None:
    host = Host()
    host.ask(4096, 1 << 20)
    work, done = host.jobs.pop()
    outcome = work()
    host.transmission.close()
    assert not host.disk.closed
    done(outcome)
    assert host.disk.closed and not host.jobs and not host.answers() and not host.rounds


def test_a_stream_from_the_disk_is_read_ahead() -> None:
    stream = Stream()
    at = 0
    ahead = []
    while at < SIZE:
        stream.saw(at, 256 * 1024)
        stream.missed()
        at += 256 * 1024
        if (found := stream.next(SIZE)) is not None:
            assert at <= found[0] and found[0] + found[1] <= min(SIZE, at + WINDOW)
            ahead.append(found)
    assert ahead[0][0] == STREAM
    for before, after in pairwise(ahead):
        assert sum(before) == after[0]
    assert sum(ahead[-1]) == SIZE and len(ahead) <= SIZE // STEP + 1


def test_what_is_in_memory_or_jumps_is_not_read_ahead() -> None:
    warm, jumping = Stream(), Stream()
    for number in range(20):
        warm.saw(number << 18, 1 << 18)
        jumping.saw((number * 7 % 20) * (NEAR + (1 << 18)), 1 << 18)
        jumping.missed()
        assert warm.next(SIZE) is None and jumping.next(SIZE) is None


def test_a_stream_is_followed_at_its_new_place() -> None:
    stream = Stream()
    for at in (0, 1 << 18, 2 << 18, 32 << 20, (32 << 20) + (1 << 18), (32 << 20) + (2 << 18), (32 << 20) + (3 << 18)):
        stream.saw(at, 1 << 18)
        stream.missed()
    found = stream.next(SIZE)
    assert found is not None and found[0] == (33 << 20)


# ---- threads ----


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads(3)
    yield made
    made.stop()
    made.close()


def wait(threads: Threads) -> None:
    assert select.select([threads.wake], [], [], 30)[0]


def test_results_and_errors_come_back_in_the_caller(threads: Threads) -> None:
    got: list[object] = []
    error = OSError(errno.EIO, "bad sector")

    def fail() -> None:
        raise error

    threads.submit(lambda: 7, got.append)
    threads.submit(fail, got.append)
    assert not got
    while threads.busy:
        wait(threads)
        os.eventfd_read(threads.wake)
        threads.finish()
    assert len(got) == 2 and 7 in got and error in got


def test_one_signal_is_enough_for_all_results_until_they_are_taken() -> None:
    one = Threads(1)
    got: list[object] = []
    end = threading.Event()
    for number in range(5):
        one.submit(lambda number=number: number, got.append)
    one.submit(end.set, got.append)
    assert end.wait(30)
    wait(one)
    assert os.eventfd_read(one.wake) == 1
    one.stop()
    assert got[:5] == [0, 1, 2, 3, 4]
    one.close()


def test_a_result_after_a_look_is_signalled_again(threads: Threads) -> None:
    got: list[object] = []
    for number in range(200):
        threads.submit(lambda number=number: number, got.append)
        wait(threads)
        os.eventfd_read(threads.wake)
        while not threads.finish():
            pass
    assert got == list(range(200))


def test_no_more_threads_than_allowed_work_at_once(threads: Threads) -> None:
    inside, release = threading.Semaphore(0), threading.Event()
    seen: set[str] = set()

    def work() -> None:
        seen.add(threading.current_thread().name)
        inside.release()
        assert release.wait(30)

    for _ in range(9):
        threads.submit(work, lambda _: None)
    for _ in range(3):
        assert inside.acquire(timeout=30)
    assert not inside.acquire(blocking=False)
    release.set()
    threads.stop()
    assert len(seen) == 3


def test_stopping_finishes_what_is_under_way_and_what_that_leads_to() -> None:
    threads = Threads(2)
    got: list[object] = []

    def again(result: object) -> None:
        got.append(result)
        threads.submit(lambda: "second", got.append)

    threads.submit(lambda: "first", again)
    threads.stop()
    assert got == ["first", "second"] and not threads.busy
    with pytest.raises(RuntimeError):
        threads.submit(lambda: None, got.append)
    threads.close()


def test_a_failing_answer_costs_the_others_nothing(threads: Threads) -> None:
    got: list[object] = []

    def broken(_: object) -> None:
        raise ValueError("no answer")

    threads.submit(lambda: 1, broken)
    threads.submit(lambda: 2, got.append)
    threads.stop()
    assert got == [2]
