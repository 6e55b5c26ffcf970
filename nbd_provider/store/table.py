"""The table of copies: which exist, in which state; one page of header and a row per copy."""

from __future__ import annotations

import os
from bisect import bisect_right
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import Any, Final
from uuid import UUID

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import write_all
from shadowset.nbd_provider.store.place import mark_left
from shadowset.nbd_provider.store.writeback import Witness
from shadowset.vss.codes import Code, VssError

CUT_OFF: Final = -1


class CopyTable:
    """The writer's view of ``table``; changes are in the file at once, and durable after ``sync``.

    Any thread may read. ``_rows`` and ``live`` are replaced, never changed, so that whoever walks through them is safe;
    those who change rows take turns (``ShadowStore.lock``). A change that fails changes nothing: neither the entry
    nor, as soon as the file takes a write again, the row. Rows that are ``damaged`` count as free: nobody
    knows their copies.
    """

    def __init__(self, storage: str, header: layout.Header) -> None:
        self.damaged: dict[int, str] = {}
        self._fd = os.open(f"{storage}/table", os.O_RDWR)
        size = layout.table_size(header.capacity)
        if os.fstat(self._fd).st_size < size:
            os.ftruncate(self._fd, size)
            self.damaged[CUT_OFF] = "the table was cut off, and what copies were in the rows that are gone is lost"
        self._image = bytearray(os.pread(self._fd, size, 0))
        self.witness = Witness(self._fd)
        self._torn: dict[int, int] = {}
        self.header = header
        self._putting = Lock()
        self._unsynced: dict[int, bytes] = {}
        self._left: int | None = None
        self.in_doubt = False
        self._rows: dict[int, layout.Entry] = {}
        for index in range(header.capacity):
            entry = self._read(index)
            if entry is not None and entry.state != layout.STATE_DELETED:
                self._rows[index] = entry
        self.live: list[int] = []
        self._refresh()

    def _read(self, index: int) -> layout.Entry | None:
        at = layout.entry_offset(index)
        try:
            return layout.Entry.unpack(bytes(self._image[at : at + layout.ENTRY_SIZE]))
        except ValueError as error:
            self.damaged[index] = f"{error}, and the copy in row {index} is lost"
            return None

    def _refresh(self) -> None:
        self.live = sorted(row.number for row in self._rows.values() if row.state in layout.LIVE_STATES)

    @property
    def newest(self) -> int:
        """Number of the newest living copy, 0 when there is none."""
        return self.live[-1] if self.live else 0

    @property
    def durable(self) -> bool:
        """Whether a living copy is persistent."""
        return any(row.persistent for row in self._rows.values() if row.state in layout.LIVE_STATES)

    @property
    def entries(self) -> list[layout.Entry]:
        """Living and lost copies, oldest first."""
        return sorted(self._rows.values(), key=lambda row: row.number)

    def needed(self, before: int, label: int) -> bool:
        """Whether a living copy's number lies in (before, label]."""
        live = self.live
        index = bisect_right(live, before)
        return index < len(live) and live[index] <= label

    def find(self, copy_id: UUID) -> layout.Entry:
        """One copy. Errors: VSS_E_OBJECT_NOT_FOUND."""
        for row in self._rows.values():
            if row.copy_id == copy_id and row.state != layout.STATE_DELETED:
                return row
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"shadow copy {copy_id} is not in this shadow storage")

    def add(self, entry: layout.Entry) -> None:
        """Put a new copy into a free row.

        Errors: VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED, VSS_E_OBJECT_ALREADY_EXISTS.
        """
        if any(row.copy_id == entry.copy_id for row in self._rows.values()):
            raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"shadow copy {entry.copy_id} exists already")
        taken = self._rows.keys()
        index = next((i for i in range(self.header.capacity) if i not in taken), None)
        if index is None:
            raise VssError(
                Code.VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED,
                f"the volume has its maximum of {self.header.capacity} shadow copies; delete one first",
            )
        self._put(entry.pack(), layout.entry_offset(index))
        self._rows = self._rows | {index: entry}
        self._refresh()

    def clear_damaged(self) -> None:
        """What was damaged has been told. Errors: OSError."""
        for index in [index for index in self.damaged if index != CUT_OFF]:
            self._put(bytes(layout.ENTRY_SIZE), layout.entry_offset(index))
        self.damaged.clear()

    def change(self, entry: layout.Entry, **fields: Any) -> None:
        """Change a copy, in the file and then here; a deleted one leaves its row free for later. Errors: OSError."""
        index = next(i for i, row in self._rows.items() if row is entry)
        self._put(replace(entry, **fields).pack(), layout.entry_offset(index))
        self._set(entry, fields)
        if entry.state == layout.STATE_DELETED:
            self._rows = {i: row for i, row in self._rows.items() if row is not entry}

    def change_later(self, entry: layout.Entry, **fields: Any) -> None:
        """Change a copy here; the row follows as soon as the file takes a write again."""
        offset = layout.entry_offset(next(i for i, row in self._rows.items() if row is entry))
        with self._putting:
            self._image[offset : offset + layout.ENTRY_SIZE] = replace(entry, **fields).pack()
            self._torn[offset] = layout.ENTRY_SIZE
        self._set(entry, fields)

    def _set(self, entry: layout.Entry, fields: dict[str, Any]) -> None:
        for name, value in fields.items():
            setattr(entry, name, value)
        self._refresh()

    @property
    def settled(self) -> bool:
        """Whether the file holds all that was changed, durably as far as it was to be so."""
        return not self._torn and not self.in_doubt and self._left is None

    def write_header(self) -> None:
        """Put the header into the file."""
        self._put(self.header.pack(), 0)

    def write_rows(self) -> None:
        """All of them once more: who had the file before may have met an error, after which the kernel takes for
        written what is not. Errors: OSError."""
        with self._putting:
            write_all(self._fd, bytes(self._image[layout.PAGE :]), layout.PAGE)

    @property
    def image(self) -> bytes:
        """The whole table as it stands."""
        with self._putting:
            return bytes(self._image)

    def switch(self, fd: int, written: bytes) -> None:
        """Use another file, which has ``written`` in it, from now on, and tell those who have the old one open."""
        with self._putting:
            self._image[: layout.PAGE] = self.header.pack()
            if self._image != written:
                self._torn = {0: len(self._image)}
            self._left, self._fd = self._fd, fd
            self.witness.close()
            self.witness = Witness(fd)
            with suppress(OSError):
                self._tell_left()

    def tell_left(self) -> None:
        """Before anything changes: nobody must go on reading an old table. Errors: OSError."""
        if self._left is not None:
            with self._putting:
                self._tell_left()

    def _tell_left(self) -> None:
        self._mend()  # before the old table tells: until it does, a restart takes over what it has
        if self._left is not None:
            mark_left(self._left, self._image)
            os.close(self._left)
            self._left = None

    def probe(self) -> None:
        """Errors: OSError when the storage takes no write; storing into mapped memory would end the process then."""
        with self._putting:
            self._mend()
            write_all(self._fd, bytes(self._image[: layout.PAGE]), 0)

    def _put(self, data: bytes, offset: int) -> None:
        with self._putting:
            self._tell_left()
            try:
                write_all(self._fd, data, offset)
            except OSError:
                self._torn[offset] = len(data)
                with suppress(OSError):
                    self._mend()
                raise
            self._unsynced[offset] = data
            self._image[offset : offset + len(data)] = data

    def _mend(self) -> None:
        """Put back what a write left half done, since a row without its checksum is no copy to anybody who reads it."""
        for offset, length in list(self._torn.items()):
            data = bytes(self._image[offset : offset + length])
            write_all(self._fd, data, offset)
            self._unsynced[offset] = data
            del self._torn[offset]

    def sync(self) -> None:
        """Make the table durable. Errors: OSError; ``in_doubt`` until a later sync succeeds.

        After an error the kernel takes the changes for written though they are not, and another fdatasync would have
        nothing to do and succeed; so they are written again before.
        """
        with self._putting:
            self._tell_left()
            changes = dict(self._unsynced)
            if self.in_doubt:
                for offset, data in changes.items():
                    write_all(self._fd, data, offset)
        self.in_doubt = True
        os.fdatasync(self._fd)
        self.in_doubt = False
        with self._putting:
            self._unsynced = {at: data for at, data in self._unsynced.items() if changes.get(at) is not data}

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError), self._putting:
            self._tell_left()
        self.witness.close()
        os.close(self._fd)
