"""Reads that must wait for a disk: many small ones in one thread, and large ones ahead of a client that reads on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Final

from shadowset.nbd_provider.exports import Export
from shadowset.nbd_provider.requests import Request
from shadowset.nbd_provider.store import resident

NEAR: Final = 2 << 20
"""How far after the last read a read may begin and still go on with it: clients ask in several connections."""
STREAM: Final = 512 * 1024
WINDOW: Final = 8 << 20
STEP: Final = 2 << 20

Result = tuple[Request, bytes | memoryview | Exception]


def read_group(export: Export, requests: Sequence[Request], start: bool) -> tuple[list[Result], Sequence[Request]]:
    """Start all of them at the disk, unless that was done, then ``read_some``."""
    if resident.COMPILED and export.in_place is not None:
        return _read_in_place(export.in_place, requests, start)
    if start:
        prefetch(export, requests)
    return read_some(export, requests)


def _read_in_place(fd: int, requests: Sequence[Request], start: bool) -> tuple[list[Result], Sequence[Request]]:
    """The same by one call, during which no other thread of Python is disturbed."""
    ranges = [(request.offset, request.length) for request in requests]
    content = memoryview(bytearray(sum(length for _, length in ranges)))
    count, error = resident.read_arrived(fd, ranges, content, start)
    results: list[Result] = []
    at = 0
    for request in requests[:count]:
        results.append((request, content[at : at + request.length]))
        at += request.length
    if error:
        results.append((requests[count], OSError(error, os.strerror(error))))
    return results, requests[len(results) :]


def prefetch(export: Export, requests: Sequence[Request]) -> None:
    """Start all of them at the disk. What cannot be started is told by the read itself."""
    for request in requests:
        with contextlib.suppress(OSError):
            export.prefetch(request.offset, request.length)


def read_some(export: Export, requests: Sequence[Request]) -> tuple[list[Result], Sequence[Request]]:
    """Wait for the first, then take those that have arrived by then; returns the results and the other requests.

    Never waits with a result in hand, so no answer is held up by a disk that is slow elsewhere.
    """
    results: list[Result] = [(requests[0], _read(export, requests[0]))]
    for index, request in enumerate(requests[1:], 1):
        content = _read_now(export, request)
        if content is None:
            return results, requests[index:]
        results.append((request, content))
    return results, ()


def _read(export: Export, request: Request) -> bytes | Exception:
    try:
        return export.read(request.offset, request.length)
    except Exception as error:
        return error


def _read_now(export: Export, request: Request) -> memoryview | Exception | None:
    target = memoryview(bytearray(request.length))
    try:
        return target if export.read_now(request.offset, target) else None
    except Exception as error:
        return error


class Stream:
    """Notices that a client reads on and on from a disk."""

    def __init__(self) -> None:
        self.end = 0
        self._streak = 0
        self._missed = False
        self._ahead = 0

    def missed(self) -> None:
        """The read just seen was not in memory."""
        self._missed = True

    def saw(self, offset: int, length: int) -> None:
        """The client reads here."""
        if 0 <= offset - self.end <= NEAR:
            self._streak += length
        elif not -NEAR <= offset - self.end < 0:
            self.jump(0)
        self.end = max(self.end, offset + length)

    def jump(self, end: int) -> None:
        """The client read somewhere else, where nothing is known of, up to ``end``."""
        self._streak, self._missed, self._ahead = 0, False, 0
        self.end = end

    def next(self, size: int) -> tuple[int, int] | None:
        """Offset and length of what is to be read ahead now, in an export of ``size`` bytes at this moment."""
        if not self._missed or self._streak < STREAM:
            return None
        start = max(self._ahead, self.end)
        stop = min(self.end + WINDOW, size)
        if stop - start < STEP and (stop < size or stop <= start):
            return None
        self._ahead = stop
        return start, stop - start
