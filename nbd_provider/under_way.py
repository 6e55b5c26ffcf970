"""What threads do for one client, and what of its answers is kept in memory meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.requests import Request
from shadowset.nbd_provider.threads import Submit, Work

MAX_IN_THREADS: Final = 256
MAX_EXPECTED: Final = 16 << 20

Reply = Callable[[Request, Any], None]


class UnderWay:
    """All methods belong to the server's thread.

    ``failed(request, error)`` answers a request that could not be done, ``after`` is called when answers may have been
    put into the queue. After ``closed`` nothing is answered any more; ``after`` is still called.
    """

    def __init__(
        self, submit: Submit, failed: Callable[[Request, BaseException], None], after: Callable[[], None]
    ) -> None:
        self.submit = submit
        self.failed = failed
        self.after = after
        self.count = 0
        self.closed = False
        self._expected = 0

    @property
    def full(self) -> bool:
        """Whether enough is asked of the threads, or expected from them."""
        return self.count >= MAX_IN_THREADS or self._expected >= MAX_EXPECTED

    def begin(self, request: Request) -> None:
        """A thread is going to do it."""
        self.count += 1
        if request.kind == p.CMD_READ:
            self._expected += request.length

    def begin_many(self, count: int, length: int) -> None:
        """Threads are going to do so many reads, which ask for ``length`` bytes, and of which ``end_many`` is told."""
        self.count += count
        self._expected += length

    def end_many(self, count: int, length: int) -> None:
        """Threads have done so many of them."""
        self.count -= count
        self._expected -= length

    def end(self, request: Request, result: Any, reply: Reply) -> None:
        """A thread has done it: answer it, unless the client is gone."""
        self.count -= 1
        if request.kind == p.CMD_READ:
            self._expected -= request.length
        if self.closed:
            return
        if isinstance(result, BaseException):
            self.failed(request, result)
        else:
            reply(request, result)

    def run(self, request: Request, work: Work, reply: Reply) -> None:
        """Have a thread do ``work``, and answer with ``reply(request, its result)``."""

        def done(result: object) -> None:
            self.end(request, result, reply)
            self.after()

        self.begin(request)
        self.submit(work, done)

    def run_unasked(self, work: Work) -> None:
        """Have a thread do what nobody waits for, and whose errors others will meet."""

        def done(_: object) -> None:
            self.count -= 1
            self.after()

        self.count += 1
        self.submit(work, done)

    def forget(self) -> None:
        """Call nobody any more: who has this, and is called by it, would else be kept by it for good."""
        self.failed, self.after = lambda *_: None, lambda: None
