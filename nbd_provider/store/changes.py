"""What changed since a shadow copy, read from shadow storage beside the writer, from any process and without locks.

A chunk's word in ``head`` carries the label of its newest slot: the number of the newest copy that lived when the chunk
was copied out. From that alone it follows what changed:

- *Since copy a, until now*: exactly the chunks whose label is at least a's number. While a lives, the newest living
  copy's number is at least a's, and the writer stores a word with that label before it changes the origin. No word
  falls below a's number again, because a slot is garbage only when no living copy's number lies in (label before it,
  its own label], and the oldest slot with a label of at least a's number has a there.
- *Since copy a, until copy b*: exactly the chunks whose oldest slot with a label of at least a's number has a label
  below b's. That slot was filled between the two cuts. It cannot become garbage while a lives, so once both cuts are
  made the answer for a chunk is final, however long the writer goes on.
- A layer that writers left in a copy (see ``overlay``) makes the chunks it touches differ from the copy's own cut, so
  they count as changed from and to that copy.
- After a power loss ``head`` is made anew from durable slots. Slots are durable while any persistent copy lives, so a
  persistent a misses nothing; an auto-release a is gone.

A volume may have grown since a: what lies beyond a's end counts as changed. A chunk that was copied out for a write
that never came (the provider died in between) counts as changed; a chunk that changed always counts.

Which moment does the answer describe? Since a until now: every write that was finished before the call is in it, one
that is under way may be. So make the next cut first, then ask what changed between the two, and read the changed
chunks from the later copy. Each answer counts only if the copies still live after the look: numbers are never given
twice and a copy never comes back, so whoever lives after it lived during it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from heapq import merge
from itertools import chain
from typing import Final, NamedTuple
from uuid import UUID

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.overlay import find_overlay
from shadowset.nbd_provider.store.place import at_home
from shadowset.nbd_provider.store.rows import LivingRows
from shadowset.nbd_provider.store.slots import Slots, lower, stable_words, too_short
from shadowset.vss.codes import Code, VssError

BLOCK_WORDS: Final = 8192
TRIES: Final = 100
_MARKED = re.compile(rb"\x01+")


class ChangesLost(OSError):
    """A copy that the question is about was deleted or given up; only a full backup helps."""


class ChangesMoved(ChangesLost):
    """The storage has moved; ask again."""


class Run(NamedTuple):
    """Consecutive changed chunks, from ``first`` to before ``end``."""

    first: int
    end: int


class _Copy:
    """A copy that a question is about. Errors: VSS_E_OBJECT_NOT_FOUND when no living copy has this id."""

    def __init__(self, rows: LivingRows, copy_id: UUID) -> None:
        self._rows = rows
        self.copy_id = copy_id
        try:
            self._offset, entry = rows.find(copy_id)
        except VssError as error:
            reason = f"{error.message}, so what changed since it is not known; make a full backup"
            raise VssError(error.code, reason) from None
        self.number, self.size = entry.number, entry.size
        self.overlay = find_overlay(rows.storage, copy_id)

    def check(self) -> None:
        """Errors: ChangesLost when the copy no longer lives."""
        if not self._rows.alive(self._offset, self.number):
            if self._rows.moved(self._offset):
                raise ChangesMoved(errno.ESTALE, f"the shadow storage of copy {self.copy_id} has just moved; ask again")
            reason = f"shadow copy {self.copy_id} no longer exists, so what changed since it is not known"
            raise ChangesLost(errno.ESTALE, f"{reason}; make a full backup")


class ChangeReader:
    """What changed since one copy, until another one or until now.

    ``chunk_size`` and ``size`` in bytes, ``size`` being the later one's: that of ``until``, or the volume's.

    Errors: VSS_E_OBJECT_NOT_FOUND when a copy is not there, E_INVALIDARG when ``until`` is not the later one.
    """

    def __init__(self, storage: str, since: UUID, until: UUID | None = None) -> None:
        at_home(storage, lambda home: self._open(home, since, until))

    def _open(self, storage: str, since: UUID, until: UUID | None) -> None:
        self._rows = LivingRows(storage)
        try:
            self._since = _Copy(self._rows, since)
            self._until = None if until is None else _Copy(self._rows, until)
            if self._until is not None and self._until.number <= self._since.number:
                message = f"shadow copy {until} is not later than {since}; ask for changes the other way round"
                raise VssError(Code.E_INVALIDARG, message)
            self._head = os.open(f"{storage}/head", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self._rows.close()
            raise
        header = self._rows.header
        self.chunk_size = header.chunk_size
        self._slots = Slots(storage, header.chunk_size)
        self.size = header.size if self._until is None else self._until.size
        self.chunks = layout.chunk_count(self.size, self.chunk_size)

    def runs(self, first: int = 0, last: int | None = None) -> Iterator[Run]:
        """Changed chunks from ``first`` to ``last`` inclusive, in order. Errors: ChangesLost, OSError."""
        stop = self.chunks if last is None else min(last + 1, self.chunks)
        known = stop if self._since.size == self.size else min(stop, self._since.size // self.chunk_size)
        begin = end = 0
        cut = chain(self._marked(first, known), ((max(first, known), stop),))
        for start, until in merge(cut, *(self._layered(copy, first, stop) for copy in (self._since, self._until))):
            if start > end:
                if end > begin:
                    yield Run(begin, end)
                begin = start
            end = max(end, until)
        self._check()
        if end > begin:
            yield Run(begin, end)

    def _layered(self, copy: _Copy | None, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Chunks that a copy's layer touches."""
        if copy and copy.overlay:
            unit = self.chunk_size
            for start, end in copy.overlay.runs(first * unit, min(stop * unit, self.size)):
                yield start // unit, -(-end // unit)

    def _marked(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Changed chunks, in pieces that may touch; the copies lived when they were looked at."""
        for at, words in self._blocks(first, stop):
            marks = self._marks(at, words)
            self._check()
            for match in _MARKED.finditer(marks):
                yield at + match.start(), at + match.end()

    def _check(self) -> None:
        self._since.check()
        if self._until is not None:
            self._until.check()

    def _blocks(self, first: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """Words of ``head`` that are on disk or in memory at all; holes were never copied out."""
        at, end = first * layout.WORD, stop * layout.WORD
        if os.fstat(self._head).st_size < end:
            raise too_short(stop)
        while at < end:
            try:
                at = os.lseek(self._head, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            hole = min(end, os.lseek(self._head, at, os.SEEK_HOLE))
            while at < hole:
                count = min(BLOCK_WORDS, (hole - at) // layout.WORD)
                yield at // layout.WORD, stable_words(self._head, at // layout.WORD, count)
                at += count * layout.WORD

    def _marks(self, first: int, words: bytes) -> bytes:
        """One byte for each word: 1 where the chunk changed."""
        since = at_least(words, self._since.number)
        if self._until is None or not since:
            return _expand(since, words)
        late = since & at_least(words, self._until.number)
        marks = bytearray(_expand(since & ~late, words))
        for match in _MARKED.finditer(_expand(late, words)):
            for index in range(match.start(), match.end()):
                marks[index] = self._walk(first + index)
        return bytes(marks)

    def _walk(self, chunk: int) -> bool:
        """Whether the chunk changed between the two cuts, for one that changed after the second one as well."""
        for attempt in range(TRIES):
            word = int.from_bytes(stable_words(self._head, chunk, 1), "little")
            try:
                return self._oldest_label(word)
            except OSError:  # the writer has just given the segment's space back: the chain has another way by now
                self._check()
                if attempt == TRIES - 1:
                    raise
        return True

    def _oldest_label(self, word: int) -> bool:
        assert self._until is not None
        since, until = self._since.number, self._until.number
        while word and (label := word >> layout.SLOT_BITS) >= since:
            if label < until:
                return True
            slot = layout.head_slot(word)
            word = lower(self._slots.previous_head(slot), slot)
        return False

    def close(self) -> None:
        """Let go of all files."""
        self._slots.close()
        for copy in (self._since, self._until):
            if copy and copy.overlay:
                copy.overlay.close()
        os.close(self._head)
        self._rows.close()


@lru_cache(maxsize=64)
def _tables(byte: int) -> tuple[bytes, bytes, bytes]:
    """Translations of a byte to 1 where it is at least, above, or exactly ``byte``, else to 0."""
    above = bytes(byte + 1) + b"\1" * (255 - byte)
    return bytes(byte) + b"\1" * (256 - byte), above, bytes(byte) + b"\1" + bytes(255 - byte)


def at_least(words: bytes, number: int) -> int:
    """Which words have a label of at least ``number``: byte *i* of the integer, little-endian, is 1 for word *i*.

    The label's three bytes are compared for all words at once, since this looks at every chunk of a volume.
    """
    low, middle, high = number.to_bytes(3, "little")
    (low_least, _, _), (_, middle_above, middle_same), (_, high_above, high_same) = map(_tables, (low, middle, high))

    def marks(place: int, table: bytes) -> int:
        return int.from_bytes(words[place :: layout.WORD].translate(table), "little")

    tail = marks(6, middle_above) | marks(6, middle_same) & marks(5, low_least)
    return marks(7, high_above) | marks(7, high_same) & tail


def _expand(marks: int, words: bytes) -> bytes:
    return marks.to_bytes(len(words) // layout.WORD, "little")


def changed_runs(
    storage: str, since: UUID, until: UUID | None = None, first_chunk: int = 0, last_chunk: int | None = None
) -> list[Run]:
    """Chunks that changed since copy ``since``, until copy ``until`` or until now; see ChangeReader for the errors."""
    while True:
        reader = ChangeReader(storage, since, until)
        try:
            return list(reader.runs(first_chunk, last_chunk))
        except ChangesMoved:
            continue
        finally:
            reader.close()
