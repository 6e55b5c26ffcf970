"""The writer's side of the second place for losses, and how a loss is made known whatever the storage takes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import RLock
from typing import Final
from uuid import UUID

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.digests import sha256
from shadowset.nbd_provider.store.files import sync_directory, write_all
from shadowset.nbd_provider.store.losses import LINK, Loss, gone, pack, read
from shadowset.nbd_provider.store.session import session_id
from shadowset.nbd_provider.store.table import CopyTable

log = logging.getLogger(__name__)

VOLATILE: Final = ("tmpfs", "ramfs")


class LossRecord:
    """The writer's side: ``directory`` of the record (empty: there is none), ``losses`` that stand in it.

    ``places`` are tried in their order: the first that lies on another file system than the storage is taken, else the
    first that can be used at all. Without any, the storage keeps the one that it has. The directory is one of its own
    there: nobody else makes it anew where it is missing, and what is removed from it was recorded here.
    """

    def __init__(self, storage: str, header: layout.Header, places: Sequence[str] = ()) -> None:
        self._storage, self._id = storage, header.storage_id
        self._link = f"{storage}/{LINK}"
        before = os.readlink(self._link) if os.path.islink(self._link) else ""
        missing = before and not header.clean and not os.path.isdir(before)
        if missing and (header.boot_id == session_id(storage) or not _is_volatile(before)):
            raise gone(storage, before)  # of memory another boot leaves nothing, nor of the copies it was good for
        name = _own_name(storage, self._id)
        place = _choose(storage, places or [_place_of(before, self._id)])
        self.directory = f"{place}/{name}" if place and _make(f"{place}/{name}") else ""
        self.durable = bool(self.directory) and not _is_volatile(self.directory)
        self.losses: list[Loss] = []
        self._left = before if before != self.directory and os.path.basename(before) == name else ""
        self._files = {f"{directory}/{self._id}" for directory in (self._left, self.directory) if directory}
        self._others = {f"{before}/{self._id}"} - self._files if before else set()

    def take_over(self) -> list[Loss]:
        """What earlier runs recorded; from now on readers look at ``directory``.

        Errors: ValueError when a record is damaged, OSError.
        """
        paths = self._others | self._files
        found = {loss.copy_id: loss for path in paths for loss in read(path, self._id) or []}
        self.losses = list(found.values())
        return self.losses

    def connect(self) -> None:
        """Lead readers here. Errors: OSError."""
        before = os.readlink(self._link) if os.path.islink(self._link) else ""
        if before == self.directory:
            return
        if self.directory:
            with suppress(FileNotFoundError):
                os.unlink(f"{self._link}.new")
            os.symlink(self.directory, f"{self._link}.new")
            os.rename(f"{self._link}.new", self._link)
        else:
            os.unlink(self._link)
        sync_directory(self._storage)
        if self._left:
            with suppress(OSError):
                os.rmdir(self._left)

    def connect_at(self, storage: str) -> None:
        """Lead those here as well who will read the storage in another directory. Errors: OSError."""
        link = f"{storage}/{LINK}"
        with suppress(FileNotFoundError):
            os.unlink(link)
        if self.directory:
            os.symlink(self.directory, link)

    def moved(self, storage: str) -> None:
        """The storage is in another directory now."""
        self._storage, self._link = storage, f"{storage}/{LINK}"

    def takes(self, persistent: bool) -> bool:
        """Whether there is a place for the loss of such a copy: memory is none for one that outlives a power loss."""
        return self.durable or (bool(self.directory) and not persistent)

    def add(self, loss: Loss) -> None:
        """Record it durably. Errors: OSError; readers may see it all the same, and then it is in ``losses``."""
        losses = [*(each for each in self.losses if each.copy_id != loss.copy_id), loss]
        path = f"{self.directory}/{self._id}"
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, pack(self._id, losses), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        self._files.add(path)
        os.rename(f"{path}.new", path)
        self.losses = losses
        sync_directory(self.directory)

    def clear(self) -> None:
        """The table durably says all that stands here. A file that cannot be removed does no harm and goes later."""
        for path in list(self._files):
            try:
                os.unlink(path)
                sync_directory(os.path.dirname(path))
            except FileNotFoundError:
                pass
            except OSError as error:
                log.warning("the record of losses %s, which nobody needs any more, stays for now: %s", path, error)
                continue
            self._files.discard(path)
        self.losses = []


def _own_name(storage: str, storage_id: UUID) -> str:
    """Two storages have the same id where one was made as a copy of the other's files; no two have the same path."""
    path = os.fsencode(os.path.realpath(storage))
    return f"{storage_id}-{sha256(path).hexdigest()[:16]}"


def _place_of(directory: str, storage_id: UUID) -> str:
    """The place in which this directory of records lies; earlier versions of this program recorded in the place."""
    own = os.path.basename(directory).startswith(str(storage_id))
    return os.path.dirname(directory) if own else directory


def _choose(storage: str, places: Sequence[str]) -> str:
    usable = [os.path.realpath(place) for place in places if place and _make(place)]
    device = os.stat(storage).st_dev
    return next((place for place in usable if os.stat(place).st_dev != device), usable[0] if usable else "")


def _make(place: str) -> bool:
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
        sync_directory(os.path.dirname(place))
    except OSError as error:
        log.warning("losses cannot be recorded in %s: %s", place, error)
        return False
    return True


def _is_volatile(path: str) -> bool:
    """Whether a directory that is or was there lies in memory."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    device = os.stat(path).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = [line.split() for line in file]
    return any(fields[2] == name and fields[fields.index("-") + 1] in VOLATILE for fields in mounts)


class LossKeeper:
    """Makes losses known: in the table, or beside the storage. ``store.work`` is held by those who call it.

    ``in_doubt`` is the newest copy whose end readers see but a power loss would undo, 0 when there is none:
    until ``sync`` succeeds its old data must be kept like that of a living one.
    """

    def __init__(self, table: CopyTable, record: LossRecord, lock: RLock) -> None:
        self._table, self._record, self._lock = table, record, lock
        self.in_doubt = 0

    def take_over(self) -> None:
        """Put into the table what was recorded beside it; a damaged record may have named any living copy."""
        living = [entry for entry in self._table.entries if entry.state in layout.LIVE_STATES]
        try:
            recorded = {loss.copy_id: loss for loss in self._record.take_over()}
        except ValueError as error:
            log.error("the record of lost copies in %s counts for all copies: %s", self._record.directory, error)
            cause, now = layout.CAUSE_DAMAGED, time.time_ns()
            recorded = {entry.copy_id: Loss(entry.copy_id, entry.number, cause, now) for entry in living}
        for entry in living:
            if entry.copy_id in recorded:
                loss = recorded[entry.copy_id]
                self._table.change(entry, state=layout.STATE_LOST, cause=loss.cause, lost_ns=loss.lost_ns)

    def connect(self) -> None:
        """The table is durable: readers look at the record's present place from now on. Errors: OSError."""
        self._record.connect()

    def connect_at(self, storage: str) -> None:
        """As ``LossRecord.connect_at``."""
        self._record.connect_at(storage)

    def moved(self, storage: str) -> None:
        """As ``LossRecord.moved``."""
        self._record.moved(storage)

    def note(self, entry: layout.Entry, cause: int) -> str:
        """Where it was recorded, empty for the row. Errors: OSError; with ``in_doubt`` when only readers know it."""
        loss = Loss(entry.copy_id, entry.number, cause, time.time_ns())
        changes = {"state": layout.STATE_LOST, "cause": cause, "lost_ns": loss.lost_ns}
        try:
            with self._lock:
                self._table.change(entry, **changes)
            if entry.persistent:
                self._sync_twice()
        except OSError as error:
            log.error("the storage takes no word of the loss of shadow copy %s: %s", entry.copy_id, error)
            if not self._record.takes(entry.persistent):
                self._doubt(entry)
                raise
            self._note_beside(entry, loss, changes)
            return self._record.directory
        return ""

    def _note_beside(self, entry: layout.Entry, loss: Loss, changes: dict[str, int]) -> None:
        try:
            self._record.add(loss)
        except OSError as error:
            if loss not in self._record.losses:
                self._doubt(entry)
                raise
            log.error("the record of losses in %s is not durable: %s", self._record.directory, error)
            self._change_later(entry, changes)
            self._doubt(entry)
            if entry.persistent:
                raise
        self._change_later(entry, changes)

    def _change_later(self, entry: layout.Entry, changes: dict[str, int]) -> None:
        with self._lock:
            self._table.change_later(entry, **changes)

    def _doubt(self, entry: layout.Entry) -> None:
        """Readers may know of the copy's end by now; a power loss would undo it."""
        if entry.persistent and entry.state not in layout.LIVE_STATES:
            self.in_doubt = max(self.in_doubt, entry.number)

    def end(self, entry: layout.Entry) -> None:
        """Make the deletion of a copy durable; where the table cannot, its return as a living one is ruled out as a
        loss is. Errors: OSError; with ``in_doubt`` where it may come back."""
        try:
            self.sync()
        except OSError:
            try:
                if not self._record.takes(entry.persistent):
                    raise
                self._record.add(Loss(entry.copy_id, entry.number, layout.CAUSE_ERROR, time.time_ns()))
            except OSError:
                self._doubt(entry)
            raise

    def _sync_twice(self) -> None:
        with suppress(OSError):
            return self.sync()
        return self.sync()

    def sync(self) -> None:
        """Make the table durable; what is recorded beside it is not needed then. Errors: OSError."""
        self._table.sync()
        if self._table.settled:
            self._record.clear()
            self.in_doubt = 0
