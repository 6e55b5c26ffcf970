"""Work on shadow storage that no write waits for, in a thread: control calls in their order, between them idle work.

One thing at a time. Calls come before the next step of the idle work, which gives way to copy-outs too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from shadowset.nbd_provider.copy_queue import at_once
from shadowset.nbd_provider.threads import Done, Submit, Work

log = logging.getLogger(__name__)

MAX_REST: Final = 0.1


class StorageCalls:
    """All methods belong to the server's thread; the work runs in another.

    ``idle_work`` gives steps that are to be done when there is nothing else, or None. After a step its thread rests as
    long as the step took while ``in_use`` says that somebody would feel it; a call ends the rest.
    """

    def __init__(
        self,
        idle_work: Callable[[], Iterator[int] | None],
        copying: Callable[[], bool],
        in_use: Callable[[], bool],
    ) -> None:
        self.submit: Submit = at_once
        self._idle_work = idle_work
        self._copying = copying
        self._in_use = in_use
        self._waiting: deque[tuple[Work, Done]] = deque()
        self._under_way = False
        self._steps: Iterator[int] | None = None
        self._wanted = threading.Event()

    def add(self, work: Work, done: Done) -> None:
        """Do ``work`` after all that was added before, then ``done`` with its result or its exception."""
        self._waiting.append((work, done))
        self._wanted.set()
        self._next()

    def look(self) -> None:
        """Do a step of the idle work when there is nothing else to do."""
        if self._under_way or self._waiting or self._copying():
            return
        if self._steps is None:
            self._steps = self._idle_work()
        if self._steps is not None:
            steps, rest = self._steps, self._in_use()
            self._start(lambda: self._step(steps, rest), self._stepped)

    def _next(self) -> None:
        if self._waiting and not self._under_way:
            self._start(*self._waiting.popleft())

    def _start(self, work: Work, done: Done) -> None:
        def finished(result: object) -> None:
            self._under_way = False
            try:
                done(result)
            finally:
                self._next()

        self._under_way = True
        if not self._waiting:
            self._wanted.clear()
        self.submit(work, finished)

    def _step(self, steps: Iterator[int], rest: bool) -> bool:
        """Runs in the thread; whether there may be another step."""
        started = time.monotonic()
        if next(steps, None) is None:
            return False
        if rest:
            self._wanted.wait(min(MAX_REST, time.monotonic() - started))
        return True

    def _stepped(self, result: object) -> None:
        if isinstance(result, BaseException):
            log.error("space of deleted shadow copies cannot be given back now: %s", result)
        if result is not True:
            self._steps = None
