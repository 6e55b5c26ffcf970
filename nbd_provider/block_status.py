"""Metadata contexts for NBD_CMD_BLOCK_STATUS: what is allocated, and what changed since a shadow copy.

A context answers with sorted ranges (start, end) in bytes; whatever lies between them is in the other state. Its work
may wait for a disk, so the server asks in threads; a lock keeps one connection's questions apart.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import islice
from threading import Lock
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.store.changes import ChangeReader, ChangesMoved
from shadowset.nbd_provider.store.rows import list_copies
from shadowset.vss.codes import VssError

MAX_EXTENTS: Final = 4096

Range = tuple[int, int]


class Extent(NamedTuple):
    """``length`` bytes in one state."""

    length: int
    flags: int


class Context(Protocol):
    """One metadata context of one connection."""

    name: str

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """The state from ``offset`` on, as far as it is known, at least one extent. Errors: OSError."""

    def close(self) -> None:
        """Let go of what it holds."""


def file_ranges(fd: int, offset: int, end: int) -> Iterator[Range]:
    """Where a file has data between two offsets; a block device has data everywhere. Errors: OSError."""
    while offset < end:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno != errno.EINVAL:
                raise
            yield offset, end
            return
        if start >= end:
            return
        offset = min(end, os.lseek(fd, start, os.SEEK_HOLE))
        yield start, offset


def joined(ranges: Iterable[Range]) -> Iterator[Range]:
    """Sorted ranges that may touch or overlap, as ranges that do not."""
    begin = end = -1
    for start, stop in ranges:
        if start > end:
            if end > begin:
                yield begin, end
            begin, end = start, stop
        else:
            end = max(end, stop)
    if end > begin:
        yield begin, end


def described(ranges: Iterable[Range], offset: int, end: int, inside: int, outside: int) -> Iterator[Extent]:
    """Sorted, separate ranges as extents that cover everything from ``offset`` to ``end``."""
    for start, stop in ranges:
        if start > offset:
            yield Extent(start - offset, outside)
        yield Extent(stop - start, inside)
        offset = stop
    if offset < end:
        yield Extent(end - offset, outside)


class Allocation:
    """``base:allocation``: ``ranges(offset, end)`` says where data is; the rest are holes that read as zeros."""

    name = p.CONTEXT_ALLOCATION

    def __init__(self, ranges: Callable[[int, int], Iterator[Range]]) -> None:
        self._ranges = ranges

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Data and holes."""
        end = offset + length
        return described(self._ranges(offset, end), offset, end, 0, p.STATE_HOLE | p.STATE_ZERO)

    def close(self) -> None:
        """Nothing: the export owns the files."""


class Changes:
    """Ranges of the volume that changed since a copy; opened when first asked, since few who may ask do."""

    def __init__(self, storage: str, since: UUID, until: UUID | None = None) -> None:
        self._arguments = (storage, since, until)
        self._reader: ChangeReader | None = None
        self._lock = Lock()

    def ranges(self, offset: int, end: int) -> list[Range]:
        """At most MAX_EXTENTS changed ranges, cut to (offset, end). Errors: OSError that says to make a full backup."""
        with self._lock:
            while True:
                try:
                    return self._ranges(offset, end)
                except ChangesMoved:
                    self.close()

    def _ranges(self, offset: int, end: int) -> list[Range]:
        try:
            if self._reader is not None and end > self._reader.size:
                self._reader.close()  # the volume has grown
                self._reader = None
            if self._reader is None:
                self._reader = ChangeReader(*self._arguments)
        except VssError as error:
            raise OSError(errno.ESTALE, error.message) from None
        unit = self._reader.chunk_size
        runs = self._reader.runs(offset // unit, (end - 1) // unit)
        return [(max(offset, run.first * unit), min(end, run.end * unit)) for run in islice(runs, MAX_EXTENTS)]

    def close(self) -> None:
        """Let go of the files."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class DirtyBitmap:
    """``qemu:dirty-bitmap:<copy id>``: what changed since that copy, until the exported copy or until now."""

    def __init__(self, name: str, changes: Changes) -> None:
        self.name = name
        self._changes = changes

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Changed and unchanged ranges, whole chunks but for the ends."""
        ranges = self._changes.ranges(offset, offset + length)
        end = ranges[-1][1] if len(ranges) == MAX_EXTENTS else offset + length
        return described(ranges, offset, end, p.STATE_DIRTY, 0)

    def close(self) -> None:
        """Let go of the files."""
        self._changes.close()


def copy_ranges(origin: int, copied_out: Changes, offset: int, end: int) -> Iterator[Range]:
    """Where a copy has data: in slots, or in the origin where the copy still takes it from there.

    The origin is looked at first: a chunk that has not been copied out by afterwards was as the copy saw it then.
    """
    while offset < end:
        found = list(islice(file_ranges(origin, offset, end), MAX_EXTENTS))
        stop = found[-1][1] if len(found) == MAX_EXTENTS else end
        slots = copied_out.ranges(offset, stop)
        if len(slots) == MAX_EXTENTS:
            stop = slots[-1][1]
        yield from joined(merge(((start, min(last, stop)) for start, last in found if start < stop), slots))
        offset = stop


def bitmap_names(storage: str, before: int | None = None) -> list[str]:
    """Contexts for the living copies, or for those older than number ``before``, oldest first. Errors: VssError."""
    entries = list_copies(storage)
    return [f"{p.CONTEXT_DIRTY}{entry.copy_id}" for entry in entries if before is None or entry.number < before]


def open_bitmap(name: str, storage: str, until: UUID | None = None) -> DirtyBitmap:
    """The context of that name. Errors: ValueError when it names no copy."""
    return DirtyBitmap(name, Changes(storage, UUID(name.removeprefix(p.CONTEXT_DIRTY)), until))


def first_extents(extents: Iterator[Extent], one: bool) -> list[Extent]:
    """What fits one answer: neighbours in one state as one, at most MAX_EXTENTS or just the first."""
    found: list[Extent] = []
    for extent in extents:
        if found and found[-1].flags == extent.flags:
            found[-1] = Extent(found[-1].length + extent.length, extent.flags)
        elif len(found) == (1 if one else MAX_EXTENTS):
            break
        else:
            found.append(extent)
    return found
