"""The order of calls and idle work in the thread for storage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shadowset.nbd_provider.storage_calls import StorageCalls
from shadowset.nbd_provider.threads import Threads

Job = tuple[Callable[[], Any], Callable[[object], None]]


class Host:
    """Jobs wait for ``do``; ``log`` says what was done."""

    def __init__(self) -> None:
        self.log: list[object] = []
        self.jobs: list[Job] = []
        self.idle: Iterator[int] | None = None
        self.copying = self.in_use = False
        self.calls = StorageCalls(lambda: self.idle, lambda: self.copying, lambda: self.in_use)
        self.calls.submit = lambda *job: self.jobs.append(job)

    def add(self, name: str) -> None:
        self.calls.add(lambda: self.log.append(name), lambda result: self.log.append((name, result)))

    def do(self) -> None:
        [(work, done)] = self.jobs
        self.jobs.clear()
        result: object
        try:
            result = work()
        except Exception as error:
            result = error
        done(result)

    def steps(self, count: int) -> Iterator[int]:
        for number in range(count):
            self.log.append(number)
            yield 0


def test_calls_are_done_one_after_the_other() -> None:
    host = Host()
    for name in "abc":
        host.add(name)
    for _ in range(3):
        host.do()
    assert host.log == ["a", ("a", None), "b", ("b", None), "c", ("c", None)] and not host.jobs


def test_idle_work_gives_way_to_calls_and_copy_outs() -> None:
    host = Host()
    host.idle = host.steps(3)
    host.calls.look()
    host.calls.look()
    host.add("a")
    host.do()
    host.calls.look()
    host.do()
    assert host.log == [0, "a", ("a", None)]
    host.copying = True
    host.calls.look()
    assert not host.jobs
    host.copying = False
    for _ in range(3):
        host.calls.look()
        host.do()
    assert host.log[3:] == [1, 2]
    host.idle = None
    host.calls.look()
    assert not host.jobs


def test_an_error_ends_the_idle_work_or_fails_the_call(caplog: pytest.LogCaptureFixture) -> None:
    host = Host()

    def failing() -> Iterator[int]:
        yield 0
        raise OSError(5, "injected")

    host.idle = failing()
    for _ in range(2):
        host.calls.look()
        host.do()
    assert "injected" in caplog.text
    host.idle = host.steps(1)
    host.calls.look()
    host.do()
    assert host.log == [0], "the next idle work is begun"
    results: list[object] = []
    host.calls.add(lambda: 1 // 0, results.append)
    host.add("b")
    host.do()
    host.do()
    assert isinstance(results[0], ZeroDivisionError) and host.log[1:] == ["b", ("b", None)]


def test_an_answer_that_fails_stops_nothing() -> None:
    host = Host()
    host.calls.add(lambda: None, lambda _: 1 // 0)
    host.add("b")
    with pytest.raises(ZeroDivisionError):
        host.do()
    host.do()
    assert host.log == ["b", ("b", None)]


def test_a_call_ends_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step takes a very long time by the clock, so the thread would rest for as long as it ever does."""
    threads, host = Threads(1), Host()
    monkeypatch.setattr("shadowset.nbd_provider.storage_calls.MAX_REST", 600.0)
    ticks = iter(range(0, 10**9, 10**6))
    host.calls.submit = threads.submit
    host.in_use, stepped = True, threading.Event()

    def steps() -> Iterator[int]:
        stepped.set()
        yield 0

    host.idle = steps()
    with monkeypatch.context() as patches:
        patches.setattr(time, "monotonic", lambda: float(next(ticks)))
        host.calls.look()
        assert stepped.wait(60)
        host.add("a")
        threads.stop()
    threads.close()
    assert host.log == ["a", ("a", None)]


def test_without_threads_everything_is_done_at_once() -> None:
    calls, results = StorageCalls(lambda: None, lambda: False, lambda: False), []
    calls.add(lambda: 7, results.append)
    assert results == [7]
