"""A shadow copy as bytes, read beside the writer, from any process and without locks."""

from __future__ import annotations

import os
from uuid import UUID

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import Segments, Words, read_header
from shadowset.vss.codes import Code, VssError

ATTEMPTS = 8


class CopyLost(OSError):
    """The copy was deleted or given up while it was being read."""


def list_copies(storage: str) -> list[layout.Entry]:
    """The living copies of a shadow storage, oldest first. Errors: VssError when there is no storage."""
    header = read_header(storage)
    entries = []
    with open(f"{storage}/table", "rb") as file:
        for index in range(header.capacity):
            entry = _read_row(file.fileno(), layout.entry_offset(index))
            if entry is not None and entry.state in layout.LIVE_STATES:
                entries.append(entry)
    return sorted(entries, key=lambda entry: entry.number)


def _read_row(table: int, offset: int) -> layout.Entry | None:
    """One row of the table, once more when the writer was just changing it."""
    for _ in range(100):
        try:
            return layout.Entry.unpack(os.pread(table, layout.ENTRY_SIZE, offset))
        except ValueError:
            continue
    return None


class CopyReader:
    """Read access to one shadow copy: ``size`` bytes at the moment of its cut.

    Errors: VSS_E_OBJECT_NOT_FOUND when the storage has no such living copy.
    """

    def __init__(self, storage: str, origin: str, copy_id: UUID) -> None:
        header = read_header(storage)
        self._table = os.open(f"{storage}/table", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._row, self.entry = self._find(header, storage, copy_id)
            self._origin = os.open(origin, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            os.close(self._table)
            raise
        self.size = self.entry.size
        self.chunk_size = header.chunk_size
        chunks = layout.chunk_count(header.size, header.chunk_size)
        self._head = Words(f"{storage}/head", chunks, writable=False)
        self._segments = Segments(storage, header.chunk_size)
        self._number = self.entry.number
        self._limit = self._number << layout.SLOT_BITS

    def _find(self, header: layout.Header, storage: str, copy_id: UUID) -> tuple[int, layout.Entry]:
        for index in range(header.capacity):
            offset = layout.entry_offset(index)
            entry = _read_row(self._table, offset)
            if entry is not None and entry.copy_id == copy_id and entry.state in layout.LIVE_STATES:
                return offset, entry
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"shadow copy {copy_id} is not in shadow storage {storage}")

    @property
    def alive(self) -> bool:
        """Whether the copy still exists."""
        entry = _read_row(self._table, self._row)
        return entry is not None and entry.number == self._number and entry.state in layout.LIVE_STATES

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
        os.close(self._table)
