"""Copy-out: the old content of chunks goes into slots before the origin changes, and what happens when it cannot."""

from __future__ import annotations

import errno
import logging
import os
import time
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import write_all
from shadowset.nbd_provider.store.room import FULL, WriteRefused, victim
from shadowset.nbd_provider.store.settings import Policy
from shadowset.nbd_provider.store.shares import share

if TYPE_CHECKING:
    from shadowset.nbd_provider.store.writer import ShadowStore

log = logging.getLogger(__name__)

BATCH_CHUNKS: Final = 256
BATCH_BYTES: Final = share(4 << 20, least=512 << 10)
GROWTH_SLOTS: Final = 256


class CopyOut:
    """Takes the slots of one store, one after the other; its owner lets one thread at a time in (``store.work``)."""

    def __init__(self, store: ShadowStore, origin_fd: int) -> None:
        self._store = store
        self._origin = origin_fd
        self._nowait: int = getattr(os, "RWF_NOWAIT", 0)
        self._buffer = memoryview(bytearray())
        self.next_slot = 0
        self._reserved_end = 0

    def start_at(self, slot: int) -> None:
        """Take slots from here on; no disk space is behind them yet."""
        self.next_slot, self._reserved_end = slot, 0

    def now(self, chunks: list[int]) -> bool:
        """Copy out sorted chunks, or say False when a disk, or room for them, would have to be waited for.

        Errors: OSError, EOFError.
        """
        if len(chunks) > self._most or self.next_slot + len(chunks) > self._reserved_end:
            return False
        return self._store.head.reserved(chunks) and self._batch(chunks, self._nowait)

    @property
    def _most(self) -> int:
        """How many chunks are copied at a time."""
        return max(1, min(BATCH_CHUNKS, BATCH_BYTES // self._store.chunk_size))

    def copy(self, chunks: list[int]) -> None:
        """Copy out sorted chunks, losing copies where that must be. Errors: WriteRefused."""
        store = self._store
        most = self._most
        for start in range(0, len(chunks), most):
            batch = chunks[start : start + most]
            while store.newest and batch:
                try:
                    self._batch(batch)
                    break
                except (OSError, EOFError) as error:
                    full = getattr(error, "errno", None) in FULL
                    given_up = store.writeback.look()  # now: after a kill nobody tells what the sync here was told
                    if not given_up and not (full and store.space.garbage and store.space.make_room()):
                        self._lose_one(error, layout.CAUSE_FULL if full else layout.CAUSE_ERROR)
                    batch = sorted(store.missing([(chunk * store.chunk_size, 1) for chunk in batch]))

    def _lose_one(self, error: OSError | EOFError, cause: int) -> None:
        """Lose the copy that counts least. Errors: WriteRefused when none may be lost, or its loss cannot be told."""
        store = self._store
        settings = store.header.settings  # a revert can wait for room, so it costs no copy
        protected = settings.limits.policy is Policy.PROTECT_COPIES or settings.revert is not None
        entry = None if protected else victim(store.table.entries, time.time_ns())
        if entry is None:
            raise self._refusal(error)
        try:
            event = store.lose(entry, f"its old data cannot be kept in {store.storage}: {_reason(error)}", cause)
        except OSError as problem:  # going on would let its readers see wrong data
            raise self._refusal(problem) from error
        store.space.free_after(entry, event)

    def _refusal(self, error: OSError | EOFError) -> WriteRefused:
        self._store.room.refused(self._store.volume_name, _reason(error))
        return WriteRefused(getattr(error, "errno", None) or errno.EIO, _reason(error))

    def _batch(self, chunks: list[int], flags: int = 0) -> bool:
        """Old data into consecutive slots with few system calls, then records, then (durable) sync, then head.

        Nothing is done, and it says False, when ``flags`` forbid to wait for what has to be read. A cut that comes
        meanwhile changes nothing: the label stays; writers look at the chunks again.
        """
        store = self._store
        store.table.tell_left()
        with store.lock:
            label, durable = store.newest, store.durable or store.table.in_doubt
        first = self._reserve(len(chunks))
        store.head.reserve(chunks)
        data = self._read(chunks, flags)
        if data is None:
            return False
        number, record, position = layout.slot_position(first, store.chunk_size)
        segment = store.segments.get(number)
        if os.pwritev(segment.fd, (data,), position) != len(data):
            raise OSError(errno.ENOSPC, "short write")
        records = self._records(chunks, label, data if durable else None)
        store.head.check()
        write_all(segment.fd, records, record)
        if durable:
            self._sync(segment.fd, record, len(records))
        self.next_slot = first + len(chunks)
        word, view = layout.pack_head(label, first), store.head.view
        for index, chunk in enumerate(chunks):
            view[chunk] = word + index
        store.head.check()
        return True

    def _sync(self, fd: int, record: int, length: int) -> None:
        """Errors: OSError. Then the slots are taken again, and none of their records is left: one without its data,
        before others that are durable, would be taken for damage after a power loss.
        """
        try:
            os.fdatasync(fd)
        except OSError:
            with suppress(OSError):
                write_all(fd, bytes(length), record)
            raise

    def _records(self, chunks: list[int], label: int, durable: memoryview | None) -> bytes:
        """The records of a batch; with checksums of its data where that has to be durable."""
        view, size, pack, place = self._store.head.view, self._store.chunk_size, layout.SLOT_RECORD.pack, label << 32
        if durable is None:
            return b"".join([pack(c, view[c], place | at, layout.FLAG_USED, 0) for at, c in enumerate(chunks)])
        flags = layout.FLAG_USED | layout.FLAG_DURABLE
        sums = [zlib.crc32(durable[start : start + size]) for start in range(0, len(durable), size)]
        return b"".join([pack(c, view[c], place | at, flags, sums[at]) for at, c in enumerate(chunks)])

    def _read(self, chunks: list[int], flags: int) -> memoryview | None:
        """Old data, chunk beside chunk, until the next call; None when ``flags`` forbid to wait for it."""
        size = self._store.chunk_size
        if len(self._buffer) < len(chunks) * size:
            self._buffer = memoryview(bytearray(self._most * size))
        start = 0
        for run in layout.runs(chunks):
            self._store.head.ready(run[0], len(run))
            target = self._buffer[start : start + len(run) * size]
            if not self._read_run(run[0] * size, target, flags):
                return None
            start += len(target)
        return self._buffer[:start]

    def _read_run(self, offset: int, target: memoryview, flags: int) -> bool:
        try:
            done = os.preadv(self._origin, (target,), offset, flags)
        except OSError as error:
            if not flags or error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
            if error.errno == errno.EAGAIN:
                return False
            self._nowait = 0  # where that cannot be asked for it is taken for granted
            done = 0
        if done < len(target):
            if flags and self._nowait:
                return False
            self._read_rest(offset, target, done)
        return True

    def _read_rest(self, offset: int, target: memoryview, done: int) -> None:
        """The volume may end within the last chunk."""
        end = min(offset + len(target), self._store.header.size)
        while offset + done < end:
            count = os.preadv(self._origin, (target[done:],), offset + done)
            if not count:
                raise EOFError(f"the origin ends at byte {offset + done}")
            done += count
        target[done:] = bytes(len(target) - done)

    def _reserve(self, count: int) -> int:
        """Consecutive slots in one segment with disk space behind them and behind their words. Errors: OSError."""
        store = self._store
        first = self.next_slot
        if first // layout.SEGMENT_SLOTS != (first + count - 1) // layout.SEGMENT_SLOTS:
            first = (first // layout.SEGMENT_SLOTS + 1) * layout.SEGMENT_SLOTS
        if first + count > self._reserved_end or first != self.next_slot:
            number, record, position = layout.slot_position(first, store.chunk_size)
            ahead = min(max(count, GROWTH_SLOTS), layout.SEGMENT_SLOTS - first % layout.SEGMENT_SLOTS)
            fd = store.segments.get(number).fd
            ahead = store.room.slots(store.header.settings.limits, ahead, count, store.slot_size)
            os.posix_fallocate(fd, record, ahead * layout.SLOT_RECORD_SIZE)
            os.posix_fallocate(fd, position, ahead * store.chunk_size)
            self._reserved_end = first + ahead
        return first


def _reason(error: OSError | EOFError) -> str:
    return getattr(error, "strerror", None) or str(error)
