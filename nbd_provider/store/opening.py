"""What is decided when a storage is opened: whose it is, which copies are lost, and where its slots go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import Segments, storage_error
from shadowset.nbd_provider.store.room import COPY_LOST
from shadowset.nbd_provider.store.settings import NO_MARK, OriginMark

if TYPE_CHECKING:
    from shadowset.nbd_provider.store.writer import ShadowStore


def check_size(storage: str, header: layout.Header, size: int, changed_since: Callable[[OriginMark], str]) -> None:
    """An origin may have grown, but must be the same: another volume would cost all copies."""
    change = changed_since(header.settings.mark) if header.clean and size > header.size else ""
    if size < header.size or change:
        reason = f"it belongs to a volume of {header.size} bytes and the origin has {size}"
        reason += f" and is not that volume grown: {change}" if change else ""
        raise storage_error(storage, reason, "give each volume a storage directory of its own")


def check_origin(store: ShadowStore, changed_since: Callable[[OriginMark], str]) -> None:
    """Copies of an origin that somebody else changed are lost; durably so before the mark is taken away."""
    mark, store.header.settings.mark = store.header.settings.mark, NO_MARK
    if not store.header.clean or not store.table.live:
        return
    change = changed_since(mark)
    for entry in store.table.entries if change else []:
        if entry.state in layout.LIVE_STATES:
            reason = f"the origin was changed while no provider had it: {change}"
            store.lose(entry, reason, layout.CAUSE_ORIGIN_CHANGED)


def remember_losses(store: ShadowStore) -> None:
    """Copies that were lost in earlier runs are told of as well."""
    known = {event.copy_id for event in store.room.events}
    for entry in store.table.entries:
        if entry.state == layout.STATE_LOST and str(entry.copy_id) not in known:
            store.room.add(COPY_LOST, f"shadow copy {entry.copy_id} was lost in an earlier run", entry)


def first_unused(segments: Segments, storage: str, chunk_size: int) -> int:
    """The first slot after all that were ever taken, from the records of the last segment.

    One that was cut off gets no more: what it lacks must stay an error to readers, and would be zeros or other data.
    """
    names = [int(name, 16) for name in os.listdir(f"{storage}/segments")]
    if not names:
        return 0
    last = max(names)
    size = os.stat(f"{storage}/{layout.segment_name(last)}").st_size
    try:
        taken = segments.get(last).records_end() // layout.SLOT_RECORD_SIZE
    except OSError:  # nobody knows
        taken = layout.SEGMENT_SLOTS
    cut_off = size < layout.SEGMENT_DATA + taken * chunk_size
    return last * layout.SEGMENT_SLOTS + (layout.SEGMENT_SLOTS if cut_off else taken)


def tell_damage(store: ShadowStore) -> None:
    """Copies in rows that are damaged are lost, and nobody knows which these were. Errors: OSError."""
    for what in store.table.damaged.values():
        message = f"shadow storage {store.storage} is damaged: {what}"
        store.room.add(COPY_LOST, message).cause = layout.CAUSES[layout.CAUSE_DAMAGED]
    store.table.clear_damaged()
