"""Writes that need nothing but to be written, done many at a time without an object for each.

They are most of what a busy client sends. A run of them ends at whatever is not quite usual, which takes the ordinary
way: so does a write that fails or is short, and what it is told comes from there. Without the compiled module all take
the ordinary way.
"""

from __future__ import annotations

from typing import Final

from shadowset.nbd_provider.store.layout import SLOT_BITS
from shadowset.nbd_provider.volume import Volume

try:
    from shadowset.nbd_provider import _plain_writes
except ImportError:  # there was no compiler
    COMPILED = False
else:
    COMPILED = True
    find_writes, do_writes = _plain_writes.find_writes, _plain_writes.do_writes

MOST_WRITES: Final = 256
"""At a time, so that answers go out while more are done."""


class PlainWrites:
    """Of one live volume, in its server's thread."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._origin = volume.origin
        self._store = volume.store

    def do(self, buffer: memoryview, start: int, end: int) -> tuple[int, bytes]:
        """Do those at the front of the bytes from ``start`` to ``end``, while no gate is closed.

        Returns where the next request begins, and the replies.
        """
        if not COMPILED:
            return start, b""
        store, size = self._store, self._origin.size
        if store.newest:
            with store.lock:
                head = store.head  # its words count for as long as the lock is held
                _, count = find_writes(
                    buffer, start, end, size, MOST_WRITES, head.view, store.newest << SLOT_BITS, store.shift, head.pages
                )
        else:
            _, count = find_writes(buffer, start, end, size, MOST_WRITES)
        return do_writes(self._origin.fd, buffer, start, count) if count else (start, b"")
