"""The one writer of a volume's shadow storage: cuts, deletion, losses, recovery after a crash."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from threading import RLock
from uuid import UUID

from shadowset.nbd_provider.store import copy_out, layout
from shadowset.nbd_provider.store.create import create_storage, lengthen_head, new_head, put_in_place
from shadowset.nbd_provider.store.files import Segments, Words, read_header, sync_directory
from shadowset.nbd_provider.store.loss_record import LossKeeper, LossRecord
from shadowset.nbd_provider.store.opening import check_origin, check_size, first_unused, remember_losses, tell_damage
from shadowset.nbd_provider.store.place import (
    MOVING,
    is_lock_of,
    locate,
    read_note,
    settle,
    take_lock,
    with_session,
)
from shadowset.nbd_provider.store.recovery import damage, recover, rescue
from shadowset.nbd_provider.store.room import COPY_LOST, Event, Room, used_bytes
from shadowset.nbd_provider.store.session import session_id
from shadowset.nbd_provider.store.settings import NO_MARK, Limits, OriginMark, Policy, Revert
from shadowset.nbd_provider.store.space import Space
from shadowset.nbd_provider.store.table import CopyTable
from shadowset.nbd_provider.store.writeback import Writeback
from shadowset.vss.codes import Code, VssError

log = logging.getLogger(__name__)


class ShadowStore:
    """Shadow storage of the volume whose content ``origin_fd`` reads.

    ``work`` is held by whatever writes the storage, also while it waits for the disk: one thing at a time. ``lock``
    guards the table of copies, ``newest`` with ``durable``, and the exchange of ``head``; nobody waits for a sync while
    holding it, so that a cut never waits. Who needs both takes ``work`` first.
    """

    def __init__(
        self,
        storage: str,
        origin_fd: int,
        size: int,
        chunk_size: int = layout.DEFAULT_CHUNK_SIZE,
        changed_since: Callable[[OriginMark], str] = lambda _: "",
        losses: Sequence[str] = (),
        lock: int = -1,
        next_slot: int = -1,
        copies: int | None = None,
    ) -> None:
        """``lock`` is the descriptor of the storage's lock, and ``next_slot`` the first that was never taken, when
        another process has left them. The descriptor is taken over. ``copies``: the most in a new storage."""
        storage = locate(storage)
        os.makedirs(storage, mode=0o700, exist_ok=True)
        self.storage = storage
        self.moving = False
        self.volume_name = ""
        self.room = Room(storage)
        self.work = RLock()
        self.lock = RLock()
        self._origin = origin_fd
        self._copy_out = copy_out.CopyOut(self, origin_fd)
        self.space = Space(self, self._copy_out)
        self.writeback = Writeback(self)
        self._changed_since = changed_since
        self._places = losses
        self._lock = lock if is_lock_of(storage, lock) else take_lock(storage)
        try:
            settle(storage)
            self.moving = read_note(storage, MOVING) is not None
            if not os.path.exists(f"{storage}/table"):
                create_storage(storage, size, chunk_size, copies)
            header = read_header(storage)
            check_size(storage, header, size, self._changed_since)
            self._open(header, next_slot)
            if header.size < size:
                self.grow(size)
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self, header: layout.Header, next_slot: int) -> None:
        self.header = header
        self.chunk_size = header.chunk_size
        self.chunks = layout.chunk_count(header.size, header.chunk_size)
        self.shift = header.chunk_size.bit_length() - 1
        self.table = CopyTable(self.storage, header)
        self.segments = Segments(self.storage, header.chunk_size, writable=True)
        wrong = damage(self.storage, self.chunks)
        self.head = new_head(self.storage, self.chunks) if wrong else Words(f"{self.storage}/head", self.chunks)
        self._losses = LossKeeper(self.table, LossRecord(self.storage, header, self._places), self.lock)
        self._losses.take_over()
        if not header.clean and header.boot_id != session_id(self.storage):
            recover(self)
        elif wrong:
            rescue(self, wrong)
        check_origin(self, self._changed_since)
        if not header.clean:
            self.table.write_rows()
        header.clean = False
        header.boot_id = session_id(self.storage)
        header.generation = max([header.generation, *(entry.number for entry in self.table.entries)])
        unused = first_unused(self.segments, self.storage, self.chunk_size) if next_slot < 0 else next_slot
        self._copy_out.start_at(max(header.next_slot, unused))
        self.space.garbage = bool(self._copy_out.next_slot) or os.path.exists(f"{self.storage}/overlays")
        self._update()
        self.write_header()
        self._losses.connect()
        remember_losses(self)
        tell_damage(self)
        self.writeback.begin()
        if not self.table.live and self._copy_out.next_slot and not self.moving:
            self.space.start_afresh()

    def write_header(self) -> None:
        with self.lock:
            self.header.next_slot = self._copy_out.next_slot
            self.table.write_header()
        self.sync()

    # ---- cuts ----

    @property
    def short(self) -> bool:
        """Whether a new copy would be refused by what was last seen of the room."""
        limits = self.header.settings.limits
        return limits.policy is not Policy.DELETE_OLDEST and self.room.short(limits, self._least_room)

    @property
    def _least_room(self) -> int:
        return copy_out.GROWTH_SLOTS * self.slot_size

    def commit(self, copy_id: UUID, set_id: UUID, created_ns: int, persistent: bool, look: bool = True) -> layout.Entry:
        """Make the cut: from now on old data is kept for this copy. Nothing is allocated and nothing is synced.

        Without ``look``, room is judged by what was last seen of it, and no disk is waited for.

        Errors: VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED, VSS_E_OBJECT_ALREADY_EXISTS, VSS_E_INSUFFICIENT_STORAGE.
        """
        with self.lock:
            return self._cut(copy_id, set_id, created_ns, persistent, look)

    def _cut(self, copy_id: UUID, set_id: UUID, created_ns: int, persistent: bool, look: bool) -> layout.Entry:
        number = self.header.generation + 1
        if number > layout.MAX_GENERATION:
            raise VssError(
                Code.VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED,
                f"shadow storage {self.storage} has counted {number - 1} cuts, which is all; use a new directory",
            )
        limits = self.header.settings.limits
        if limits.policy is not Policy.DELETE_OLDEST:
            self.room.check_new_copy(limits, self._least_room, self.volume_name, look)
        entry = layout.Entry(layout.STATE_PENDING, persistent, number, created_ns, self.header.size, copy_id, set_id)
        self.header.generation = number
        self.table.write_header()
        self.table.add(entry)
        self._update()
        return entry

    def finish(self, copy_id: UUID, attributes: int = 0) -> None:
        """The copy's set exists as a whole; a persistent copy is durable when this returns.

        ``attributes`` are kept for a coordinator that does not know the copy any more.
        What a persistent copy takes from the origin has to be on the origin's disk too. Errors: OSError.
        """
        entry = self.table.find(copy_id)
        if entry.persistent:
            os.fdatasync(self._origin)
        with self.work:
            self.writeback.look()
            with self.lock:
                if entry.state == layout.STATE_PENDING:
                    kept = attributes & layout.ENTRY_ATTRIBUTES
                    self.table.change(entry, state=layout.STATE_CREATED, attributes=kept)
            if entry.persistent:
                self.write_header()

    def delete(self, copy_id: UUID, force: bool = False) -> None:
        """Delete a copy; its space comes back through ``reclaim``.

        Errors: VSS_E_OBJECT_NOT_FOUND, VSS_E_BAD_STATE when it is held and ``force`` is not given.
        """
        with self.work:
            self._delete(self.table.find(copy_id), force)

    def _delete(self, entry: layout.Entry, force: bool) -> None:
        if not force and entry.state in layout.LIVE_STATES and entry.hold_until_ns > time.time_ns():
            until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.hold_until_ns // 10**9))
            message = f"shadow copy {entry.copy_id} is held until {until}; end its hold first, or delete it with force"
            raise VssError(Code.VSS_E_BAD_STATE, message)
        with self.lock:
            self.table.change(entry, state=layout.STATE_DELETED)
        self.space.garbage = True
        try:
            if entry.persistent:
                self._losses.end(entry)
        finally:
            self._update()
        if not self.table.live:
            self.space.start_afresh()

    def configure(self, limits: Limits) -> None:
        """Other limits from now on; they are durable when this returns. Errors: OSError."""
        with self.work:
            self.header.settings.limits = limits
            self.write_header()

    def set_revert(self, revert: Revert | None) -> None:
        """Note durably that a revert is under way, or that none is. Errors: OSError.

        Where the first note of one failed and cannot be taken back durably, it stands: the next start may find it.
        """
        with self.work:
            before, self.header.settings.revert = self.header.settings.revert, revert
            try:
                self.write_header()
            except OSError:
                self.header.settings.revert = before
                if before is None:
                    self._take_back(revert)
                raise

    def _take_back(self, revert: Revert | None) -> None:
        try:
            self.write_header()
        except OSError:
            self.header.settings.revert = revert

    def make_persistent(self, entry: layout.Entry) -> None:
        """A copy whose slots and origin are durable is persistent from now on. Errors: OSError."""
        with self.work:
            self.writeback.look()
            if entry.state not in layout.LIVE_STATES:
                raise OSError(errno.EIO, f"shadow copy {entry.copy_id} was lost")
            with self.lock:
                self.table.change(entry, persistent=True)
                self._update()
            self.write_header()

    def set_copy(self, copy_id: UUID, priority: int | None, hold_until_ns: int | None) -> None:
        """Change a copy's priority (0 to 255) and retention. Errors: VSS_E_OBJECT_NOT_FOUND, E_INVALIDARG."""
        entry = self.table.find(copy_id)
        if priority is not None and not 0 <= priority <= 255:
            raise VssError(Code.E_INVALIDARG, f"{priority} is no priority of a shadow copy; give 0 to 255")
        if hold_until_ns is not None and not 0 <= hold_until_ns < 1 << 63:
            raise VssError(Code.E_INVALIDARG, f"{hold_until_ns} is no time; give nanoseconds since 1970, 0 for no hold")
        fields = {"priority": priority, "hold_until_ns": hold_until_ns}
        with self.work:
            with self.lock:
                self.table.change(entry, **{name: value for name, value in fields.items() if value is not None})
            self.sync()

    def lose(self, entry: layout.Entry, reason: str, cause: int = layout.CAUSE_ERROR) -> Event:
        """Give a copy up because its old data cannot be kept; the live volume goes on.

        Durable first and only then in effect: once ``newest`` is lower the origin may change, and a copy that was back
        after a restart would be wrong. Errors: OSError when it can be made known, or durable, nowhere.
        """
        known = entry.state
        try:
            where = self._losses.note(entry, cause)
        except OSError:
            if entry.state != known:
                self._tell_loss(entry, reason)
                self._update()
            raise
        self._update()
        beside = f"; recorded in {where}, since the storage takes no write" if where else ""
        return self._tell_loss(entry, reason + beside)

    def _tell_loss(self, entry: layout.Entry, reason: str) -> Event:
        message = f"shadow copy {entry.copy_id} (generation {entry.number}) is lost: {reason}"
        return self.room.add(COPY_LOST, message, entry)

    def mend(self) -> None:
        """Make good a sync or a write of the table that failed, if that is possible by now."""
        if not self.table.settled:
            try:
                self.sync()
            except OSError as error:
                log.error("shadow storage %s: its table could not be made durable: %s", self.storage, error)

    def sync(self) -> None:
        """Make the table durable. Errors: OSError."""
        self._losses.sync()
        self._update()

    def _update(self) -> None:
        with self.lock:
            self.newest = max(self.table.newest, self._losses.in_doubt)
            self.durable = self.table.durable or self._losses.in_doubt > 0

    def replace_head(self, head: Words, only_unused: bool = False) -> bool:
        """Whether ``head`` is in use now; a cut cannot come between the look at the copies and the exchange."""
        with self.lock:
            if only_unused and self.table.live:
                head.close()
                return False
            put_in_place(self.storage, head)
            old, self.head = self.head, head
        old.close()
        sync_directory(self.storage)
        return True

    def replace_segments(self) -> None:
        """Begin with none. The old files stay with those who have them open."""
        self.segments.close()
        self.segments = Segments(self.storage, self.chunk_size, writable=True)

    def prepare_switch(self, storage: str) -> bytes:
        """Make all durable that another directory is to hold as well; returns its table. ``work`` is held. OSError."""
        self.writeback.look()
        self.table.tell_left()
        self.sync()
        self._losses.connect_at(storage)
        return with_session(self.table.image, session_id(storage))

    def switch_to(self, storage: str, head: Words, segments: Segments, table: int, written: bytes, lock: int) -> None:
        """Go on in another directory, which holds the same and counts from now on; ``table`` has ``written`` in it.

        To be called with ``work`` held, so that no origin changes before those who read the old files are told.
        """
        with self.lock:
            self.header.boot_id = session_id(storage)
            self.table.switch(table, written)
            old_head, self.head = self.head, head
            old_segments, self.segments = self.segments, segments
            self.storage = storage
            self.room.move(storage)
        self._losses.moved(storage)
        old_lock, self._lock = self._lock, lock
        self._copy_out.start_at(self._copy_out.next_slot)
        old_head.close()
        old_segments.close()
        os.close(old_lock)

    def grow(self, size: int) -> None:
        """The volume has ``size`` bytes from now on, more than before; its copies keep theirs. Errors: OSError.

        ``head`` is as long as the size says at every moment, since readers map it as long as the header says.
        """
        with self.work:
            self._grow(size, layout.chunk_count(size, self.chunk_size))

    def _grow(self, size: int, chunks: int) -> None:
        lengthen_head(self.storage, chunks)
        log.info("the volume of shadow storage %s grew from %d to %d bytes", self.storage, self.header.size, size)
        with self.lock:
            self.head.enlarge(chunks)
            self.chunks = chunks
            self.header.size = size
        self.write_header()

    # ---- the write path ----

    def prepare_write(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Copy out what the given (offset, length) ranges are about to overwrite. Returns when they may be written.

        A copy whose old data cannot be kept is lost and reported, the live volume goes on. Errors: OSError when no
        copy may be lost, by the policy protect-copies or because all that live are held; then nothing may be written.
        """
        if self.missing(ranges):
            with self.work:
                self.mend()
                self.writeback.look_if_due()
                self._copy_out.copy(sorted(self.missing(ranges)))

    def copy_out_now(self, chunks: set[int]) -> bool:
        """Copy out missing chunks at once, or say False: they are many or in no memory, the storage is in use, has to
        grow, or has not taken them. No copy is lost here, and none must be persistent, as it does not sync.
        """
        if not self.work.acquire(blocking=False):
            return False
        try:
            return self.table.settled and (not self.newest or self._copy_out.now(sorted(chunks)))
        except (OSError, EOFError):
            return False
        finally:
            self.work.release()

    def unkept(self, ranges: Sequence[tuple[int, int]]) -> list[int]:
        """Which of the (offset, length) ranges, by index, have a chunk that is ``missing``."""
        if not self.newest:
            return []
        shift = self.shift
        found = []
        with self.lock:
            limit, view, ready = self.newest << layout.SLOT_BITS, self.head.view, self.head.ready
            for index, (offset, length) in enumerate(ranges):
                first, last = offset >> shift, (offset + length - 1) >> shift
                try:
                    ready(first, last - first + 1)
                except OSError:  # nobody knows what is kept
                    found.append(index)
                    continue
                if view[first] < limit or (first != last and min(view[first : last + 1]) < limit):
                    found.append(index)
        return found

    def missing(self, ranges: Sequence[tuple[int, int]]) -> set[int]:
        """Chunks of the ranges whose old content the newest copy takes from the origin."""
        shift = self.shift
        need: set[int] = set()
        if not self.newest:
            return need
        with self.lock:
            limit, view = self.newest << layout.SLOT_BITS, self.head.view
            for offset, length in ranges:
                first = offset >> shift
                last = (offset + length - 1) >> shift
                try:
                    self.head.ready(first, last - first + 1)
                except OSError:  # nobody knows what is kept
                    need.update(range(first, last + 1))
                    continue
                if first == last:
                    if view[first] < limit:
                        need.add(first)
                else:
                    words = view[first : last + 1].tolist()
                    need.update(chunk for chunk, word in enumerate(words, first) if word < limit)
        return need

    def preserved(self, offset: int, length: int) -> list[tuple[int, int]]:
        """The parts of a range, as (offset, length), whose old content no living copy takes from the origin.

        Where ``head`` cannot be read there may be none.
        """
        if not self.newest:
            return [(offset, length)]
        size, end = self.chunk_size, offset + length
        first, last = offset // size, (end - 1) // size
        with self.lock:
            try:
                self.head.ready(first, last - first + 1)
            except OSError:
                return []
            limit, words = self.newest << layout.SLOT_BITS, self.head.view[first : last + 1].tolist()
        parts = []
        for run in layout.runs([chunk for chunk, word in enumerate(words, first) if word >= limit]):
            start = max(offset, run[0] * size)
            parts.append((start, min(end, (run[-1] + 1) * size) - start))
        return parts

    # ---- figures and end ----

    @property
    def next_slot(self) -> int:
        """The first slot that was never taken."""
        return self._copy_out.next_slot

    @property
    def living(self) -> set[UUID]:
        """The copies that live, pending ones among them."""
        with self.lock:
            return {entry.copy_id for entry in self.table.entries if entry.state in layout.LIVE_STATES}

    @property
    def slot_size(self) -> int:
        """Bytes that a slot takes with its record."""
        return self.chunk_size + layout.SLOT_RECORD_SIZE

    @property
    def used(self) -> int:
        """Bytes that the storage takes on disk."""
        return used_bytes(self.storage)

    def keep_lock(self) -> int:
        """Another descriptor of the lock, which stays locked until it is closed too."""
        return os.dup(self._lock)

    def close(self, clean: bool = True, mark: OriginMark = NO_MARK) -> None:
        """Close the storage; a clean end spares the next start a recovery, and ``mark`` lets it check the origin."""
        if clean:
            self.writeback.sync_slots()
            self.header.clean = True
            self.header.settings.mark = mark
            self.write_header()
        self.head.close()
        self.segments.close()
        self.table.close()
        os.close(self._lock)
