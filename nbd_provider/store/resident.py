"""Reading what lies in memory, by a descriptor or, where a place is read more than once, from a file that is mapped.

The kernel reads a file by looking up, taking and letting go each page of its cache. What is mapped already costs only
the copying, which is the smaller part. Mapping it costs as much as one read, so the first read of a place is plain.

The copying is in C, where it can be asked beforehand whether the pages are there, and where a page that a disk cannot
read again ends the copying in place of the process. Without the compiled module all reads are plain. The module also
reads what is not in memory, many ranges by one call, which leaves the other threads of Python alone.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable
from threading import Lock
from typing import Final

try:
    from shadowset.nbd_provider.store import _resident
except ImportError:  # there was no compiler
    COMPILED = False
else:
    COMPILED = True
    copy_resident, read_arrived = _resident.copy_resident, _resident.read_arrived
    fill_copy, send_copy = _resident.fill_copy, _resident.send_copy

WINDOW: Final = 256 << 20
MOST_WINDOWS: Final = 8
"""Python's mmap keeps a descriptor for each. None gives way to another: who reads on and on through more than these
would map each window for one read of it."""
PLAIN_TIMES: Final = 1
"""So often as much as a window has is read plainly before it is mapped: who reads a copy once maps nothing."""
MOST_COUNTS: Final = 4096
LEAST: Final = 64 * 1024
"""Of less, asking what is in memory costs more than is won."""

Outgoing = tuple[bytes, int]
"""The header of a reply, and how many bytes follow it."""
Place = tuple[memoryview, int, tuple[int, int, int, int, bytes, int, int], bytes, bytes, mmap.mmap | None, int]
"""What ``fill_copy`` takes."""

Pread = Callable[[int, int, memoryview], bool]
"""Fills memory from a descriptor at an offset; False when it will not fill all of it."""


def read_cached_twin(fd: int, offset: int, target: memoryview) -> bool:
    """Fill ``target`` from the page cache, or say False when a disk would have to be waited for.

    Errors: OSError; EOPNOTSUPP where the file system cannot tell.
    """
    try:
        return os.preadv(fd, (target,), offset, os.RWF_NOWAIT) == len(target)
    except BlockingIOError:
        return False


read_cached: Final[Pread] = _resident.read_cached if COMPILED else read_cached_twin


def unguarded(memory: mmap.mmap, lost: bytearray) -> object:
    """Nothing: where there was no compiler a page that went ends the process when it is touched."""
    return None


guard: Final[Callable[[mmap.mmap, bytearray], object]] = _resident.guard if COMPILED else unguarded
"""While what it returns is there, pages of a mapped file that went are zeros when they are touched; the flag is 1."""


class Windows:
    """Mapped parts of files that stay open for as long as this is used. Any thread may read.

    Of a file system that cannot tell what is in memory nothing is mapped, since its first read fails.
    """

    def __init__(self) -> None:
        self._mapping = Lock()
        self._mapped: dict[tuple[int, int], mmap.mmap] = {}
        self._unread: dict[tuple[int, int], int] = {}

    def read(self, fd: int, offset: int, target: memoryview) -> bool:
        """As ``read_cached``."""
        middle = WINDOW - offset % WINDOW
        if COMPILED and LEAST <= middle < len(target):
            return self.read(fd, offset, target[:middle]) and self.read(fd, offset + middle, target[middle:])
        window, at = self.find(fd, offset, len(target))
        if window is None:
            return read_cached(fd, offset, target)
        return copy_resident(target, window, at) and reaches(fd, offset + len(target))

    def find(self, fd: int, offset: int, length: int) -> tuple[mmap.mmap | None, int]:
        """The window that a range is to be read from, and where in it; None when it is to be read plainly."""
        number, at = divmod(offset, WINDOW)
        end = at + length
        if not COMPILED or length < LEAST or end > WINDOW:
            return None, at
        window = self._mapped.get((fd, number))
        if window is None or end > len(window):
            window = self._window(fd, number, end, length)
        return window, at

    def _window(self, fd: int, number: int, end: int, length: int) -> mmap.mmap | None:
        """The window, if it has been read before and reaches to ``end``."""
        key = fd, number
        with self._mapping:
            left = self._unread.get(key)
            if left is None:
                left = PLAIN_TIMES * window_length(os.fstat(fd), number)
            if left <= 0:
                return self._map(fd, number, end)
            if len(self._unread) >= MOST_COUNTS:
                self._unread.clear()
            self._unread[key] = left - length
        return None

    def _map(self, fd: int, number: int, end: int) -> mmap.mmap | None:
        if len(self._mapped) >= MOST_WINDOWS and (fd, number) not in self._mapped:
            return None
        status = os.fstat(fd)
        length = window_length(status, number)
        if length < end or not may_ask(fd, status):
            return None
        try:
            window = mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=number * WINDOW)
        except (OSError, ValueError):
            return None
        self._mapped[fd, number] = window
        return window

    def close(self) -> None:
        """Let go of all memory."""
        with self._mapping:
            self._mapped.clear()


def reaches(fd: int, end: int) -> bool:
    """Whether a file still goes to ``end``: what is cut off is zeros in its last page, where it is mapped."""
    status = os.fstat(fd)
    return stat.S_ISBLK(status.st_mode) or status.st_size >= end


def window_length(status: os.stat_result, number: int) -> int:
    """Bytes of a window of a file, which may have none of it. A block device is not asked where it ends."""
    return WINDOW if stat.S_ISBLK(status.st_mode) else min(WINDOW, status.st_size - number * WINDOW)


def may_ask(fd: int, status: os.stat_result) -> bool:
    """Whether the kernel tells the truth about which pages are in memory: to others it says that all are."""
    owner = status.st_uid == os.geteuid()
    return owner or os.access(f"/proc/self/fd/{fd}", os.W_OK, effective_ids=True)
