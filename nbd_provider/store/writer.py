"""The one writer of a volume's shadow storage: cuts, copy-out before overwrite, deletion, recovery after a crash."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO
from uuid import UUID, uuid4

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import Segments, Words, read_header, storage_error, sync_directory
from shadowset.nbd_provider.store.reclaim import Reclaimer
from shadowset.nbd_provider.store.recovery import boot_id, rebuild
from shadowset.nbd_provider.store.room import COPY_LOST, FULL, Event, Room, WriteRefused, used_bytes, victim
from shadowset.nbd_provider.store.settings import NO_MARK, Limits, OriginMark, Policy
from shadowset.nbd_provider.store.table import CopyTable
from shadowset.vss.codes import Code, VssError

log = logging.getLogger(__name__)

BATCH_CHUNKS = 256
GROWTH_SLOTS = 256


def create_storage(storage: str, size: int, chunk_size: int, capacity: int = layout.DEFAULT_CAPACITY) -> None:
    """Make an empty shadow storage for a volume of ``size`` bytes in a new or empty directory."""
    if not layout.MIN_CHUNK_SIZE <= chunk_size <= layout.MAX_CHUNK_SIZE or chunk_size & (chunk_size - 1):
        raise VssError(
            Code.E_INVALIDARG,
            f"chunk size {chunk_size} is no power of two between {layout.MIN_CHUNK_SIZE} and {layout.MAX_CHUNK_SIZE}",
        )
    os.makedirs(f"{storage}/segments", mode=0o700, exist_ok=True)
    make_head(storage, layout.chunk_count(size, chunk_size)).close()
    header = layout.Header(chunk_size, size, capacity, uuid4(), boot_id(), True, 0, 0)
    temporary = f"{storage}/table.new"
    with private_file(temporary) as file:
        file.write(header.pack())
        file.truncate(layout.table_size(capacity))
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, f"{storage}/table")
    sync_directory(storage)


def private_file(path: str) -> BinaryIO:
    """A new file that only its owner reads: it holds, or leads to, data that was deleted from the volume."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")


def make_head(storage: str, chunks: int) -> Words:
    """A ``head`` of zeros in place of the older one; opened before, so that whatever fails, one head is in use."""
    temporary = f"{storage}/head.new"
    with private_file(temporary) as file:
        file.truncate(max(chunks, 1) * 8)
        os.fsync(file.fileno())
    head = Words(temporary, chunks, writable=True)
    try:
        os.rename(temporary, f"{storage}/head")
    except OSError:
        head.close()
        raise
    return head


class ShadowStore:
    """Shadow storage of the volume whose content ``origin_fd`` reads; all methods belong to one thread."""

    def __init__(
        self,
        storage: str,
        origin_fd: int,
        size: int,
        chunk_size: int = layout.DEFAULT_CHUNK_SIZE,
        changed_since: Callable[[OriginMark], str] = lambda _: "",
    ) -> None:
        os.makedirs(storage, mode=0o700, exist_ok=True)
        self.storage = storage
        self.volume_name = ""
        self.room = Room(storage)
        self._origin = origin_fd
        self._changed_since = changed_since
        self._lock = self._take_lock()
        try:
            if not os.path.exists(f"{storage}/table"):
                create_storage(storage, size, chunk_size)
            header = read_header(storage)
            self._check_size(header, size)
            self._open(header)
            if header.size < size:
                self.grow(size)
        except BaseException:
            os.close(self._lock)
            raise

    def _take_lock(self) -> int:
        fd = os.open(f"{self.storage}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise VssError(
                Code.VSS_E_PROVIDER_IN_USE,
                f"shadow storage {self.storage} is in use by another provider; stop that one first",
            ) from None
        return fd

    def _open(self, header: layout.Header) -> None:
        self.header = header
        self.chunk_size = header.chunk_size
        self.chunks = layout.chunk_count(header.size, header.chunk_size)
        self._shift = header.chunk_size.bit_length() - 1
        self.table = CopyTable(self.storage, header)
        self.segments = Segments(self.storage, header.chunk_size, writable=True)
        self.head = Words(f"{self.storage}/head", self.chunks, writable=True)
        if not header.clean and header.boot_id != boot_id():
            self._recover()
        self._check_origin()
        header.clean = False
        header.boot_id = boot_id()
        header.generation = max([header.generation, *(entry.number for entry in self.table.entries)])
        self._next_slot = max(header.next_slot, self._used_end())
        self._reserved_end = 0
        self.garbage = bool(self._next_slot)
        self.newest = self.table.newest
        self.durable = self.table.durable
        self._write_header()
        self._remember_losses()
        if not self.table.live and self._next_slot:
            self.reset()

    def _check_size(self, header: layout.Header, size: int) -> None:
        """An origin may have grown, but must be the same: another volume would cost all copies."""
        change = self._changed_since(header.settings.mark) if header.clean and size > header.size else ""
        if size < header.size or change:
            reason = f"it belongs to a volume of {header.size} bytes and the origin has {size}"
            reason += f" and is not that volume grown: {change}" if change else ""
            raise storage_error(self.storage, reason, "give each volume a storage directory of its own")

    def _check_origin(self) -> None:
        """Copies of an origin that somebody else changed are lost; durably so before the mark is taken away."""
        mark, self.header.settings.mark = self.header.settings.mark, NO_MARK
        if not self.header.clean or not self.table.live:
            return
        change = self._changed_since(mark)
        for entry in self.table.entries if change else []:
            if entry.state in layout.LIVE_STATES:
                reason = f"the origin was changed while no provider had it: {change}"
                self.lose(entry, reason, layout.CAUSE_ORIGIN_CHANGED)

    def _remember_losses(self) -> None:
        """Copies that were lost in earlier runs are told of as well."""
        known = {event.copy_id for event in self.room.events}
        for entry in self.table.entries:
            if entry.state == layout.STATE_LOST and str(entry.copy_id) not in known:
                self.room.add(COPY_LOST, f"shadow copy {entry.copy_id} was lost in an earlier run", entry)

    def _used_end(self) -> int:
        """The first slot after all that were ever taken, from the records of the last segment."""
        names = [int(name, 16) for name in os.listdir(f"{self.storage}/segments")]
        if not names:
            return 0
        records = self.segments.get(max(names)).records
        for start in reversed(range(0, layout.SEGMENT_DATA, layout.PAGE)):
            taken = len(records[start : start + layout.PAGE].rstrip(b"\0"))
            if taken:
                return max(names) * layout.SEGMENT_SLOTS + (start + taken - 1) // layout.SLOT_RECORD_SIZE + 1
        return max(names) * layout.SEGMENT_SLOTS

    def _recover(self) -> None:
        """After a power loss: auto-release copies are gone, ``head`` is made anew from durable slots."""
        for entry in self.table.entries:
            if not entry.persistent or entry.state == layout.STATE_LOST:
                self.table.set_state(entry, layout.STATE_DELETED)
            elif entry.state == layout.STATE_PENDING:
                self.lose(entry, "the power was lost before what it takes from the origin was durable")
        self._replace_head()
        found = rebuild(self.storage, self.segments, self.head, self.header)
        self.header.generation = max(self.header.generation, found.newest)
        self.header.next_slot = 0
        for slot, before, label in found.damaged:
            for entry in self.table.entries:
                if before < entry.number <= label and entry.state in layout.LIVE_STATES:
                    self.lose(entry, f"slot {slot} is damaged", layout.CAUSE_DAMAGED)
        self.table.sync()

    def _write_header(self) -> None:
        self.header.next_slot = self._next_slot
        self.table.write_header()
        self.table.sync()

    # ---- cuts ----

    def commit(self, copy_id: UUID, set_id: UUID, created_ns: int, persistent: bool) -> layout.Entry:
        """Make the cut: from now on old data is kept for this copy. Nothing is allocated and nothing is synced.

        Errors: VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED, VSS_E_OBJECT_ALREADY_EXISTS, VSS_E_INSUFFICIENT_STORAGE.
        """
        number = self.header.generation + 1
        if number > layout.MAX_GENERATION:
            raise VssError(
                Code.VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED,
                f"shadow storage {self.storage} has counted {number - 1} cuts; delete all copies once to start again",
            )
        limits = self.header.settings.limits
        if limits.policy is not Policy.DELETE_OLDEST:
            self.room.check_new_copy(limits, GROWTH_SLOTS * self._slot_size, self.volume_name)
        entry = layout.Entry(layout.STATE_PENDING, persistent, number, created_ns, self.header.size, copy_id, set_id)
        self.header.generation = number
        self.table.write_header()
        self.table.add(entry)
        self._update()
        return entry

    def finish(self, copy_id: UUID) -> None:
        """The copy's set exists as a whole; a persistent copy is durable when this returns.

        What a persistent copy takes from the origin has to be on the origin's disk too. Errors: OSError.
        """
        entry = self.table.find(copy_id)
        if entry.persistent:
            os.fdatasync(self._origin)
        if entry.state == layout.STATE_PENDING:
            self.table.set_state(entry, layout.STATE_CREATED)
        if entry.persistent:
            self._write_header()

    def delete(self, copy_id: UUID, force: bool = False) -> None:
        """Delete a copy; its space comes back through ``reclaim``.

        Errors: VSS_E_OBJECT_NOT_FOUND, VSS_E_BAD_STATE when it is held and ``force`` is not given.
        """
        entry = self.table.find(copy_id)
        if not force and entry.state in layout.LIVE_STATES and entry.hold_until_ns > time.time_ns():
            until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.hold_until_ns // 10**9))
            message = f"shadow copy {copy_id} is held until {until}; end its hold first, or delete it with force"
            raise VssError(Code.VSS_E_BAD_STATE, message)
        self.table.set_state(entry, layout.STATE_DELETED)
        if entry.persistent:
            self.table.sync()
        self._update()
        self.garbage = True
        if not self.table.live:
            self.reset()

    def configure(self, limits: Limits) -> None:
        """Other limits from now on; they are durable when this returns. Errors: OSError."""
        self.header.settings.limits = limits
        self._write_header()

    def set_copy(self, copy_id: UUID, priority: int | None, hold_until_ns: int | None) -> None:
        """Change a copy's priority (0 to 255) and retention. Errors: VSS_E_OBJECT_NOT_FOUND, E_INVALIDARG."""
        entry = self.table.find(copy_id)
        if priority is not None and not 0 <= priority <= 255:
            raise VssError(Code.E_INVALIDARG, f"{priority} is no priority of a shadow copy; give 0 to 255")
        if hold_until_ns is not None and not 0 <= hold_until_ns < 1 << 63:
            raise VssError(Code.E_INVALIDARG, f"{hold_until_ns} is no time; give nanoseconds since 1970, 0 for no hold")
        entry.priority = entry.priority if priority is None else priority
        entry.hold_until_ns = entry.hold_until_ns if hold_until_ns is None else hold_until_ns
        self.table.update(entry)
        self.table.sync()

    def lose(self, entry: layout.Entry, reason: str, cause: int = layout.CAUSE_ERROR) -> Event:
        """Give a copy up because its old data cannot be kept; the live volume goes on."""
        before = entry.cause, entry.lost_ns
        entry.cause, entry.lost_ns = cause, time.time_ns()
        try:
            self.table.set_state(entry, layout.STATE_LOST)
        except OSError:
            entry.cause, entry.lost_ns = before
            raise
        self._update()
        if entry.persistent:
            self._sync_loss(entry)
        message = f"shadow copy {entry.copy_id} (generation {entry.number}) is lost: {reason}"
        return self.room.add(COPY_LOST, message, entry)

    def _sync_loss(self, entry: layout.Entry) -> None:
        """Make the loss durable before the origin changes, or the copy would be back after a power loss, and wrong."""
        try:
            self.table.sync()
        except OSError as error:
            log.error("that shadow copy %s is lost could not be made durable: %s", entry.copy_id, error)

    def _update(self) -> None:
        self.newest = self.table.newest
        self.durable = self.table.durable

    def reset(self) -> None:
        """Without any living copy all slots are garbage: start afresh. Readers of old files keep them open."""
        self._replace_head()
        self.segments.close()
        self.segments = Segments(self.storage, self.chunk_size, writable=True)
        self._reserved_end = 0
        for name in os.listdir(f"{self.storage}/segments"):
            os.unlink(f"{self.storage}/segments/{name}")
        self._next_slot = 0
        self.garbage = False
        self._write_header()

    def _replace_head(self) -> None:
        old, self.head = self.head, make_head(self.storage, self.chunks)
        old.close()
        sync_directory(self.storage)

    def grow(self, size: int) -> None:
        """The volume has ``size`` bytes from now on, more than before; its copies keep theirs. Errors: OSError.

        ``head`` is as long as the size says at every moment, since readers map it as long as the header says.
        """
        chunks = layout.chunk_count(size, self.chunk_size)
        path = f"{self.storage}/head"
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, max(chunks, 1) * 8)
            os.fsync(fd)
        finally:
            os.close(fd)
        self.head.enlarge(chunks)
        self.chunks = chunks
        log.info("the volume of shadow storage %s grew from %d to %d bytes", self.storage, self.header.size, size)
        self.header.size = size
        self._write_header()

    # ---- the write path ----

    def prepare_write(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Copy out what the given (offset, length) ranges are about to overwrite. Returns when they may be written.

        A copy whose old data cannot be kept is lost and reported, the live volume goes on. Errors: OSError when no
        copy may be lost, by the policy protect-copies or because all that live are held; then nothing may be written.
        """
        newest = self.newest
        if not newest:
            return
        need = self._needed(ranges, newest << layout.SLOT_BITS)
        if need:
            self._copy_out(sorted(need))

    def _needed(self, ranges: Sequence[tuple[int, int]], limit: int) -> set[int]:
        """Chunks of the ranges whose head word is below ``limit``."""
        shift, view = self._shift, self.head.view
        need: set[int] = set()
        for offset, length in ranges:
            first = offset >> shift
            last = (offset + length - 1) >> shift
            if first == last:
                if view[first] < limit:
                    need.add(first)
            else:
                words = view[first : last + 1]
                need.update(chunk for chunk, word in enumerate(words, first) if word < limit)
        return need

    def preserved(self, offset: int, length: int) -> list[tuple[int, int]]:
        """The parts of a range, as (offset, length), whose old content no living copy takes from the origin."""
        if not self.newest:
            return [(offset, length)]
        size, end = self.chunk_size, offset + length
        limit = self.newest << layout.SLOT_BITS
        first, last = offset // size, (end - 1) // size
        free = [chunk for chunk, word in enumerate(self.head.view[first : last + 1], first) if word >= limit]
        parts = []
        for run in layout.runs(free):
            start = max(offset, run[0] * size)
            parts.append((start, min(end, (run[-1] + 1) * size) - start))
        return parts

    def _copy_out(self, chunks: list[int]) -> None:
        for start in range(0, len(chunks), BATCH_CHUNKS):
            batch = chunks[start : start + BATCH_CHUNKS]
            while self.newest and batch:
                try:
                    self._copy_batch(batch)
                    break
                except (OSError, EOFError) as error:
                    full = getattr(error, "errno", None) in FULL
                    if not (full and self.garbage and self._make_room()):
                        self._lose_one(error, layout.CAUSE_FULL if full else layout.CAUSE_ERROR)
                        limit = self.newest << layout.SLOT_BITS  # lower when the newest was lost
                        batch = [chunk for chunk in batch if self.head.view[chunk] < limit]

    def _lose_one(self, error: OSError | EOFError, cause: int) -> None:
        """Lose the copy that counts least. Errors: WriteRefused when none may be lost, OSError."""
        protected = self.header.settings.limits.policy is Policy.PROTECT_COPIES
        entry = None if protected else victim(self.table.entries, time.time_ns())
        if entry is None:
            self.room.refused(str(error))
            number = getattr(error, "errno", None) or errno.EIO
            raise WriteRefused(number, getattr(error, "strerror", None) or str(error)) from error
        event = self.lose(entry, f"its old data cannot be kept in {self.storage}: {error}", cause)
        event.freed = entry.lost_bytes = self._make_room()
        try:
            self.table.update(entry)
        except OSError as problem:
            log.error("how much the loss of %s gave back cannot be noted: %s", entry.copy_id, problem)

    def _make_room(self) -> int:
        """Give back what nobody needs; returns the bytes on disk that it brought, 0 when it could not."""
        before = self.used
        self._give_back()
        return max(0, before - self.used)

    def _give_back(self) -> None:
        try:
            if not self.table.live:
                self.reset()
            for _ in self.reclaim():
                pass
        except OSError as error:
            log.error("shadow storage %s: space cannot be given back now: %s", self.storage, error)
            self.garbage = True

    def reclaim(self) -> Iterator[int]:
        """Free the space that no living copy needs, a little at each step; yields the bytes freed by the step."""
        self.garbage = False
        segments = self.segments
        for freed in Reclaimer(segments, self.head, self.table, self._next_slot, self.chunk_size).steps():
            yield freed
            if self.segments is not segments:  # all slots went at once meanwhile
                return

    def _copy_batch(self, chunks: list[int]) -> None:
        """Old data into consecutive slots with few system calls, then records, then (durable) sync, then head."""
        first = self._reserve(len(chunks))
        for chunk in chunks:
            self.head.reserve(chunk)
        size = self.chunk_size
        data: list[bytes] = []
        for run in layout.runs(chunks):
            content = self._read_origin(run[0] * size, len(run) * size)
            data.extend(content[i : i + size] for i in range(0, len(content), size))
        number, record, position = layout.slot_position(first, size)
        segment = self.segments.get(number)
        if os.pwritev(segment.fd, data, position) != len(chunks) * size:
            raise OSError(28, "short write")
        label = self.newest
        view = self.head.view
        flags = layout.FLAG_USED | (layout.FLAG_DURABLE if self.durable else 0)
        records = bytearray()
        for index, chunk in enumerate(chunks):
            crc = zlib.crc32(data[index]) if self.durable else 0
            records += layout.SLOT_RECORD.pack(chunk, view[chunk], label << 32 | index, flags, crc)
        segment.records[record : record + len(records)] = bytes(records)
        self._next_slot = first + len(chunks)
        if self.durable:
            os.fdatasync(segment.fd)
        word = layout.pack_head(label, first)
        for index, chunk in enumerate(chunks):
            view[chunk] = word + index

    def _read_origin(self, offset: int, length: int) -> bytes:
        content = os.pread(self._origin, length, offset)
        if len(content) == length:
            return content
        if offset + len(content) < self.header.size:
            rest = os.pread(self._origin, length - len(content), offset + len(content))
            content += rest
        if offset + len(content) < min(offset + length, self.header.size):
            raise EOFError(f"the origin ends at byte {offset + len(content)}")
        return content.ljust(length, b"\0")

    def _reserve(self, count: int) -> int:
        """Consecutive slots in one segment with disk space behind them and behind their words. Errors: OSError."""
        first = self._next_slot
        if first // layout.SEGMENT_SLOTS != (first + count - 1) // layout.SEGMENT_SLOTS:
            first = (first // layout.SEGMENT_SLOTS + 1) * layout.SEGMENT_SLOTS
        if first + count > self._reserved_end or first != self._next_slot:
            number, record, position = layout.slot_position(first, self.chunk_size)
            ahead = min(max(count, GROWTH_SLOTS), layout.SEGMENT_SLOTS - first % layout.SEGMENT_SLOTS)
            fd = self.segments.get(number).fd
            ahead = self.room.slots(self.header.settings.limits, ahead, count, self._slot_size)
            os.posix_fallocate(fd, record, ahead * layout.SLOT_RECORD_SIZE)
            os.posix_fallocate(fd, position, ahead * self.chunk_size)
            self._reserved_end = first + ahead
        return first

    # ---- figures and end ----

    @property
    def _slot_size(self) -> int:
        return self.chunk_size + layout.SLOT_RECORD_SIZE

    @property
    def used(self) -> int:
        """Bytes that the storage takes on disk."""
        return used_bytes(self.storage)

    def close(self, clean: bool = True, mark: OriginMark = NO_MARK) -> None:
        """Close the storage; a clean end spares the next start a recovery, and ``mark`` lets it check the origin."""
        if clean:
            self.head.sync()
            for name in os.listdir(f"{self.storage}/segments"):
                os.fdatasync(self.segments.get(int(name, 16)).fd)
            self.header.clean = True
            self.header.settings.mark = mark
            self._write_header()
        self.head.close()
        self.segments.close()
        self.table.close()
        os.close(self._lock)
