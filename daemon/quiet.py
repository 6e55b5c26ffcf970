"""While file systems are frozen nothing of ours writes to a file: log lines wait in memory, other work waits its turn.

A daemon that logs to a file system it has itself frozen stops inside that write and never thaws it. The rule is kept
even though the set's volumes are checked beforehand not to hold our own files, because a log may lead anywhere.
"""

from __future__ import annotations

import asyncio
import logging

KEPT_LINES = 10_000


class HoldingHandler(logging.Handler):
    """Passes records on, or keeps them while held; the oldest go first when too many wait."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target
        self._held = False
        self._waiting: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, under the handler's lock."""
        if not self._held:
            self._target.handle(record)
            return
        self._waiting.append(record)
        del self._waiting[:-KEPT_LINES]

    def hold(self) -> None:
        """Keep records from now on."""
        self.acquire()
        self._held = True
        self.release()

    def let_go(self) -> None:
        """Pass on what waited, and everything from now on."""
        self.acquire()
        try:
            self._held = False
            waiting, self._waiting = self._waiting, []
            for record in waiting:
                self._target.handle(record)
        finally:
            self.release()


class Quiet:
    """The state of the rule; one per daemon. It holds while any set has something frozen."""

    def __init__(self, handler: HoldingHandler | None = None) -> None:
        self._handler = handler
        self._frozen_sets = 0
        self._loud = asyncio.Event()
        self._loud.set()

    @property
    def active(self) -> bool:
        """True while nothing may be written."""
        return not self._loud.is_set()

    def enter(self) -> None:
        """From now on nothing writes; each call needs its ``leave``."""
        self._frozen_sets += 1
        self._loud.clear()
        if self._handler:
            self._handler.hold()

    def leave(self) -> None:
        """Everything of one set has thawed; writing is allowed again after the last one."""
        self._frozen_sets -= 1
        if self._frozen_sets:
            return
        if self._handler:
            self._handler.let_go()
        self._loud.set()

    async def writable(self) -> None:
        """Wait until writing is allowed; it stays allowed until the caller's next ``await``."""
        await self._loud.wait()
