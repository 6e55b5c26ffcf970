"""Errors of the storage's disk that come late: a write had gone well, and what it wrote was lost when the kernel wrote
it back. Nothing is synced for auto-release copies, so nobody would hear of it, and they would be wrong.

The kernel remembers such an error for each file and tells it once to every open description of the file, also to one
opened later while nobody has been told. So a description that is used for nothing else asks, without waiting, and takes
the error from no sync.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.room import FULL

if TYPE_CHECKING:
    from shadowset.nbd_provider.store.writer import ShadowStore

log = logging.getLogger(__name__)

REST: Final = 0.1
BEYOND: Final = 1 << 62
SYNC_FILE_RANGE_WAIT_BEFORE: Final = 1
CANNOT_BE_ASKED: Final = (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.ESPIPE, errno.EBADF)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


def late_error(fd: int) -> int:
    """Number of the error that the kernel has for this description, 0 for none. No page is waited for, since there is
    none so far beyond the file's end."""
    if _libc.sync_file_range(fd, BEYOND, 1, SYNC_FILE_RANGE_WAIT_BEFORE) == 0:
        return 0
    number = ctypes.get_errno()
    return 0 if number in CANNOT_BE_ASKED else number


class Witness:
    """Asks for one open file. Errors: OSError."""

    def __init__(self, fd: int) -> None:
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)

    def error(self) -> int:
        """As ``late_error``; each is told once."""
        return late_error(self._fd)

    def close(self) -> None:
        """Ask no more."""
        os.close(self._fd)


class Writeback:
    """Looks for late errors of one store and gives up the copies whose data may be lost.

    Persistent copies are not among them: their slots were durable before they counted, their rows and words are written
    again. What cannot be done is tried again at the next look.
    """

    def __init__(self, store: ShadowStore) -> None:
        self._store = store
        self._next = 0.0
        self._lost = self._words = self._rows = 0

    @property
    def wanted(self) -> bool:
        """Whether there is anything that a look could find."""
        return bool(self._store.newest or self._lost or self._words or self._rows)

    def begin(self) -> None:
        """After a start: a former process may have left errors in any file that it had. Errors: OSError."""
        store = self._store
        if any(self._endangered()):
            for name in os.listdir(f"{store.storage}/segments"):
                with suppress(OSError):  # one that cannot be opened is an error to readers
                    store.segments.get(int(name, 16))
        self.look()

    def look_if_due(self) -> None:
        """A look, unless there has just been one."""
        if time.monotonic() >= self._next:
            self.look()

    def look_if_free(self) -> None:
        """A look, unless the storage is in use: nobody waits."""
        if self._store.work.acquire(blocking=False):
            try:
                self.look()
            finally:
                self._store.work.release()

    def look(self) -> bool:
        """Ask, and do what the answers call for; whether copies were given up."""
        store = self._store
        with store.work:
            self._next = time.monotonic() + REST
            rows, words = store.table.witness.error(), store.head.witness.error()
            slots = store.segments.late_error()
            self._rows, self._words = rows or self._rows, words or self._words
            self._lost = slots or words or self._lost
            given_up = bool(self._lost) and self._give_up()
            self._write_again()
            return given_up

    def sync_slots(self) -> None:
        """What ``head`` and segments hold is durable. Errors: OSError, of which a look is the last to tell: the next
        start finds the copies as after a kill."""
        self.look()
        try:
            self._store.head.sync()
            self._store.segments.sync()
        except OSError:
            self.look()
            raise

    def _write_again(self) -> None:
        store = self._store
        if self._words:
            try:
                store.head.put_again()
                self._words = 0
            except OSError as error:
                log.error("shadow storage %s: words of its head cannot be written again: %s", store.storage, error)
        if self._rows:
            store.table.in_doubt = True
            store.mend()
            self._rows = self._rows if store.table.in_doubt else 0

    def _give_up(self) -> bool:
        """All before space is given back, which takes its time; the last one's loss tells what that brought."""
        store = self._store
        reason = f"its old data was lost on its way to the disk of {store.storage}: {os.strerror(self._lost)}"
        cause = layout.CAUSE_FULL if self._lost in FULL else layout.CAUSE_ERROR
        lost = []
        try:
            for entry in list(self._endangered()):
                lost.append((entry, store.lose(entry, reason, cause)))
            self._lost = 0
        except OSError as error:
            log.error("shadow storage %s: a loss can be made known nowhere: %s", store.storage, error)
        if lost:
            self._make_durable()
            store.space.garbage = True
            if not store.moving:  # what was copied to the new place stays as it is until that counts
                store.space.free_after(*lost[-1])
        return bool(lost)

    def _make_durable(self) -> None:
        try:
            self._store.sync()
        except OSError as error:
            self._rows = self._rows or error.errno or errno.EIO

    def _endangered(self) -> Iterator[layout.Entry]:
        for entry in self._store.table.entries:
            if entry.state in layout.LIVE_STATES and not entry.persistent:
                yield entry
