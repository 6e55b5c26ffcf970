"""Threads that wait for disks in place of the event loop."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

from shadowset.nbd_provider.random_reads import RandomReads

log = logging.getLogger(__name__)

THREADS: Final = 16
STACK: Final = 512 * 1024
"""Enough for what threads do here; the usual 8 MiB each would weigh where memory is locked or limited."""

Work = Callable[[], Any]
Done = Callable[[object], None]
Submit = Callable[[Work, Done], None]


def next_turn(submit: Submit, done: Callable[[], None]) -> None:
    """Call ``done`` in a later turn of the loop, after others have had theirs."""
    submit(lambda: None, lambda _: done())


class _Lane:
    """Threads that take their work from one queue and end with a None in it."""

    def __init__(self, name: str, count: int, run: Callable[[Work, Done], None]) -> None:
        self.under_way = 0
        self._name = name
        self._count = count
        self._do = run
        self._threads: list[threading.Thread] = []
        self._work: SimpleQueue[tuple[Work, Done] | None] = SimpleQueue()

    def put(self, work: Work, done: Done) -> None:
        """Errors: RuntimeError when there is no thread and the system gives none."""
        if len(self._threads) < min(self.under_way + 1, self._count):
            self._start_thread()
        self.under_way += 1
        self._work.put((work, done))

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=f"{self._name}_{len(self._threads)}")
        before = threading.stack_size(STACK)
        try:
            thread.start()
            self._threads.append(thread)
        except RuntimeError:  # the system gives no more of them
            if not self._threads:
                raise
        finally:
            threading.stack_size(before)

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            self._do(*job)
            del job  # a thread that waits keeps no connection that has ended meanwhile

    def end(self) -> None:
        """End the threads."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()


class Threads:
    """Runs ``work`` in a thread, then ``done(result or exception)`` in the one that calls ``finish``.

    ``wake`` is an eventfd that is readable when there is something to finish. It is written once for all results that
    come before the next ``finish``, since a system call for each would cost more than many a read.
    """

    def __init__(self, count: int = THREADS) -> None:
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lanes: list[_Lane] = []
        self._results: deque[tuple[_Lane, Done, object]] = deque()
        self._signalled = False
        self._stopped = False
        self.submit = self.lane("disk", count)
        self.random_reads = RandomReads(self.wake)

    @property
    def busy(self) -> bool:
        """Whether something was submitted that is not finished."""
        return bool(self.random_reads.under_way) or any(lane.under_way for lane in self._lanes)

    def lane(self, name: str, count: int) -> Submit:
        """Threads of their own, for work that must not wait until those of others are free.

        What it returns is only for the thread that calls ``finish``. Errors: RuntimeError after ``stop``.
        """

        def run(work: Work, done: Done) -> None:
            result: object
            try:
                result = work()
            except Exception as error:
                result = error
            self._results.append((lane, done, result))
            result = None  # else an error and its traceback, which names this frame, would keep each other and ``done``
            # After the append: who finds the flag set is sure that ``finish`` has yet to look.
            if not self._signalled:
                self._signalled = True
                os.eventfd_write(self.wake, 1)

        def submit(work: Work, done: Done) -> None:
            if self._stopped:
                raise RuntimeError("the threads have ended")
            lane.put(work, done)

        lane = _Lane(name, count, run)
        self._lanes.append(lane)
        return submit

    def finish(self) -> bool:
        """Hand over what is there; returns whether there was anything."""
        self._signalled = False
        finished = self.random_reads.finish() or bool(self._results)
        while self._results:
            lane, done, result = self._results.popleft()
            lane.under_way -= 1
            try:
                done(result)
            except Exception:
                log.exception("the answer to a request could not be sent")
        return finished

    def stop(self) -> None:
        """Finish what is under way and what that leads to, then end the threads."""
        ready = select.poll()
        ready.register(self.wake, select.POLLIN)
        while self.finish() or self.busy:  # looks first, since the signal may have been taken already
            if self.busy and not self._results:
                ready.poll()
                os.eventfd_read(self.wake)
        self._stopped = True
        for lane in self._lanes:
            lane.end()
        self.random_reads.end()

    def close(self) -> None:
        """``wake`` is not needed any more."""
        os.close(self.wake)
