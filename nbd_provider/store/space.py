"""Space that no living copy needs any more: when it is given back, and starting afresh when none lives."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.copy_out import CopyOut
from shadowset.nbd_provider.store.create import new_head
from shadowset.nbd_provider.store.overlay import drop_overlays
from shadowset.nbd_provider.store.reclaim import Reclaimer
from shadowset.nbd_provider.store.room import Event

if TYPE_CHECKING:
    from shadowset.nbd_provider.store.writer import ShadowStore

log = logging.getLogger(__name__)


class Space:
    """The space of one store; ``garbage`` says that a pass over the slots may bring some."""

    def __init__(self, store: ShadowStore, copy_out: CopyOut) -> None:
        self._store = store
        self._copy_out = copy_out
        self.garbage = False

    def start_afresh(self) -> None:
        """Without any living copy all slots are garbage. Readers of old files keep them open.

        Does nothing when a cut was made meanwhile, whose readers may have opened the old files already, nor while the
        storage is being moved, since slots must not be numbered anew then.
        """
        store = self._store
        with store.work:
            store.mend()
            if store.moving or store.table.in_doubt or not self._exchange_head():
                self.garbage = True
                return
            store.replace_segments()
            self._copy_out.start_at(self._copy_out.next_slot)
            for name in os.listdir(f"{store.storage}/segments"):
                os.unlink(f"{store.storage}/segments/{name}")
            self._copy_out.start_at(0)
            drop_overlays(store.storage, store.living)
            self.garbage = False
            store.write_header()

    def _exchange_head(self) -> bool:
        return self._store.replace_head(new_head(self._store.storage, self._store.chunks), only_unused=True)

    def work(self) -> Iterator[int] | None:
        """A pass that is due, as ``reclaim``; None when there is nothing to give back."""
        return self.reclaim() if self.garbage else None

    def make_room(self) -> int:
        """Give back what nobody needs; returns the bytes on disk that it brought, 0 when it could not."""
        before = self._store.used
        self._give_back()
        return max(0, before - self._store.used)

    def free_after(self, entry: layout.Entry, event: Event) -> None:
        """Give back what nobody needs after a loss, and note how much that was with the copy and its event."""
        event.freed = self.make_room()
        if not event.freed:
            return
        try:
            with self._store.lock:
                self._store.table.change(entry, lost_bytes=event.freed)
        except OSError as problem:
            log.error("how much the loss of %s gave back cannot be noted: %s", entry.copy_id, problem)

    def _give_back(self) -> None:
        try:
            if not self._store.table.live:
                self.start_afresh()
            for _ in self.reclaim():
                pass
        except OSError as error:
            log.error("shadow storage %s: space cannot be given back now: %s", self._store.storage, error)
            self.garbage = True

    def reclaim(self) -> Iterator[int]:
        """Free the space that no living copy needs, a little at each step; yields the bytes freed by the step."""
        store = self._store
        self.garbage = False
        with store.work:
            self._settle()
            drop_overlays(store.storage, store.living)
        files = store.segments, store.head
        steps = Reclaimer(*files, store.table, self._copy_out.next_slot, store.chunk_size).steps()
        while True:
            with store.work:
                if (store.segments, store.head) != files:  # all slots went at once meanwhile
                    return
                self._settle()
                store.table.probe()
                freed = next(steps, None)
            if freed is None:
                return
            yield freed

    def _settle(self) -> None:
        """A power loss could bring back a copy that needs the space. Errors: OSError."""
        if self._store.table.in_doubt:
            self._store.sync()
