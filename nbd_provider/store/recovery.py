"""Recovery after a power loss: ``head`` made anew from the slots that were durable.

A slot's record names its place in its batch, and a batch is only begun when the one before it is durable. So of all
batches only the last can be torn, and a wrong checksum in an older one is damage, which is reported, never passed over.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.create import new_head
from shadowset.nbd_provider.store.files import Segment, Segments, Words

if TYPE_CHECKING:
    from shadowset.nbd_provider.store.writer import ShadowStore


class Slot(NamedTuple):
    """A slot whose data is not what its record says, with its chunk, the label before it and its own."""

    number: int
    chunk: int
    before: int
    label: int


class Found(NamedTuple):
    """What recovery found: damaged slots, for the copies that needed them, and the newest label ever given."""

    damaged: list[Slot]
    newest: int


def recover(store: ShadowStore) -> None:
    """After a power loss: auto-release copies are gone, ``head`` is made anew, and what is damaged costs its copies."""
    for entry in store.table.entries:
        if not entry.persistent:
            store.table.change(entry, state=layout.STATE_DELETED)
        elif entry.state == layout.STATE_PENDING:
            store.lose(entry, "the power was lost before what it takes from the origin was durable")
    store.replace_head(new_head(store.storage, store.chunks))
    found = rebuild(store.storage, store.segments, store.head, store.header)
    store.header.generation = max(store.header.generation, found.newest)
    store.header.next_slot = 0
    for slot, chunk, before, label in found.damaged:
        for entry in store.table.entries:
            reaches = entry.state in layout.LIVE_STATES and entry.size > chunk * store.chunk_size
            if reaches and before < entry.number <= label:
                store.lose(entry, f"slot {slot} is damaged", layout.CAUSE_DAMAGED)
    store.table.sync()


def rebuild(storage: str, segments: Segments, head: Words, header: layout.Header) -> Found:
    """Fill ``head``. Torn slots of the last batch are marked free, or the next recovery would take them for damage."""
    suspects: list[Slot] = []
    durable_before = newest = 0
    names = sorted(int(name, 16) for name in os.listdir(f"{storage}/segments"))
    for number in names:
        segment = segments.get(number)
        for index, chunk, label_index, flags, crc in used_records(segment):
            slot = number * layout.SEGMENT_SLOTS + index
            label = label_index >> 32
            newest = max(newest, label)
            if not flags & layout.FLAG_DURABLE or chunk >= len(head.view):
                continue
            before = head.get(chunk)
            if not _is_good(segments, slot, header.chunk_size, crc):
                suspects.append(Slot(slot, chunk, before >> layout.SLOT_BITS, label))
                continue
            durable_before = max(durable_before, slot - (label_index & 0xFFFFFFFF))
            segments.set_previous_head(slot, before)
            head.reserve((chunk,))
            head.put(chunk, layout.pack_head(label, slot))
    segments.mark_free(suspect.number for suspect in suspects if suspect.number >= durable_before)
    for number in names:
        os.fdatasync(segments.get(number).fd)
    return Found([suspect for suspect in suspects if suspect.number < durable_before], newest)


def used_records(segment: Segment) -> Iterator[tuple[int, int, int, int, int]]:
    """Index, chunk, label and place, flags, and CRC of used slots. A torn batch can leave unused ones between them."""
    nothing = bytes(layout.PAGE)
    for start in range(0, layout.SEGMENT_DATA, layout.PAGE):
        page = segment.record_page(start)
        if page != nothing:
            for place, (chunk, _, label, flags, crc) in enumerate(layout.SLOT_RECORD.iter_unpack(page)):
                if flags & layout.FLAG_USED:
                    yield start // layout.SLOT_RECORD_SIZE + place, chunk, label, flags, crc


def _is_good(segments: Segments, slot: int, chunk_size: int, crc: int) -> bool:
    try:
        return zlib.crc32(segments.read(slot, 0, chunk_size)) == crc
    except (OSError, EOFError):
        return False
