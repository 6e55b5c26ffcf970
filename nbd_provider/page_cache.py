"""Whether a range of a file lies in the page cache, so that it can be sent from there without copying or waiting."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
from collections.abc import Callable
from functools import cache
from typing import Final

CACHESTAT_NUMBERS: Final = {"x86_64": 451, "aarch64": 451, "riscv64": 451, "ppc64le": 451, "s390x": 451}
PAGE: Final = os.sysconf("SC_PAGESIZE")
READ_AHEAD: Final = 128 * 1024
MOST_FETCHED: Final = 1 << 30
UNSENDABLE: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def will_need(fd: int, offset: int, length: int) -> None:
    """Start reading a range into memory, in steps, since the kernel cuts each to the read-ahead of the device.

    Errors: OSError.
    """
    end = offset + length
    while offset < end:
        step = min(READ_AHEAD, end - offset)
        os.posix_fadvise(fd, offset, step, os.POSIX_FADV_WILLNEED)
        offset += step


@cache
def _nowhere() -> int:
    """Takes pages without looking at them."""
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def fetch(fd: int, offset: int, length: int) -> None:
    """Wait until a range is in memory, or the file ends, without copying it. Errors: OSError.

    The kernel reads on ahead of this, and into larger pieces of memory than when it is told what will be needed. A file
    that cannot be read in this way is only started to be read.
    """
    end = offset + length
    try:
        while offset < end and (done := os.sendfile(_nowhere(), fd, offset, min(end - offset, MOST_FETCHED))):
            offset += done
    except OSError as error:
        if error.errno not in UNSENDABLE:
            raise
        will_need(fd, offset, end - offset)


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Stat(ctypes.Structure):
    _fields_ = (
        ("cached", ctypes.c_uint64),
        ("dirty", ctypes.c_uint64),
        ("writeback", ctypes.c_uint64),
        ("evicted", ctypes.c_uint64),
        ("recently_evicted", ctypes.c_uint64),
    )


class PageCache:
    """Questions about one open file; ``supported`` is what was found by trying, not by version.

    Only the server's thread asks whether it holds something, since the memory of the question is used again.
    ``read(offset, length)`` waits for the disk, in any thread.
    """

    def __init__(self, fd: int, read: Callable[[int, int], bytes]) -> None:
        self.fd, self.read = fd, read
        self._range, self._stat, self._ends = _Range(), _Stat(), (bytearray(1), bytearray(1))
        self._arguments = ctypes.byref(self._range), ctypes.byref(self._stat), ctypes.c_uint(0)
        self._number = ctypes.c_long(CACHESTAT_NUMBERS.get(platform.machine(), -1))
        self._file = ctypes.c_uint(fd)
        self._syscall = ctypes.CDLL(None).syscall
        self.supported = self._number.value > 0 and hasattr(os, "RWF_NOWAIT") and self._try()

    def _try(self) -> bool:
        """Whether this file and this kernel can do all that is needed."""
        if self._cached_pages(0, 1) < 0:
            return False
        first, second = socket.socketpair()
        with first, second:
            try:
                os.preadv(self.fd, (self._ends[0],), 0, os.RWF_NOWAIT)
            except BlockingIOError:
                pass
            except OSError:
                return False
            try:
                return os.sendfile(first.fileno(), self.fd, 0, 1) == 1
            except OSError:
                return False

    def _cached_pages(self, offset: int, length: int) -> int:
        """Negative on errors."""
        self._range.offset, self._range.length = offset, length
        if self._syscall(self._number, self._file, *self._arguments):
            return -1
        return int(self._stat.cached)

    def holds(self, offset: int, length: int) -> bool:
        """Whether all of the range can be read at once.

        A page that is being read counts as cached, so the ends are read, too: what is read ahead arrives in order.
        """
        if self._cached_pages(offset, length) < (offset + length - 1) // PAGE - offset // PAGE + 1:
            return False
        first, last = self._ends
        try:
            return (
                os.preadv(self.fd, (last,), offset + length - 1, os.RWF_NOWAIT) == 1
                and os.preadv(self.fd, (first,), offset, os.RWF_NOWAIT) == 1
            )
        except OSError:
            return False

    @property
    def may_be_zero(self) -> bool:
        """Whether the range that was asked for last begins and ends with a zero byte."""
        return not self._ends[0][0] and not self._ends[1][0]
