"""Recovery after a power loss, or from damage: ``head`` made anew from the slots that were durable.

A slot's record names its place in its batch, and a batch is only begun when the one before it is durable. So of all
batches only the last can be torn, and a wrong checksum in an older one is damage, which is reported, never passed over.

Damage that the start finds costs the copies that cannot be exact any more, whatever the policy, since there is nothing
left to protect; the live volume is served, and who reads those copies is told by their rows.
"""

from __future__ import annotations

import logging
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.create import new_head, put_in_place
from shadowset.nbd_provider.store.files import Segment, Segments, Words, sync_directory
from shadowset.nbd_provider.store.place import mark_left, replace_table
from shadowset.nbd_provider.store.room import FULL

if TYPE_CHECKING:
    from shadowset.nbd_provider.store.writer import ShadowStore

log = logging.getLogger(__name__)


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
    if _slots_are_gone(store):
        _lose_living(store, f"shadow storage {store.storage} has no segments any more")
    store.replace_head(new_head(store.storage, store.chunks))
    _fill_head(store, torn=True)
    store.header.next_slot = 0
    store.table.sync()


def damage(storage: str, chunks: int) -> str:
    """What is wrong with the files beside the table of a storage whose head has so many words, "" for nothing."""
    if not os.path.isdir(f"{storage}/segments"):
        return "its directory segments is missing"
    try:
        size = os.stat(f"{storage}/head").st_size
    except FileNotFoundError:
        return "its head is missing"
    wanted = max(chunks, 1) * layout.WORD
    return f"its head was cut off: it has {size} bytes and needs {wanted}" if size < wanted else ""


def rescue(store: ShadowStore, wrong: str) -> None:
    """Without a power loss: what was durable is exact; the ``head`` of ``store`` is new, and nobody has it open."""
    log.error("shadow storage %s is damaged: %s", store.storage, wrong)
    persistent = _slots_are_gone(store)
    _lose_living(store, f"shadow storage {store.storage} is damaged: {wrong}", persistent)
    _tell_readers(store)
    with suppress(FileNotFoundError):
        os.unlink(f"{store.storage}/head")
    _fill_head(store, torn=False)
    put_in_place(store.storage, store.head)
    sync_directory(store.storage)
    store.table.sync()


def _slots_are_gone(store: ShadowStore) -> bool:
    """Whether their directory is missing, which is made anew. Errors: OSError."""
    gone = not os.path.isdir(f"{store.storage}/segments")
    os.makedirs(f"{store.storage}/segments", mode=0o700, exist_ok=True)
    return gone


def _lose_living(store: ShadowStore, reason: str, persistent: bool = True) -> None:
    for entry in store.table.entries:
        if entry.state in layout.LIVE_STATES and (persistent or not entry.persistent):
            store.lose(entry, reason, layout.CAUSE_DAMAGED)


def _tell_readers(store: ShadowStore) -> None:
    """Who has the old ``head`` open opens the storage anew. The old table keeps a name until all rows in it tell so."""
    table = f"{store.storage}/table"
    with suppress(FileExistsError):
        os.link(table, f"{table}.left")
    image = store.table.image
    replace_table(store.storage, image)
    store.table.switch(os.open(table, os.O_RDWR), image)
    with open(f"{table}.left", "r+b", buffering=0) as left:
        mark_left(left.fileno(), image)
    os.unlink(f"{table}.left")


def _fill_head(store: ShadowStore, torn: bool) -> None:
    """From the slots; copies whose slots are damaged are lost. Errors: OSError when there is no room for it."""
    try:
        found = rebuild(store.storage, store.segments, store.head, store.header, torn)
    except OSError as error:
        if error.errno in FULL:
            raise
        _lose_living(store, f"the records of its slots cannot be read: {error.strerror or error}")
        return
    store.header.generation = max(store.header.generation, found.newest)
    for slot, chunk, before, label in found.damaged:
        for entry in store.table.entries:
            reaches = entry.state in layout.LIVE_STATES and entry.size > chunk * store.chunk_size
            if reaches and before < entry.number <= label:
                store.lose(entry, f"slot {slot} is damaged", layout.CAUSE_DAMAGED)


def rebuild(storage: str, segments: Segments, head: Words, header: layout.Header, torn: bool) -> Found:
    """Fill ``head``. Slots of the last batch may be ``torn``; these are marked free, or the next recovery would take
    them for damage. Errors: OSError.
    """
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
    first_torn = durable_before if torn else sys.maxsize
    segments.mark_free(suspect.number for suspect in suspects if suspect.number >= first_torn)
    for number in names:
        os.fdatasync(segments.get(number).fd)
    return Found([suspect for suspect in suspects if suspect.number < first_torn], newest)


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
