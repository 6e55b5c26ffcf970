"""Segments as a check sees them: opened read-only, of any size, with a mark for each slot that a chain reached."""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.mapped import Mapped

_NAME: Final = re.compile("[0-9a-f]{8}")
_STEP: Final = 4096


class Record(NamedTuple):
    """A slot's record; ``previous`` is the word it replaced."""

    chunk: int
    previous: int
    label_place: int
    flags: int
    crc: int

    @property
    def label(self) -> int:
        """The number of the newest copy when the slot was filled."""
        return self.label_place >> 32

    @property
    def used(self) -> bool:
        """Whether the slot was ever filled."""
        return bool(self.flags & layout.FLAG_USED)

    @property
    def durable(self) -> bool:
        """Whether it has a checksum."""
        return bool(self.flags & layout.FLAG_DURABLE)


class SegmentView:
    """One segment file. Errors: ValueError when it is too short for its records, OSError."""

    def __init__(self, path: str, number: int) -> None:
        self.number = number
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._size = os.fstat(self._fd).st_size
            self._words = Mapped(self._fd, layout.SEGMENT_DATA // layout.WORD, writable=False)
            self.used_end = self._used_end()
        except BaseException:
            os.close(self._fd)
            raise
        self.linked = bytearray(layout.SEGMENT_SLOTS)

    def _used_end(self) -> int:
        """The slot after the last that has a record; looked for from the end, in steps."""
        step = _STEP * layout.SLOT_RECORD_SIZE
        for end in range(layout.SEGMENT_DATA, 0, -step):
            records = self._words.map[end - step : end].rstrip(b"\0")
            self._words.check()
            if records:
                return (end - step + len(records) - 1) // layout.SLOT_RECORD_SIZE + 1
        return 0

    def record(self, index: int) -> Record:
        """One slot's record. Errors: OSError."""
        record = Record(*layout.SLOT_RECORD.unpack_from(self._words.map, index * layout.SLOT_RECORD_SIZE))
        self._words.check()
        return record

    def ends_before(self, index: int, chunk_size: int) -> bool:
        """Whether the file is too short for the slot's data."""
        return self._size < layout.SEGMENT_DATA + (index + 1) * chunk_size

    def data(self, index: int, chunk_size: int) -> bytes:
        """The slot's data, less at the end of the file. Errors: OSError."""
        return os.pread(self._fd, chunk_size, layout.SEGMENT_DATA + index * chunk_size)

    def close(self) -> None:
        """Let go of memory and descriptor."""
        self._words.close()
        os.close(self._fd)


def open_views(storage: str) -> tuple[dict[int, SegmentView], list[tuple[str, str]]]:
    """All segments by number, and what is wrong with those that cannot be opened, as (where, what)."""
    views: dict[int, SegmentView] = {}
    faults = []
    try:
        names = sorted(os.listdir(f"{storage}/segments"))
    except FileNotFoundError:
        return {}, [("segments", "the directory is missing")]
    for name in names:
        where = f"segments/{name}"
        if not _NAME.fullmatch(name):
            faults.append((where, "no segment has such a name"))
            continue
        number = int(name, 16)
        try:
            views[number] = SegmentView(f"{storage}/{where}", number)
        except ValueError:
            faults.append((where, f"it is shorter than the {layout.SEGMENT_DATA} bytes of its records"))
        except OSError as error:
            faults.append((where, f"it cannot be read: {error.strerror}"))
    return views, faults
