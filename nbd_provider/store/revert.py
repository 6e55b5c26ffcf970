"""Taking a volume back to what a shadow copy saw, while nobody else writes to it.

Chunk by chunk: what newer copies still need of the present content is copied out, as before any write, and then the
copy's content is written over it. Since all copies, the target among them, are exact after every single step, a revert
that was cut off goes on from anywhere; a *marker* in the header says durably that one is under way, and from which
chunk on. For the same reason a finished revert is undone by a revert to a newer copy.

The target must survive a power loss, or half a revert could never be finished. So an auto-release target is made
persistent first: the data of its slots is synced, then their records get checksums and the durable mark, and its row is
changed last.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.changes import ChangeReader, Run
from shadowset.nbd_provider.store.files import write_all
from shadowset.nbd_provider.store.overlay import find_overlay
from shadowset.nbd_provider.store.room import REVERT_FINISHED, REVERT_STARTED, REVERT_STOPPED
from shadowset.nbd_provider.store.settings import Revert
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss.codes import Code, VssError

log = logging.getLogger(__name__)

STEP_BYTES: Final = 4 << 20
NOTE_BYTES: Final = 64 << 20
"""So many bytes are written between two durable notes of the position."""


class Phase(StrEnum):
    """Where a revert stands; ``PREPARING`` has not changed the volume, ``STOPPED`` waits for a cause to be removed."""

    PREPARING = "preparing"
    WRITING = "writing"
    STOPPED = "stopped"


@dataclass
class Progress:
    """A revert that is under way; ``done`` of ``total`` bytes are as in the copy, ``reason`` says why it stopped."""

    copy_id: UUID
    phase: Phase
    done: int = 0
    total: int = 0
    reason: str = ""


class Reverter:
    """The reverts of one volume, one at a time. ``origin`` is its descriptor, open for writing.

    ``progress`` is None when no revert is under way. After a start with a marker it goes on with ``work``.
    """

    def __init__(self, store: ShadowStore, origin: int) -> None:
        self._store = store
        self._origin = origin
        self._steps: Generator[int, None, None] | None = None
        self.progress: Progress | None = None
        marker = store.header.settings.revert
        if marker is not None:
            self.progress = Progress(marker.copy_id, Phase.WRITING)
            try:
                self._target(marker.copy_id)
            except VssError as error:
                self.progress.phase, self.progress.reason = Phase.STOPPED, error.message
            else:
                self._steps = self._guarded(self._resume())

    def begin(self, copy_id: UUID) -> Progress:
        """Check what can be checked and start; the same copy again lets a stopped revert go on.

        Errors: VSS_E_OBJECT_NOT_FOUND, VSS_E_BAD_STATE for a copy that is pending or lost, VSS_E_REVERT_IN_PROGRESS,
        VSS_E_INSUFFICIENT_STORAGE when newer copies could not be kept.
        """
        if self.progress is not None and self.progress.phase is not Phase.STOPPED:
            message = f"the volume is being reverted to shadow copy {self.progress.copy_id}; wait until that is done"
            raise VssError(Code.VSS_E_REVERT_IN_PROGRESS, message)
        entry = self._target(copy_id)
        total = self._check_room(entry)
        marker = self._store.header.settings.revert
        if marker is not None and marker.copy_id == copy_id:
            self.progress = Progress(copy_id, Phase.WRITING)
            self._steps = self._guarded(self._resume())
        else:
            self.progress = Progress(copy_id, Phase.PREPARING, 0, total)
            self._steps = self._guarded(self._whole(entry))
        return self.progress

    def cancel(self, force: bool) -> None:
        """End a revert that has not changed the volume; with ``force`` any, which leaves a mixture of old and new.

        Errors: VSS_E_BAD_STATE when there is none, VSS_E_REVERT_IN_PROGRESS when it has changed the volume, OSError.
        """
        if self.progress is None:
            raise VssError(Code.VSS_E_BAD_STATE, "no revert is under way; there is nothing to cancel")
        if self._store.header.settings.revert is not None and not force:
            message = (
                f"the revert to shadow copy {self.progress.copy_id} has changed the volume and cannot be undone half "
                "way; let it end and then revert to a newer copy, or cancel with force and get a mixture of both"
            )
            raise VssError(Code.VSS_E_REVERT_IN_PROGRESS, message)
        self.close()
        self.progress.phase, self.progress.reason = Phase.STOPPED, "it was to be cancelled"
        os.fdatasync(self._origin)
        self._mark(None)
        self._tell(REVERT_STOPPED, f"the revert to shadow copy {self.progress.copy_id} was cancelled")
        self.progress = None

    @property
    def blocks(self) -> bool:
        """Whether nobody may use the volume: it changes now, or is a mixture of old and new."""
        progress, marked = self.progress, self._store.header.settings.revert is not None
        return progress is not None and (marked or progress.phase is not Phase.STOPPED)

    def protects(self, copy_id: UUID) -> bool:
        """Whether this copy is the target of a revert that can still be finished."""
        progress = self.progress
        if progress is None or progress.copy_id != copy_id:
            return False
        return any(row.copy_id == copy_id and row.state in layout.LIVE_STATES for row in self._store.table.entries)

    def work(self) -> Iterator[int] | None:
        """Steps of a few MiB each, to be gone through one after another; None when there is nothing to do now.

        They raise nothing: a revert that cannot go on says so in ``progress`` and as an event.
        """
        return self._steps

    def close(self) -> None:
        """Stop between two steps; the marker stays."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    # ---- before the first byte ----

    def _target(self, copy_id: UUID) -> layout.Entry:
        entry = self._store.table.find(copy_id)
        if entry.state != layout.STATE_CREATED:
            state = "lost" if entry.state == layout.STATE_LOST else "not finished yet"
            message = f"shadow copy {copy_id} is {state} and the volume cannot be reverted to it; choose another copy"
            raise VssError(Code.VSS_E_BAD_STATE, message)
        return entry

    def _check_room(self, entry: layout.Entry) -> int:
        """Bytes that may have to be written. Errors: VSS_E_INSUFFICIENT_STORAGE."""
        store, size = self._store, self._store.chunk_size
        changed = self._changed(entry, entry.copy_id)
        newest = next(row for row in store.table.entries if row.number == store.newest)
        wanted = (changed - self._changed(entry, newest.copy_id)) * (size + layout.SLOT_RECORD_SIZE)
        limits = store.header.settings.limits
        if wanted > store.room.available(limits) and store.space.garbage:
            for _ in store.space.reclaim():
                pass
        available = store.room.available(limits)
        if wanted > available:
            message = (
                f"volume {store.volume_name}: a revert to shadow copy {entry.copy_id} keeps up to {wanted} bytes for "
                f"newer copies, and shadow storage {store.storage} has {available}; delete newer copies or give it room"
            )
            raise VssError(Code.VSS_E_INSUFFICIENT_STORAGE, message)
        return changed * size

    def _changed(self, target: layout.Entry, since: UUID, first: int = 0) -> int:
        """Chunks of the target that changed since a copy, from ``first`` on."""
        reader = ChangeReader(self._store.storage, since)
        try:
            last = layout.chunk_count(target.size, self._store.chunk_size) - 1
            return sum(run.end - run.first for run in reader.runs(first, last)) if first <= last else 0
        finally:
            reader.close()

    def _make_durable(self, entry: layout.Entry) -> Iterator[int]:
        """Let the target survive a power loss; until its row is changed at the end, none of this counts."""
        store = self._store
        os.fdatasync(self._origin)
        store.segments.sync()
        for run in self._runs(entry, 0):
            store.table.probe()
            for chunk in range(run.first, run.end):
                slot = store.segments.find(store.head.get(chunk), entry.number)
                if slot is not None:
                    self._certify(slot)
            yield 0
        store.segments.sync()
        store.make_persistent(entry)

    def _certify(self, slot: int) -> None:
        word = self._store.segments.flags(slot)
        if not word & layout.FLAG_DURABLE:
            crc = zlib.crc32(self._store.segments.read(slot, 0, self._store.chunk_size))
            self._store.segments.set_flags(slot, word & 0xFFFFFFFF | layout.FLAG_DURABLE | crc << 32)

    # ---- the work ----

    def _guarded(self, steps: Iterator[int]) -> Generator[int, None, None]:
        """The steps, with an end in ``progress`` whatever happens."""
        progress = self.progress
        assert progress is not None
        try:
            yield from steps
        except (OSError, EOFError, VssError) as error:
            reason = error.message if isinstance(error, VssError) else str(error)
            progress.phase, progress.reason = Phase.STOPPED, reason
            message = f"the revert to shadow copy {progress.copy_id} has stopped: {reason}"
            self._tell(REVERT_STOPPED, f"{message}; remove the cause and start it again")
        else:
            self.progress = None
            self._tell(REVERT_FINISHED, f"the volume is as shadow copy {progress.copy_id} saw it")
        self._steps = None

    def _whole(self, entry: layout.Entry) -> Iterator[int]:
        if not entry.persistent:
            yield from self._make_durable(entry)
        self._mark(Revert(entry.copy_id))
        self._tell(REVERT_STARTED, f"the volume is being reverted to shadow copy {entry.copy_id}")
        yield from self._write_back(entry, 0)

    def _resume(self) -> Iterator[int]:
        marker = self._store.header.settings.revert
        assert marker is not None and self.progress is not None
        entry = self._target(marker.copy_id)
        changed, left = (self._changed(entry, entry.copy_id, first) for first in (0, marker.position))
        self.progress.total = changed * self._store.chunk_size
        self.progress.done = (changed - left) * self._store.chunk_size
        log.info("the revert to shadow copy %s goes on from chunk %d", entry.copy_id, marker.position)
        yield from self._write_back(entry, marker.position)

    def _write_back(self, entry: layout.Entry, position: int) -> Iterator[int]:
        progress, size = self.progress, self._store.chunk_size
        assert progress is not None
        progress.phase = Phase.WRITING
        noted = progress.done
        for run in self._runs(entry, position):
            with self._store.work:
                self._put_back(entry, run)
            progress.done = min(progress.total, progress.done + (run.end - run.first) * size)
            if progress.done >= noted + NOTE_BYTES:
                noted = progress.done
                os.fdatasync(self._origin)
                self._mark(Revert(entry.copy_id, run.end))
            yield (run.end - run.first) * size
        os.fdatasync(self._origin)
        self._mark(None)

    def _runs(self, entry: layout.Entry, first: int) -> Iterator[Run]:
        """Chunks whose content in the copy may be another, in pieces of a step."""
        last = layout.chunk_count(entry.size, self._store.chunk_size) - 1
        step = max(1, STEP_BYTES // self._store.chunk_size)
        reader = ChangeReader(self._store.storage, entry.copy_id)
        try:
            for run in reader.runs(first, last):
                for start in range(run.first, run.end, step):
                    yield Run(start, min(start + step, run.end))
        finally:
            reader.close()

    def _put_back(self, entry: layout.Entry, run: Run) -> None:
        """Write the copy's content over what is in the origin now.

        A chunk that has no slot is as it was, unless the copy has a layer over it: then it gets a slot, as before any
        write, so that the layer finds what lies below it however often this is done again.
        """
        store, size = self._store, self._store.chunk_size
        overlay = find_overlay(store.storage, entry.copy_id)
        try:
            chunks = set(self._slots(entry, range(run.first, run.end)))
            ranges = overlay.runs(run.first * size, run.end * size) if overlay else ()
            chunks |= {chunk for start, end in ranges for chunk in range(start // size, -(-end // size))}
            store.prepare_write([(chunk * size, min(size, store.header.size - chunk * size)) for chunk in chunks])
            slots = self._slots(entry, sorted(chunks))
            for group in layout.runs(slots):
                content = b"".join(self._content(slots[chunk], chunk) for chunk in group)
                content = content[: entry.size - group[0] * size]
                content = overlay.over(group[0] * size, content) if overlay else content
                write_all(self._origin, content, group[0] * size)
        finally:
            if overlay:
                overlay.close()

    def _slots(self, entry: layout.Entry, chunks: Iterable[int]) -> dict[int, int]:
        """Those of the chunks that have a slot in the copy, with it."""
        store = self._store
        found = ((chunk, store.segments.find(store.head.get(chunk), entry.number)) for chunk in chunks)
        return {chunk: slot for chunk, slot in found if slot is not None}

    def _content(self, slot: int, chunk: int) -> bytes:
        segments = self._store.segments
        content = segments.read(slot, 0, self._store.chunk_size)
        word = segments.flags(slot)
        if word & layout.FLAG_DURABLE and word >> 32 != zlib.crc32(content):
            raise OSError(5, f"slot {slot}, which holds chunk {chunk}, is damaged in shadow storage")
        return content

    def _mark(self, marker: Revert | None) -> None:
        if self._store.header.settings.revert != marker:
            self._store.set_revert(marker)

    def _tell(self, kind: str, message: str) -> None:
        self._store.room.add(kind, message)
