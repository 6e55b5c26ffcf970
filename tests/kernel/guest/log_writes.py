"""The log of the kernel's dm-log-writes, whose format its documentation describes: what a disk was told, in order.

The log begins with a super block: magic, version, number of entries, sector size (<QQQI). Each entry is a head (<QQQQ:
sector, sectors, flags, length of a mark's text) padded to a sector, a mark with its text in there; then the data of a
write. Sectors are of the log's sector size.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK, METADATA = 1, 2, 4, 8, 16
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


@dataclass(frozen=True)
class Entry:
    """One request. ``offset`` and ``length`` in bytes; a discard has a length and no data, a mark has its text."""

    number: int
    offset: int
    length: int
    flags: int
    data: bytes

    @property
    def mark(self) -> str:
        """The text of a mark, or "" for anything else."""
        return self.data.decode() if self.flags & MARK else ""

    @property
    def durable(self) -> bool:
        """Whether what came before has to outlive a power loss from here on."""
        return bool(self.flags & (FLUSH | FUA))


def read_log(path: str) -> Iterator[Entry]:
    """All entries. Errors: AssertionError when it is no such log."""
    with open(path, "rb") as file:
        log = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    magic, version, count, sector = _SUPER.unpack_from(log)
    assert (magic, version) == (MAGIC, 1), "this is no log of dm-log-writes"
    at = sector
    for number in range(count):
        start, sectors, flags, length = _ENTRY.unpack_from(log, at)
        text = at + _ENTRY.size
        at += sector
        size = 0 if flags & DISCARD else sectors * sector
        data = log[text : text + length] if flags & MARK else log[at : at + size]
        at += size
        yield Entry(number, start * sector, sectors * sector, flags, data)
