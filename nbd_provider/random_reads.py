"""Small reads at random places of a file, done many at a time without an object for each.

What is in memory is answered at once. The rest is left to threads of the module in C, which give the same signal as
``Threads``. Whatever is not quite usual takes the ordinary way, and without the compiled module all do.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

try:
    from shadowset.nbd_provider import _random_reads
except ImportError:  # there was no compiler
    COMPILED = False
else:
    COMPILED = True

log = logging.getLogger(__name__)

MOST_BYTES: Final = 256 * 1024
"""At a time, so that answers go out, and others have their turn, while more are done."""
SECONDS: Final = 0.002
"""How soon somebody is to look again while a read waits for a thread."""

Failure = tuple[int, int, int, int]
"""Cookie, offset, length and error number of a read."""
Result = bytes | Failure
"""A reply, or what could not be read."""
Begun = tuple[int, int, list[bytes], int, int]
"""How many requests are done or begun, where the last one ends, replies to send; how many reads, of how many bytes, are
left to threads."""


class Owner(Protocol):
    """Whose reads they are."""

    def arrived(self, results: list[Result], length: int) -> None:
        """Threads have done so many reads, which asked for ``length`` bytes."""


class RandomReads:
    """Of one server, in its thread. ``wake`` is an eventfd, which is written when there is something to finish."""

    def __init__(self, wake: int) -> None:
        self.under_way = 0
        self._pool = _random_reads.make_pool(wake) if COMPILED else None

    def begin(
        self, owner: Owner, fd: int, requests: memoryview, size: int, place: int, near: int, holes: bool
    ) -> Begun:
        """Do those at the front of requests, of a file of ``size`` bytes, which stays open until all have arrived.

        None is within ``near`` bytes of the one before, which ended at ``place``. With ``holes`` replies are
        structured, and zeros are not sent.
        """
        if self._pool is None:
            return 0, place, [], 0, 0
        begun = _random_reads.begin(self._pool, owner, fd, requests, size, place, near, MOST_BYTES, holes)
        self.under_way += begun[3]
        return begun

    @property
    def waiting(self) -> bool:
        """Whether ``finish`` is to be called in SECONDS, since a slow sector may be what keeps a read waiting."""
        return bool(self.under_way) and self._pool is not None and _random_reads.is_waiting(self._pool)

    def finish(self) -> bool:
        """Hand over what has arrived; returns whether there was anything."""
        if not self.under_way or self._pool is None:
            return False
        groups = _random_reads.finish(self._pool)
        for owner, results, length in groups:
            self.under_way -= len(results)
            try:
                owner.arrived(results, length)
            except Exception:
                log.exception("the answers to reads could not be sent")
        return bool(groups)

    def end(self) -> None:
        """End the threads."""
        if self._pool is not None:
            _random_reads.end(self._pool)
