"""Recovery after a power loss: ``head`` made anew from the slots that were durable.

A slot's record names its place in its batch, and a batch is only begun when the one before it is durable. So of all
batches only the last can be torn, and a wrong checksum in an older one is damage, which is reported, never passed over.
"""

from __future__ import annotations

import os
import zlib
from uuid import UUID

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import Segments, Words


def boot_id() -> UUID:
    """Identity of the running boot of the kernel."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return UUID(file.read().strip())


def rebuild(storage: str, segments: Segments, head: Words, header: layout.Header) -> list[tuple[int, int, int]]:
    """Fill ``head``; returns damaged slots as (slot, label before it, its label), for the copies that needed them."""
    suspects: list[tuple[int, int, int]] = []
    durable_before = 0
    for number in sorted(int(name, 16) for name in os.listdir(f"{storage}/segments")):
        segment = segments.get(number)
        for index in range(layout.SEGMENT_SLOTS):
            slot = number * layout.SEGMENT_SLOTS + index
            position = index * layout.SLOT_RECORD_SIZE
            chunk, _, label_index, flags, crc = layout.SLOT_RECORD.unpack_from(segment.records, position)
            if not flags & layout.FLAG_USED:
                break
            label, batch_index = label_index >> 32, label_index & 0xFFFFFFFF
            if not flags & layout.FLAG_DURABLE or chunk >= len(head.view):
                continue
            before = head.view[chunk]
            try:
                good = zlib.crc32(segments.read(slot, 0, header.chunk_size)) == crc
            except (OSError, EOFError):
                good = False
            if not good:
                suspects.append((slot, before >> layout.SLOT_BITS, label))
                continue
            durable_before = max(durable_before, slot - batch_index)
            record = layout.SLOT_RECORD.pack(chunk, before, label_index, flags, crc)
            segment.records[position : position + layout.SLOT_RECORD_SIZE] = record
            head.reserve(chunk)
            head.view[chunk] = layout.pack_head(label, slot)
    return [suspect for suspect in suspects if suspect[0] < durable_before]
