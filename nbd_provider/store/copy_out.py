"""Copy-out: the old content of chunks goes into slots before the origin changes, and what happens when it cannot."""

from __future__ import annotations

import errno
import logging
import os
import time
import zlib
from typing import TYPE_CHECKING, Final

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import write_all
from shadowset.nbd_provider.store.room import FULL, WriteRefused, victim
from shadowset.nbd_provider.store.settings import Policy

if TYPE_CHECKING:
    from shadowset.nbd_provider.store.writer import ShadowStore

log = logging.getLogger(__name__)

BATCH_CHUNKS: Final = 256
GROWTH_SLOTS: Final = 256


class CopyOut:
    """Takes the slots of one store, one after the other; its owner lets one thread at a time in (``store.work``)."""

    def __init__(self, store: ShadowStore, origin_fd: int) -> None:
        self._store = store
        self._origin = origin_fd
        self.next_slot = 0
        self._reserved_end = 0

    def start_at(self, slot: int) -> None:
        """Take slots from here on; no disk space is behind them yet."""
        self.next_slot, self._reserved_end = slot, 0

    def has_room(self, chunks: set[int]) -> bool:
        """Whether there is disk space behind slots and words for these chunks, so that nothing is to be allocated."""
        if self.next_slot + len(chunks) > self._reserved_end:
            return False
        return all(self._store.head.reserved(chunk) for chunk in chunks)

    def plain(self, chunks: list[int]) -> None:
        """Copy out sorted chunks, without more ado when that fails. Errors: OSError, EOFError."""
        for start in range(0, len(chunks), BATCH_CHUNKS):
            self._batch(chunks[start : start + BATCH_CHUNKS])

    def copy(self, chunks: list[int]) -> None:
        """Copy out sorted chunks, losing copies where that must be. Errors: WriteRefused."""
        store = self._store
        for start in range(0, len(chunks), BATCH_CHUNKS):
            batch = chunks[start : start + BATCH_CHUNKS]
            while store.newest and batch:
                try:
                    self._batch(batch)
                    break
                except (OSError, EOFError) as error:
                    full = getattr(error, "errno", None) in FULL
                    if not (full and store.garbage and store.make_room()):
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
            event = store.lose(entry, f"its old data cannot be kept in {store.storage}: {error}", cause)
        except OSError as problem:  # going on would let its readers see wrong data
            raise self._refusal(problem) from error
        event.freed = store.make_room()
        if not event.freed:
            return
        try:
            with store.lock:
                store.table.change(entry, lost_bytes=event.freed)
        except OSError as problem:
            log.error("how much the loss of %s gave back cannot be noted: %s", entry.copy_id, problem)

    def _refusal(self, error: OSError | EOFError) -> WriteRefused:
        self._store.room.refused(str(error))
        number = getattr(error, "errno", None) or errno.EIO
        return WriteRefused(number, getattr(error, "strerror", None) or str(error))

    def _batch(self, chunks: list[int]) -> None:
        """Old data into consecutive slots with few system calls, then records, then (durable) sync, then head.

        A cut that comes meanwhile changes nothing: the label stays; writers look at the chunks again.
        """
        store = self._store
        store.table.tell_left()
        with store.lock:
            label, durable = store.newest, store.durable or store.table.in_doubt
        first = self._reserve(len(chunks))
        for chunk in chunks:
            store.head.reserve(chunk)
        size = store.chunk_size
        data: list[bytes] = []
        for run in layout.runs(chunks):
            store.head.ready(run[0], len(run))
            content = self._read_origin(run[0] * size, len(run) * size)
            data.extend(content[i : i + size] for i in range(0, len(content), size))
        number, record, position = layout.slot_position(first, size)
        segment = store.segments.get(number)
        if os.pwritev(segment.fd, data, position) != len(chunks) * size:
            raise OSError(errno.ENOSPC, "short write")
        view = store.head.view
        flags = layout.FLAG_USED | (layout.FLAG_DURABLE if durable else 0)
        records = bytearray()
        for index, chunk in enumerate(chunks):
            crc = zlib.crc32(data[index]) if durable else 0
            records += layout.SLOT_RECORD.pack(chunk, view[chunk], label << 32 | index, flags, crc)
        write_all(segment.fd, records, record)
        self.next_slot = first + len(chunks)
        if durable:
            os.fdatasync(segment.fd)
        word = layout.pack_head(label, first)
        for index, chunk in enumerate(chunks):
            view[chunk] = word + index

    def _read_origin(self, offset: int, length: int) -> bytes:
        content = os.pread(self._origin, length, offset)
        if len(content) == length:
            return content
        size = self._store.header.size
        if offset + len(content) < size:
            rest = os.pread(self._origin, length - len(content), offset + len(content))
            content += rest
        if offset + len(content) < min(offset + length, size):
            raise EOFError(f"the origin ends at byte {offset + len(content)}")
        return content.ljust(length, b"\0")

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
