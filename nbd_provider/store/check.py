"""Verification of a shadow storage: reads everything, changes nothing, says what is damaged and which copies it hits.

A word of ``head`` or of a slot that cannot be followed hits every copy that would have walked over it: those with
numbers up to the label above it. A slot whose data is wrong hits the copies with numbers in (label before it, its own
label] only.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import storage_error
from shadowset.nbd_provider.store.losses import LossWatch
from shadowset.nbd_provider.store.place import locate
from shadowset.nbd_provider.store.segment_check import Record, SegmentView, open_views
from shadowset.nbd_provider.store.session import session_id
from shadowset.vss.codes import Code, VssError

READ_WORDS: Final = 65536
STATES: Final = range(layout.STATE_PENDING, layout.STATE_LOST + 1)


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong, and the living copies that cannot be trusted because of it."""

    where: str
    what: str
    copies: tuple[UUID, ...] = ()


@dataclass
class Report:
    """What a check found; sizes in bytes, ``notes`` are worth knowing and no damage."""

    storage: str
    chunk_size: int = 0
    size: int = 0
    generation: int = 0
    copies: list[UUID] = field(default_factory=list)
    linked: int = 0
    unlinked: int = 0
    given_back: int = 0
    verified: int = 0
    damages: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages


def check_storage(storage: str, origin: str | None = None) -> Report:
    """Verify a storage that no provider uses. Errors: VssError when it cannot be checked, OSError."""
    storage = locate(storage)
    lock = _share_lock(storage)
    try:
        return _Check(storage, origin).run()
    finally:
        os.close(lock)


def _share_lock(storage: str) -> int:
    try:
        lock = os.open(f"{storage}/lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        reason = f"it cannot be checked: {error.strerror}"
        raise storage_error(storage, reason, "name a directory that a provider has made") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        message = f"shadow storage {storage} is in use by a provider; stop it, then check again"
        raise VssError(Code.VSS_E_PROVIDER_IN_USE, message) from None
    return lock


class _Check:
    """One check; ``report`` grows as it goes."""

    def __init__(self, storage: str, origin: str | None) -> None:
        self._storage = storage
        self._origin = origin
        self._rows: list[layout.Entry] = []
        self._views: dict[int, SegmentView] = {}
        self.report = Report(storage)

    def run(self) -> Report:
        try:
            with open(f"{self._storage}/table", "rb") as file:
                table = file.read()
        except OSError as error:
            self._add("table", f"it cannot be read: {error.strerror}, so nothing else can be checked")
            return self.report
        header = self._header(table)
        if header is None:
            return self.report
        self._table(table, header)
        self._losses(header)
        self._origin_size(header)
        self._views, faults = open_views(self._storage)
        for where, what in faults:
            self._add(where, what)
        try:
            if not header.clean and header.boot_id != session_id(self._storage):
                self.report.notes.append("power was lost: the provider's next start makes head anew from durable slots")
            else:
                self._chains(header)
            self._slots(header)
        finally:
            for view in self._views.values():
                view.close()
        return self.report

    def _add(self, where: str, what: str, copies: tuple[UUID, ...] = ()) -> None:
        self.report.damages.append(Damage(where, what, copies))

    def _hit(self, before: int, label: int, chunk: int = 0) -> tuple[UUID, ...]:
        """Living copies with numbers in (before, label] that reach to this chunk."""
        return tuple(row.copy_id for row in self._needing(before, label, chunk))

    def _needing(self, before: int, label: int, chunk: int) -> list[layout.Entry]:
        start = chunk * self.report.chunk_size
        live = [row for row in self._rows if row.state in layout.LIVE_STATES and row.size > start]
        return [row for row in live if before < row.number <= label]

    # ---- table ----

    def _header(self, table: bytes) -> layout.Header | None:
        try:
            header = layout.Header.unpack(table[: layout.PAGE])
        except ValueError as error:
            self._add("table", f"{error}, so nothing else can be checked")
            return None
        wrong = self._header_problem(header)
        if wrong:
            self._add("table", f"{wrong}, so nothing else can be checked")
            return None
        report = self.report
        report.chunk_size, report.size, report.generation = header.chunk_size, header.size, header.generation
        if header.settings.revert:
            report.notes.append(f"a revert to shadow copy {header.settings.revert.copy_id} is not finished")
        return header

    @staticmethod
    def _header_problem(header: layout.Header) -> str:
        size = header.chunk_size
        if not layout.MIN_CHUNK_SIZE <= size <= layout.MAX_CHUNK_SIZE or size & (size - 1):
            return f"the header's chunk size of {size} bytes cannot be"
        if not 0 < header.size < 1 << 63 or header.capacity > 1 << 20 or header.generation > layout.MAX_GENERATION:
            return "the header's volume size, capacity or generation cannot be"
        return ""

    def _table(self, table: bytes, header: layout.Header) -> None:
        if len(table) < layout.table_size(header.capacity):
            self._add("table", f"it has {len(table)} bytes and needs {layout.table_size(header.capacity)}")
        for index in range(header.capacity):
            offset = layout.entry_offset(index)
            try:
                row = layout.Entry.unpack(table[offset : offset + layout.ENTRY_SIZE].ljust(layout.ENTRY_SIZE, b"\0"))
            except ValueError as error:
                self._add(f"table row {index}", f"{error}; the copy in it cannot be found")
                continue
            if row is not None and row.state != layout.STATE_DELETED:
                self._row(index, row, header)
                self._rows.append(row)

    def _losses(self, header: layout.Header) -> None:
        """Copies whose loss is recorded beside the storage do not live."""
        watch = LossWatch(self._storage, header)
        lost = [row for row in self._rows if row.state in layout.LIVE_STATES and watch.lost(row)]
        self._rows = [row for row in self._rows if row not in lost]
        for row in lost:
            self.report.notes.append(f"the loss of copy {row.copy_id} is recorded beside the storage only")
        self.report.copies = list(self._hit(0, layout.MAX_GENERATION))

    def _row(self, index: int, row: layout.Entry, header: layout.Header) -> None:
        problems = []
        if row.state not in STATES:
            problems.append(f"state {row.state} is unknown")
        if not 0 < row.number <= max(header.generation, 1):
            problems.append(f"number {row.number} is not between 1 and {header.generation}")
        if row.size > header.size:
            problems.append(f"size {row.size} is over the volume's {header.size}")
        for other in self._rows:
            if other.number == row.number or other.copy_id == row.copy_id:
                problems.append(f"number or id is also that of copy {other.copy_id}")
        for problem in problems:
            self._add(f"table row {index}", problem, (row.copy_id,))

    def _origin_size(self, header: layout.Header) -> None:
        if self._origin is None:
            return
        with open(self._origin, "rb") as file:
            size = file.seek(0, os.SEEK_END)
        if size < header.size:
            what = f"it has {size} bytes and its storage knows {header.size}"
            self._add(f"origin {self._origin}", what, self._hit(0, header.generation))
        elif size > header.size:
            self.report.notes.append(f"the origin grew from {header.size} to {size} bytes")

    # ---- chains ----

    def _chains(self, header: layout.Header) -> None:
        chunks = layout.chunk_count(header.size, header.chunk_size)
        try:
            size = os.stat(f"{self._storage}/head").st_size
        except FileNotFoundError:
            self._add("head", "it is missing", self._hit(0, header.generation))
            return
        if size < max(chunks, 1) * 8:  # a kill while the volume grew can leave it longer
            self._add("head", f"it has {size} bytes and needs {chunks * 8}", self._hit(0, header.generation))
        for chunk, word in self._words(min(chunks, size // 8)):
            self._chain(chunk, word, header.generation)

    def _words(self, count: int) -> Iterator[tuple[int, int]]:
        """Words of ``head`` that are not zero, with their chunks."""
        with open(f"{self._storage}/head", "rb") as file:
            for first in range(0, count, READ_WORDS):
                words = memoryview(file.read(min(READ_WORDS, count - first) * 8))
                if any(words):
                    yield from ((first + i, word) for i, word in enumerate(words.cast("Q")) if word)

    def _chain(self, chunk: int, word: int, generation: int) -> None:
        """Walk from a head word to the end; at the first wrong step the copies further on are hit."""
        limit = generation + 1
        where = f"head word of chunk {chunk}"
        while word:
            label = word >> layout.SLOT_BITS
            problem = self._link_problem(chunk, word, limit)
            if problem:
                self._add(where, problem, self._hit(0, limit - 1, chunk))
                return
            number, index = divmod(layout.head_slot(word), layout.SEGMENT_SLOTS)
            view = self._views[number]
            view.linked[index] = 1
            where = f"slot {layout.head_slot(word)} of chunk {chunk}"
            word, limit = view.record(index).previous, label

    def _link_problem(self, chunk: int, word: int, limit: int) -> str:
        label, slot = word >> layout.SLOT_BITS, layout.head_slot(word)
        if not 0 < label < limit:
            return f"it leads to label {label}, which should be between 1 and {limit - 1}"
        if slot < 0:
            return "it names no slot"
        number, index = divmod(slot, layout.SEGMENT_SLOTS)
        if number not in self._views:
            return f"it leads to slot {slot}, whose segment {number:08x} is not there or not readable"
        if self._views[number].linked[index]:
            return f"it leads to slot {slot}, which another chain has already"
        return self._record_problem(chunk, label, slot, self._views[number].record(index))

    @staticmethod
    def _record_problem(chunk: int, label: int, slot: int, record: Record) -> str:
        if not record.used:
            return f"it leads to slot {slot}, which is not used"
        if record.chunk != chunk:
            return f"it leads to slot {slot}, whose record names chunk {record.chunk}"
        if record.label != label:
            return f"it leads to slot {slot} with label {label}, whose record has label {record.label}"
        return ""

    # ---- slots ----

    def _slots(self, header: layout.Header) -> None:
        for view in self._views.values():
            for index in range(view.used_end):
                record = view.record(index)
                if not record.used:
                    continue
                if record.chunk == layout.FREE_CHUNK:
                    self.report.given_back += 1
                elif view.linked[index]:
                    self.report.linked += 1
                    self._slot(view, index, header.chunk_size)
                else:
                    self.report.unlinked += 1

    def _slot(self, view: SegmentView, index: int, size: int) -> None:
        """A linked slot's data: it is there, has its checksum, and is durable when a persistent copy needs it."""
        record = view.record(index)
        before = record.previous >> layout.SLOT_BITS
        where = f"slot {view.number * layout.SEGMENT_SLOTS + index} of chunk {record.chunk}"
        if view.ends_before(index, size):
            self._add(where, "its segment ends before its data", self._hit(before, record.label, record.chunk))
        elif record.durable:
            self.report.verified += 1
            if self._crc(view, index, size) != record.crc:
                self._add(where, "the checksum of its data is wrong", self._hit(before, record.label, record.chunk))
        elif any(row.persistent for row in self._needing(before, record.label, record.chunk)):
            what = "it is not durable and a persistent copy needs it"
            self._add(where, what, self._hit(before, record.label, record.chunk))

    @staticmethod
    def _crc(view: SegmentView, index: int, size: int) -> int | None:
        try:
            return zlib.crc32(view.data(index, size))
        except OSError:
            return None
