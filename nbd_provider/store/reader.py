"""A shadow copy as bytes, read beside the writer, from any process and without locks."""

from __future__ import annotations

import errno
import os
from threading import Lock
from uuid import UUID

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import Segments, Words
from shadowset.nbd_provider.store.place import at_home
from shadowset.nbd_provider.store.rows import LivingRows
from shadowset.vss.codes import VssError

ATTEMPTS = 8


class CopyLost(OSError):
    """The copy was deleted or given up while it was being read."""


class Place:
    """The files of a storage as a reader of one copy has them open.

    Errors: VSS_E_OBJECT_NOT_FOUND when the storage has no such living copy.
    """

    def __init__(self, storage: str, copy_id: UUID) -> None:
        self.storage = storage
        self._rows = LivingRows(storage)
        try:
            self._row, self.entry = self._rows.find(copy_id)
            header = self._rows.header
            self.chunk_size = header.chunk_size
            chunks = layout.chunk_count(header.size, header.chunk_size)
            self.head = Words(f"{storage}/head", chunks, writable=False)
        except BaseException:
            self._rows.close()
            raise
        self.segments = Segments(storage, header.chunk_size)

    @property
    def alive(self) -> bool:
        """Whether the copy lives, here: what was read before counts only if it does."""
        return self._rows.alive(self._row, self.entry.number)

    @property
    def moved(self) -> bool:
        """Whether the storage has left this place."""
        return self._rows.moved(self._row)

    def close(self) -> None:
        """Let go of all files."""
        self.head.close()
        self.segments.close()
        self._rows.close()


class CopyReader:
    """Read access to one shadow copy: ``size`` bytes at the moment of its cut. Follows a storage that moves.

    Errors: VSS_E_OBJECT_NOT_FOUND when the storage has no such living copy.
    """

    def __init__(self, storage: str, origin: str, copy_id: UUID) -> None:
        self._place = at_home(storage, lambda home: Place(home, copy_id))
        self._left: list[Place] = []
        self._following = Lock()
        self.entry = self._place.entry
        try:
            self._origin = os.open(origin, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self._place.close()
            raise
        self.size = self.entry.size
        self.chunk_size = self._place.chunk_size
        self._number = self.entry.number
        self._limit = self._number << layout.SLOT_BITS

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``, fewer at the end of the copy. Errors: CopyLost, OSError."""
        length = max(0, min(length, self.size - offset))
        if not length:
            return b""
        for attempt in range(ATTEMPTS):
            place = self._place
            try:
                content = self._read(place, offset, length)
            except FileNotFoundError:
                # a segment of other copies went between a look at the head and its opening: look again
                if self._counts(place) and attempt == ATTEMPTS - 1:
                    raise
            except (OSError, EOFError):
                if self._counts(place):
                    raise
            else:
                if self._counts(place):
                    return content
        raise OSError(errno.EAGAIN, f"the shadow storage of copy {self.entry.copy_id} moves on and on")

    def _counts(self, place: Place) -> bool:
        """Whether what was read at a place counts; not when the storage has left it. Errors: CopyLost."""
        if place.alive:
            return True
        if not place.moved:
            raise CopyLost(errno.ESTALE, f"shadow copy {self.entry.copy_id} no longer exists")
        self._follow(place)
        return False

    def _follow(self, place: Place) -> None:
        """Go on where the storage is now. Other threads may still be reading the files that were left."""
        with self._following:
            if self._place is not place:
                return
            try:
                there = at_home(place.storage, lambda home: Place(home, self.entry.copy_id))
            except VssError as error:
                raise CopyLost(errno.ESTALE, error.message) from error
            self._left.append(place)
            self._place = there

    def _read(self, place: Place, offset: int, length: int) -> bytes:
        view = place.head.view
        first = offset // self.chunk_size
        last = (offset + length - 1) // self.chunk_size
        if max(view[first : last + 1]) < self._limit:
            content = os.pread(self._origin, length, offset)
            if max(view[first : last + 1]) < self._limit and len(content) == length:
                return content
        parts = []
        end = offset + length
        chunk = first
        while offset < end:
            until = self._same_place(view, chunk, last)
            stop = min(end, until * self.chunk_size)
            parts.append(self._read_run(place, chunk, offset, stop))
            offset, chunk = stop, until
        return b"".join(parts)

    def _same_place(self, view: memoryview, chunk: int, last: int) -> int:
        """The end of the run of chunks that start here and come from the origin, or just the next chunk."""
        limit = self._limit
        until = chunk + 1
        if view[chunk] < limit:
            while until <= last and view[until] < limit:
                until += 1
        return until

    def _read_run(self, place: Place, chunk: int, offset: int, stop: int) -> bytes:
        slot = place.segments.find(place.head.view[chunk], self._number)
        if slot is not None:
            if stop > (chunk + 1) * self.chunk_size:  # copied out since the look at the run: each chunk on its own
                return self._read(place, offset, stop - offset)
            start = offset - chunk * self.chunk_size
            return place.segments.read(slot, start, stop - offset)
        content = os.pread(self._origin, stop - offset, offset)
        last = (stop - 1) // self.chunk_size
        if max(place.head.view[chunk : last + 1]) < self._limit:
            if len(content) != stop - offset:
                raise OSError(5, f"the origin ends at byte {offset + len(content)}")
            return content
        return self._read(place, offset, stop - offset)

    def close(self) -> None:
        """Let go of all files."""
        for place in (*self._left, self._place):
            place.close()
        os.close(self._origin)
