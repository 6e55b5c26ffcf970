"""A served volume: origin, shadow storage and the gate that holds writes at the moment of a cut."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final
from uuid import UUID

from shadowset import __version__
from shadowset.nbd_provider.copy_queue import CopyQueue
from shadowset.nbd_provider.handover import Kept
from shadowset.nbd_provider.origin import Origin, refuse
from shadowset.nbd_provider.origin_mark import changed_since, take_mark
from shadowset.nbd_provider.places import check_storage_place, loss_places
from shadowset.nbd_provider.storage_calls import StorageCalls
from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import write_all
from shadowset.nbd_provider.store.move import Mover
from shadowset.nbd_provider.store.move_steps import Progress as MoveProgress
from shadowset.nbd_provider.store.place import locate
from shadowset.nbd_provider.store.revert import Progress, Reverter
from shadowset.nbd_provider.store.room import Event, Seen
from shadowset.nbd_provider.store.settings import Policy
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss.codes import Code, VssError
from shadowset.vss.provider_protocol import (
    Committed,
    CopyInfo,
    EventInfo,
    Events,
    Held,
    MoveInfo,
    Released,
    RevertInfo,
    VolumeDescription,
)

log = logging.getLogger(__name__)

MAX_HOLD_MS = 10_000
SLOW_SECONDS: Final = 0.02
SLOW_REST: Final = 50
LOOK_SECONDS: Final = 1.0


class Gate:
    """Holds writes back. It opens by itself at its deadline, whatever anybody else does."""

    def __init__(self) -> None:
        self.owner: object | None = None
        self.deadline = 0.0
        self.waiting = 0
        self.opened: list[Callable[[], None]] = []
        self._since = 0.0
        self._expired: object | None = None

    @property
    def closed(self) -> bool:
        """Whether writes are held."""
        return self.owner is not None

    def close(self, owner: object, timeout_ms: int) -> None:
        """Hold from now on. Errors: VSS_E_BAD_STATE when another hold is under way."""
        if self.owner is not None:
            raise VssError(Code.VSS_E_BAD_STATE, "writes are already held; release that hold first")
        self.owner, self._expired, self.waiting = owner, None, 0
        self._since = time.monotonic()
        self.deadline = self._since + min(max(timeout_ms, 1), MAX_HOLD_MS) / 1000

    def check(self, owner: object) -> None:
        """Errors: VSS_E_HOLD_WRITES_TIMEOUT when this owner's hold has run out, VSS_E_BAD_STATE when it has none."""
        self.expire()
        if self._expired is owner:
            raise VssError(Code.VSS_E_HOLD_WRITES_TIMEOUT, "the hold ran out and writes flow again; start a new set")
        if self.owner is not owner:
            raise VssError(Code.VSS_E_BAD_STATE, "writes are not held by this connection; send hold first")

    def open(self) -> Released:
        """Let writes flow."""
        held = Released(round((time.monotonic() - self._since) * 1000, 3), self.waiting)
        self.owner = None
        for callback in self.opened:
            callback()
        return held

    def expire(self) -> None:
        """Open the gate when its deadline has passed."""
        if self.owner is not None and time.monotonic() >= self.deadline:
            self._expired = self.owner
            log.error("the hold of writes reached its deadline; writes flow again")
            self.open()

    def drop(self, owner: object) -> None:
        """The owner is gone: its hold ends."""
        if self.owner is owner:
            log.error("whoever held the writes has gone; writes flow again")
            self.open()


class Volume:
    """One protected volume; methods belong to the server's thread unless they say otherwise."""

    def __init__(
        self,
        name: str,
        origin: str,
        storage: str,
        chunk_size: int = layout.DEFAULT_CHUNK_SIZE,
        losses: str | None = "",
        kept: Kept | None = None,
        copies: int | None = None,
    ) -> None:
        """``losses`` as for ``loss_places``; empty: the storage's own. ``kept`` by another process.
        ``copies``: the most that a new storage can have."""
        self.name = name
        self.origin = Origin(origin, kept.origin if kept else -1)
        try:
            check_storage_place(origin, locate(storage))
            places = loss_places(origin, losses) if losses != "" else []
            mark = partial(changed_since, origin=self.origin)
            left = (kept.lock, kept.next_slot) if kept else (-1, -1)
            size = self.origin.size
            self.store = ShadowStore(storage, self.origin.fd, size, chunk_size, mark, places, *left, copies)
        except BaseException:
            self.origin.close()
            raise
        self.gate = Gate()
        self.nbd_socket = ""
        self.store.volume_name = name
        self.reverter = Reverter(self.store, self.origin.fd)
        self.mover = Mover(self.store)
        self.clients: Callable[[], int] = lambda: 0
        self.copies = CopyQueue(self.prepare_write)
        self.calls = StorageCalls(self.idle_work, self._pauses, lambda: self.clients() > 0)
        self._revert_begins = False
        self._slow_until = self._next_look = 0.0
        self._looking = False
        self.stall_ms = 0.0
        """How long requests waited when this process took over from another one."""
        self._told = 0

    def hold(self, owner: object, timeout_ms: int) -> Held:
        """Hold writes. Those whose old data is being copied out have not begun, and wait for the release, too."""
        started = time.monotonic()
        self.check_usable()
        self.gate.expire()
        self.gate.close(owner, timeout_ms)
        if self.store.header.settings.limits.policy is not Policy.DELETE_OLDEST:
            self.calls.add(self.look, lambda _: None)
        return Held(round((time.monotonic() - started) * 1000, 3))

    def commit(self, owner: object, copy_id: str, set_id: str, created_ns: int, persistent: bool) -> Committed:
        """Make the cut of a held volume."""
        self.gate.check(owner)
        entry = self.store.commit(parse_id(copy_id), parse_id(set_id), created_ns, persistent, look=False)
        return Committed(entry.number)

    def look(self) -> Seen | None:
        """How much room the storage has; for a thread. None where that cannot be asked: who needs room is told why."""
        self.store.writeback.look_if_free()
        try:
            return self.store.room.look()
        except OSError:
            return None

    def look_for_late_errors(self) -> None:
        """Once a second while a copy lives; a thread gives up those whose data was lost."""
        now = time.monotonic()
        if self._looking or now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        if self.store.writeback.wanted:
            self._looking = True
            self.calls.add(self.store.writeback.look, self._looked)

    def _looked(self, result: object) -> None:
        self._looking = False
        if isinstance(result, BaseException):
            log.error("volume %s: late errors of its storage cannot be looked for: %s", self.name, result)

    def release(self, owner: object) -> Released:
        """Let writes flow."""
        self.gate.check(owner)
        return self.gate.open()

    def delete(self, copy_id: str, force: bool) -> None:
        """Delete a copy. Errors: as ``ShadowStore.delete``, VSS_E_REVERT_IN_PROGRESS for the target of a revert."""
        if self.reverter.protects(parse_id(copy_id)):
            message = f"volume {self.name} is being reverted to shadow copy {copy_id}; delete it when that is done"
            raise VssError(Code.VSS_E_REVERT_IN_PROGRESS, message)
        self.store.delete(parse_id(copy_id), force)

    def revert(self, copy_id: str) -> Callable[[], RevertInfo]:
        """Start taking the volume back to a copy, by what it returns, which is for a thread; nobody gets at the volume
        from now on. Errors: VSS_E_VOLUME_IN_USE, VSS_E_BAD_STATE, then as ``Reverter.begin``.
        """
        copy = parse_id(copy_id)
        clients = self.clients()
        if clients:
            message = f"volume {self.name} is in use by {clients} clients of its live export; detach it, then revert"
            raise VssError(Code.VSS_E_VOLUME_IN_USE, message)
        if self.gate.closed:
            raise VssError(Code.VSS_E_BAD_STATE, f"writes to volume {self.name} are held for a shadow copy; try later")
        self._revert_begins = True

        def begin() -> RevertInfo:
            try:
                self._refuse_moving()
                return _revert_info(self.reverter.begin(copy))
            finally:
                self._revert_begins = False

        return begin

    def move(self, storage: str) -> MoveInfo:
        """Start moving the shadow storage. Errors: as ``Mover.begin`` and ``check_usable``."""
        self.check_usable()
        check_storage_place(self.origin.path, storage)
        return _move_info(self.mover.begin(storage))

    def _refuse_moving(self) -> None:
        if self.mover.active:
            message = f"the shadow storage of volume {self.name} is being moved; wait until that is done, or cancel it"
            raise VssError(Code.VSS_E_BAD_STATE, message)

    def resize(self) -> VolumeDescription:
        """Take in what the origin has gained. Errors: VSS_E_VOLUME_NOT_SUPPORTED when it shrank, OSError, and as
        ``check_usable``; VSS_E_BAD_STATE while writes are held."""
        self.check_usable()
        if self.gate.closed:
            raise VssError(Code.VSS_E_BAD_STATE, f"writes to volume {self.name} are held for a shadow copy; try later")
        size = self.origin.measure()
        if size < self.origin.size:
            reason = f"shrank from {self.origin.size} to {size} bytes, and what was cut off is still served"
            raise refuse(self.origin.path, reason, "make it as large again at once")
        if size > self.origin.size:
            self.store.grow(size)
            self.origin.size = size
        return self.describe(self.look())

    def check_usable(self) -> None:
        """Errors: VSS_E_REVERT_IN_PROGRESS while a revert is under way or has left a mixture behind."""
        if self._revert_begins:
            raise VssError(Code.VSS_E_REVERT_IN_PROGRESS, f"volume {self.name}: a revert begins; try when it has ended")
        progress = self.reverter.progress
        if progress is not None and self.reverter.blocks:
            share = f"{progress.done} of {progress.total} bytes are done"
            state = f"has stopped: {progress.reason}" if progress.reason else f"is under way, {share}"
            message = f"volume {self.name}: the revert to shadow copy {progress.copy_id} {state}; try when it has ended"
            raise VssError(Code.VSS_E_REVERT_IN_PROGRESS, message)

    def idle_work(self) -> Iterator[int] | None:
        """What is to be done between requests: a revert, or a move, then giving space back."""
        return self.reverter.work() or self.mover.work() or self.store.space.work()

    def _pauses(self) -> bool:
        """Whether idle work waits for copy-outs. A move does not: it would never end while they come one by one."""
        return self.copies.busy and not self.mover.active

    def describe(self, seen: Seen | None) -> VolumeDescription:
        """The volume and its copies, with what a ``look`` has just seen of the room: none where that is None."""
        limits = self.store.header.settings.limits
        available = seen.available(limits) if seen else 0
        return VolumeDescription(
            name=self.name,
            origin=self.origin.path,
            storage=self.store.storage,
            size=self.origin.size,
            chunk_size=self.store.chunk_size,
            generation=self.store.header.generation,
            storage_used=seen.used if seen else 0,
            nbd_socket=self.nbd_socket,
            pid=os.getpid(),
            holding=self.gate.closed,
            copies=[_copy_info(entry) for entry in self.store.table.entries],
            max_size=limits.max_size,
            policy=limits.policy.text,
            warn_percent=limits.warn_percent,
            storage_available=available,
            revert=_revert_info(self.reverter.progress) if self.reverter.progress else None,
            move=_move_info(self.mover.progress) if self.mover.progress else None,
            version=__version__,
            stall_ms=self.stall_ms,
            clients=self.clients(),
            writes_refused=self.store.room.refusal(available) if self.store.newest else "",
        )

    def configure(self, max_size: int | None, policy: str | None, warn_percent: int | None) -> VolumeDescription:
        """Other limits of the storage, where not None. Errors: E_INVALIDARG, OSError."""
        limits = self.store.header.settings.limits.changed(max_size, policy, warn_percent)
        if limits != self.store.header.settings.limits:
            self.store.configure(limits)
        return self.describe(self.look())

    def events(self, after: int) -> Events:
        """Events with higher numbers than ``after``; the others have been heard."""
        self._told = max(self._told, after)
        return Events(
            [
                EventInfo(each.number, each.time_ns, each.kind, each.message, each.copy_id, each.cause, each.freed)
                for each in list(self.store.room.events)
                if each.number > after
            ]
        )

    def unheard(self) -> list[EventInfo]:
        """Events that nobody has asked beyond."""
        return self.events(self._told).events

    def inherit(self, events: Sequence[EventInfo]) -> None:
        """Events of the process before that nobody has heard of."""
        self.store.room.inherit(
            Event(0, each.time_ns, each.event, each.message, each.copy_id, each.cause, each.freed) for each in events
        )

    def check_handover(self) -> None:
        """Errors: VSS_E_BAD_STATE while writes are held or a revert begins."""
        if self.gate.closed or self._revert_begins:
            what = "a revert begins" if self._revert_begins else "writes are held for a shadow copy"
            raise VssError(Code.VSS_E_BAD_STATE, f"volume {self.name} cannot be handed over while {what}; try again")

    def let_go(self) -> Kept:
        """Close everything as a kill would, for a process that goes on at once: the origin is not even flushed."""
        self.reverter.close()
        self.mover.close()
        kept = Kept(os.dup(self.origin.fd), self.store.keep_lock(), self.store.next_slot)
        self.store.close(clean=False)
        self.origin.close()
        return kept

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the live volume. Errors: OSError."""
        content = os.pread(self.origin.fd, length, offset)
        while len(content) < length:
            more = os.pread(self.origin.fd, length - len(content), offset + len(content))
            if not more:
                raise OSError(5, f"the origin ends at byte {offset + len(content)}")
            content += more
        return content

    def may_write(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether the ranges may be written now, after a copy-out if that is cheap; others go through ``copies``."""
        missing = self.store.missing(ranges)
        return not missing or self._copy_out_now(missing)

    def _copy_out_now(self, missing: set[int]) -> bool:
        """Without a sync, without waiting for the origin's disk, and not while the storage is slow or in use.

        A loop that has waited for a slow storage once leaves it to a thread for fifty times as long.
        """
        started = time.monotonic()
        if self.copies.busy or self.store.durable or started < self._slow_until:
            return False
        copied = self.store.copy_out_now(missing)
        ended = time.monotonic()
        if ended - started > SLOW_SECONDS:
            self._slow_until = ended + SLOW_REST * (ended - started)
        return copied

    def prepare_write(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Copy out what is about to be overwritten, however long it takes; from any thread. Errors: OSError."""
        self.store.prepare_write(ranges)

    def write(self, offset: int, data: memoryview) -> None:
        """Overwrite; ``may_write`` must have agreed, or ``prepare_write`` have ended. Errors: OSError."""
        write_all(self.origin.fd, data, offset)

    def flush(self) -> None:
        """Make all finished writes durable; may be called from any thread. Errors: OSError."""
        os.fdatasync(self.origin.fd)

    def close(self) -> None:
        """Make everything durable and close it."""
        self.gate.owner = None
        self.reverter.close()
        self.mover.close()
        self.flush()
        self.store.close(mark=take_mark(self.origin))
        self.origin.close()


def parse_id(text: str) -> UUID:
    """A GUID from its text. Errors: E_INVALIDARG."""
    try:
        return UUID(text)
    except ValueError:
        raise VssError(
            Code.E_INVALIDARG, f"{text!r} is not a GUID; give one as 8-4-4-4-12 hexadecimal digits"
        ) from None


def _revert_info(progress: Progress) -> RevertInfo:
    return RevertInfo(str(progress.copy_id), progress.phase, progress.done, progress.total, progress.reason)


def _move_info(progress: MoveProgress) -> MoveInfo:
    return MoveInfo(progress.storage, progress.phase, progress.done, progress.total, progress.reason)


def _copy_info(entry: layout.Entry) -> CopyInfo:
    return CopyInfo(
        copy_id=str(entry.copy_id),
        set_id=str(entry.set_id),
        number=entry.number,
        created_ns=entry.created_ns,
        persistent=entry.persistent,
        pending=entry.state == layout.STATE_PENDING,
        size=entry.size,
        lost=entry.state == layout.STATE_LOST,
        cause=layout.CAUSES[entry.cause],
        priority=entry.priority,
        hold_until_ns=entry.hold_until_ns,
        lost_bytes=entry.lost_bytes,
        attributes=entry.attributes,
    )
