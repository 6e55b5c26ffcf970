"""A shadow copy as bytes, read beside the writer, from any process and without locks."""

from __future__ import annotations

import os
from uuid import UUID

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import Segments, Words
from shadowset.nbd_provider.store.rows import LivingRows

ATTEMPTS = 8


class CopyLost(OSError):
    """The copy was deleted or given up while it was being read."""


class CopyReader:
    """Read access to one shadow copy: ``size`` bytes at the moment of its cut.

    Errors: VSS_E_OBJECT_NOT_FOUND when the storage has no such living copy.
    """

    def __init__(self, storage: str, origin: str, copy_id: UUID) -> None:
        self._rows = LivingRows(storage)
        try:
            self._row, self.entry = self._rows.find(copy_id)
            self._origin = os.open(origin, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self._rows.close()
            raise
        header = self._rows.header
        self.size = self.entry.size
        self.chunk_size = header.chunk_size
        chunks = layout.chunk_count(header.size, header.chunk_size)
        self._head = Words(f"{storage}/head", chunks, writable=False)
        self._segments = Segments(storage, header.chunk_size)
        self._number = self.entry.number
        self._limit = self._number << layout.SLOT_BITS

    @property
    def alive(self) -> bool:
        """Whether the copy still exists."""
        return self._rows.alive(self._row, self._number)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``, fewer at the end of the copy. Errors: CopyLost, OSError."""
        length = max(0, min(length, self.size - offset))
        if not length:
            return b""
        for attempt in range(ATTEMPTS):
            try:
                content = self._read(offset, length)
            except FileNotFoundError:
                self._check()  # a segment of other copies went between a look at the head and its opening: look again
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            except (OSError, EOFError):
                self._check()
                raise
            break
        self._check()
        return content

    def _check(self) -> None:
        if not self.alive:
            raise CopyLost(116, f"shadow copy {self.entry.copy_id} no longer exists")

    def _read(self, offset: int, length: int) -> bytes:
        first = offset // self.chunk_size
        last = (offset + length - 1) // self.chunk_size
        if max(self._head.view[first : last + 1]) < self._limit:
            content = os.pread(self._origin, length, offset)
            if max(self._head.view[first : last + 1]) < self._limit and len(content) == length:
                return content
        parts = []
        end = offset + length
        chunk = first
        while offset < end:
            until = self._same_place(chunk, last)
            stop = min(end, until * self.chunk_size)
            parts.append(self._read_run(chunk, offset, stop))
            offset, chunk = stop, until
        return b"".join(parts)

    def _same_place(self, chunk: int, last: int) -> int:
        """The end of the run of chunks that start here and come from the origin, or just the next chunk."""
        view, limit = self._head.view, self._limit
        until = chunk + 1
        if view[chunk] < limit:
            while until <= last and view[until] < limit:
                until += 1
        return until

    def _read_run(self, chunk: int, offset: int, stop: int) -> bytes:
        slot = self._segments.find(self._head.view[chunk], self._number)
        if slot is not None:
            if stop > (chunk + 1) * self.chunk_size:  # copied out since the look at the run: each chunk on its own
                return self._read(offset, stop - offset)
            start = offset - chunk * self.chunk_size
            return self._segments.read(slot, start, stop - offset)
        content = os.pread(self._origin, stop - offset, offset)
        last = (stop - 1) // self.chunk_size
        if max(self._head.view[chunk : last + 1]) < self._limit:
            if len(content) != stop - offset:
                raise OSError(5, f"the origin ends at byte {offset + len(content)}")
            return content
        return self._read(offset, stop - offset)

    def close(self) -> None:
        """Let go of all files."""
        self._head.close()
        self._segments.close()
        os.close(self._origin)
        self._rows.close()
