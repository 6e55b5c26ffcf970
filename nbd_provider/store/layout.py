"""The format of shadow storage on disk, version 1; ``docs/shadow-storage.md`` describes it for other readers.

All integers are little-endian. A storage directory holds ``lock``, ``table``, ``head`` and ``segments/``,
and the link ``losses``.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from uuid import UUID

from shadowset.nbd_provider.store.settings import SETTINGS_OFFSET, SETTINGS_SIZE, Settings

MAGIC = b"SHADOWST"
LEFT_MAGIC = b"SHADOWMV"
"""Of a table that is no longer in use, because the storage has moved."""
VERSION = 1
PAGE = 4096

DEFAULT_CHUNK_SIZE = 16 * 1024
MIN_CHUNK_SIZE = 4 * 1024
MAX_CHUNK_SIZE = 1024 * 1024

SLOT_BITS = 40
SLOT_MASK = (1 << SLOT_BITS) - 1
MAX_GENERATION = (1 << 24) - 1

SEGMENT_SLOTS = 1 << 20
SLOT_RECORD = struct.Struct("<QQQII")
"""chunk, head word that the slot replaced, label << 32 | place in its batch, flags, CRC-32 of the data (durable)."""
SLOT_RECORD_SIZE = SLOT_RECORD.size
WORD = 8
SLOT_WORDS = SLOT_RECORD_SIZE // WORD
WORD_CHUNK, WORD_PREVIOUS, WORD_LABEL, WORD_FLAGS = range(SLOT_WORDS)
SEGMENT_DATA = SEGMENT_SLOTS * SLOT_RECORD_SIZE
FREE_CHUNK = (1 << 64) - 1
FLAG_USED = 1
FLAG_DURABLE = 2

HEADER = struct.Struct("<8sIIQQ16s16sIQQ")
"""magic, version, chunk size, volume size, capacity (copies), storage id, boot id, clean, generation, next slot."""
ENTRY = struct.Struct("<IIQQQ16s16sI")
"""state, flags, number, created (ns), size, copy id, set id, CRC-32 of all that precedes it."""
ENTRY_EXTRA = struct.Struct("<IIQQQI")
"""priority xor 128, cause of the loss, held until (ns), lost at (ns), bytes given back, CRC-32 of what precedes it."""
ENTRY_EXTRA_OFFSET = 72
ENTRY_SIZE = 128
ENTRY_PERSISTENT = 1
ENTRY_ATTRIBUTES = 0x7FFFFFFE
"""Flags of a row that are the copy's attributes, as the coordinator gave them; zeros where it gave none."""
DEFAULT_CAPACITY = 512
MAX_CAPACITY = 65536
DEFAULT_PRIORITY = 128

STATE_FREE, STATE_PENDING, STATE_CREATED, STATE_DELETED, STATE_LOST, STATE_MOVED = range(6)
LIVE_STATES = (STATE_PENDING, STATE_CREATED)

CAUSE_NONE, CAUSE_FULL, CAUSE_ERROR, CAUSE_DAMAGED, CAUSE_ORIGIN_CHANGED = range(5)
CAUSES = ("", "storage-full", "error", "damaged", "origin-changed")


def pack_head(generation: int, slot: int) -> int:
    """A word of ``head``: label in the upper 24 bits, slot number plus one in the lower 40; 0 means never copied."""
    return generation << SLOT_BITS | (slot + 1)


def head_slot(word: int) -> int:
    """The slot a word of ``head`` names."""
    return (word & SLOT_MASK) - 1


def slot_position(slot: int, chunk_size: int) -> tuple[int, int, int]:
    """Segment number, offset of the slot's record and offset of its data within the segment file, in bytes."""
    segment, index = divmod(slot, SEGMENT_SLOTS)
    return segment, index * SLOT_RECORD_SIZE, SEGMENT_DATA + index * chunk_size


def segment_name(number: int) -> str:
    """File name of a segment below the storage directory."""
    return f"segments/{number:08x}"


def chunk_count(size: int, chunk_size: int) -> int:
    """Chunks of a volume of ``size`` bytes; the last one may be partial."""
    return -(-size // chunk_size)


def runs(numbers: Iterable[int]) -> list[list[int]]:
    """Sorted numbers as runs of consecutive ones."""
    return [
        [number for _, number in group] for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    ]


@dataclass
class Header:
    """First page of ``table``."""

    chunk_size: int
    size: int
    capacity: int
    storage_id: UUID
    boot_id: UUID
    clean: bool
    generation: int
    next_slot: int
    settings: Settings = field(default_factory=Settings)

    def pack(self) -> bytes:
        """The page."""
        body = HEADER.pack(
            MAGIC,
            VERSION,
            self.chunk_size,
            self.size,
            self.capacity,
            self.storage_id.bytes,
            self.boot_id.bytes,
            int(self.clean),
            self.generation,
            self.next_slot,
        )
        head = (body + struct.pack("<I", zlib.crc32(body))).ljust(SETTINGS_OFFSET, b"\0")
        return (head + self.settings.pack()).ljust(PAGE, b"\0")

    @classmethod
    def unpack(cls, page: bytes) -> Header:
        """Read the page. Errors: ValueError with the reason."""
        body = page[: HEADER.size]
        if len(page) < PAGE or body[: len(MAGIC)] != MAGIC:
            raise ValueError("it is no shadow storage table")
        _, version, chunk, size, capacity, storage, boot, clean, generation, slot = HEADER.unpack(body)
        if version != VERSION:
            raise ValueError(f"its format version is {version} and this program reads version {VERSION}")
        if struct.unpack_from("<I", page, HEADER.size)[0] != zlib.crc32(body):
            raise ValueError("the checksum of its header is wrong")
        settings = Settings.unpack(page[SETTINGS_OFFSET : SETTINGS_OFFSET + SETTINGS_SIZE])
        ids = UUID(bytes=storage), UUID(bytes=boot)
        return cls(chunk, size, capacity, *ids, bool(clean), generation, slot, settings)


@dataclass
class Entry:
    """One row of the table of copies."""

    state: int
    persistent: bool
    number: int
    created_ns: int
    size: int
    copy_id: UUID
    set_id: UUID
    priority: int = DEFAULT_PRIORITY
    cause: int = CAUSE_NONE
    hold_until_ns: int = 0
    lost_ns: int = 0
    lost_bytes: int = 0
    attributes: int = 0

    def pack(self) -> bytes:
        """The row."""
        flags = self.attributes & ENTRY_ATTRIBUTES | (ENTRY_PERSISTENT if self.persistent else 0)
        fields = (self.state, flags, self.number, self.created_ns, self.size, self.copy_id.bytes, self.set_id.bytes)
        row = ENTRY.pack(*fields, 0)
        row = row[:-4] + struct.pack("<I", zlib.crc32(row[:-4])) + bytes(ENTRY_EXTRA_OFFSET - ENTRY.size)
        more = (self.priority ^ DEFAULT_PRIORITY, self.cause, self.hold_until_ns, self.lost_ns, self.lost_bytes)
        extra = ENTRY_EXTRA.pack(*more, 0)[:-4]
        return (row + extra + struct.pack("<I", zlib.crc32(extra))).ljust(ENTRY_SIZE, b"\0")

    @classmethod
    def unpack(cls, row: bytes) -> Entry | None:
        """Read a row; None when it is free. Errors: ValueError when its checksum is wrong."""
        if len(row) < ENTRY_SIZE:
            raise ValueError("the table ends early")
        if not any(row):
            return None
        state, flags, number, created, size, copy_id, set_id, crc = ENTRY.unpack_from(row)
        if zlib.crc32(row[: ENTRY.size - 4]) != crc:
            raise ValueError("the checksum of a table row is wrong")
        if state == STATE_FREE:
            return None
        ids = UUID(bytes=copy_id), UUID(bytes=set_id)
        kept = *cls._unpack_extra(row), flags & ENTRY_ATTRIBUTES
        return cls(state, bool(flags & ENTRY_PERSISTENT), number, created, size, *ids, *kept)

    @staticmethod
    def _unpack_extra(row: bytes) -> tuple[int, int, int, int, int]:
        extra = row[ENTRY_EXTRA_OFFSET : ENTRY_EXTRA_OFFSET + ENTRY_EXTRA.size]
        if not any(extra):
            return DEFAULT_PRIORITY, CAUSE_NONE, 0, 0, 0
        priority, cause, hold, lost, count, crc = ENTRY_EXTRA.unpack(extra)
        if zlib.crc32(extra[:-4]) != crc:
            raise ValueError("the checksum of a table row is wrong")
        return priority ^ DEFAULT_PRIORITY, cause, hold, lost, count


def entry_offset(index: int) -> int:
    """Where a row lies in ``table``."""
    return PAGE + index * ENTRY_SIZE


def table_size(capacity: int) -> int:
    """Size of ``table`` in bytes."""
    return PAGE + -(-capacity * ENTRY_SIZE // PAGE) * PAGE
