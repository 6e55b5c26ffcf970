"""A copy's row of the table and the record of losses, as those see them who read beside the writer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from uuid import UUID

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import read_header, storage_error
from shadowset.nbd_provider.store.losses import LossWatch
from shadowset.nbd_provider.store.place import at_home
from shadowset.vss.codes import Code, VssError

TRIES = 100


class LivingRows:
    """The rows of one storage, read from its file again at each look. Errors: VssError when there is no storage."""

    def __init__(self, storage: str) -> None:
        self.storage = storage
        self.header = read_header(storage)
        self._losses = LossWatch(storage, self.header)
        self._table = os.open(f"{storage}/table", os.O_RDONLY | os.O_CLOEXEC)
        self._known: dict[int, tuple[bytes, layout.Entry | None]] = {}

    def find(self, copy_id: UUID) -> tuple[int, layout.Entry]:
        """The row's offset and the living copy in it. Errors: VSS_E_OBJECT_NOT_FOUND."""
        for offset, entry in self._living():
            if entry.copy_id == copy_id:
                return offset, entry
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"shadow copy {copy_id} is not in shadow storage {self.storage}")

    def entries(self) -> list[layout.Entry]:
        """The living copies, oldest first."""
        return sorted((entry for _, entry in self._living()), key=lambda entry: entry.number)

    def _living(self) -> Iterator[tuple[int, layout.Entry]]:
        for index in range(self.header.capacity):
            offset = layout.entry_offset(index)
            entry = self._read(offset)
            if entry is not None and entry.state == layout.STATE_MOVED:
                raise storage_error(self.storage, "it has just moved", "try again")
            if entry is not None and self._lives(entry):
                yield offset, entry

    def alive(self, offset: int, number: int) -> bool:
        """Whether the copy with this number still lives: what was read before counts only if it does."""
        entry = self._read(offset)
        return entry is not None and entry.number == number and self._lives(entry)

    def seen(self, offset: int, number: int) -> bytes | None:
        """The row as it was last seen, if the copy with this number lived then."""
        row, entry = self._known.get(offset, (b"", None))
        return row if entry is not None and entry.number == number and entry.state in layout.LIVE_STATES else None

    @property
    def places(self) -> tuple[int, bytes]:
        """For who looks by itself: the table's descriptor and the path of the record of losses, which is not there."""
        return self._table, os.fsencode(self._losses.path)

    def moved(self, offset: int) -> bool:
        """Whether this is no longer where the storage is."""
        entry = self._read(offset)
        return entry is not None and entry.state == layout.STATE_MOVED

    def _lives(self, entry: layout.Entry) -> bool:
        return entry.state in layout.LIVE_STATES and not self._losses.lost(entry)

    def _read(self, offset: int) -> layout.Entry | None:
        """One row, once more when the writer was just changing it; taken apart only when it is not as it was."""
        for _ in range(TRIES):
            row = os.pread(self._table, layout.ENTRY_SIZE, offset)
            known = self._known.get(offset)
            if known is not None and known[0] == row:
                return known[1]
            try:
                entry = layout.Entry.unpack(row)
            except ValueError:
                continue
            self._known[offset] = row, entry
            return entry
        return None

    def close(self) -> None:
        """Close the file."""
        os.close(self._table)


def list_copies(storage: str) -> list[layout.Entry]:
    """The living copies of a shadow storage, oldest first. Errors: VssError when there is no storage."""

    def entries(home: str) -> list[layout.Entry]:
        rows = LivingRows(home)
        try:
            return rows.entries()
        finally:
            rows.close()

    return at_home(storage, entries)
