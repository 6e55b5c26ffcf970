"""The files of a shadow storage as a reader of one copy has them open, and how they say where its bytes are.

A read looks at the head's words of its chunks, reads what they say, and looks at the words again: chunks whose words
are the same were read right, the others are read once more. The writer stores a word before it changes the origin, so
what was read from the origin under an unchanged word is as old as the cut.
"""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from uuid import UUID

from shadowset.nbd_provider.store import layout, resident
from shadowset.nbd_provider.store.overlay import Overlay, find_overlay
from shadowset.nbd_provider.store.resident import Outgoing, Place, Pread, Windows
from shadowset.nbd_provider.store.rows import LivingRows
from shadowset.nbd_provider.store.slots import Slots, read_words

LOOKS = 100
LARGE = 64 * 1024
BRIDGE = 4
"""Chunks between two runs of the origin that are read along, since that costs less than another read."""


def memory(length: int) -> memoryview:
    """Memory to read into; where it is large it begins with a page.

    Some processors copy from the page cache to the middle of a cache line at half the speed.
    """
    return memoryview(mmap.mmap(-1, length)) if length >= LARGE else memoryview(bytearray(length))


def read_whole(fd: int, offset: int, target: memoryview) -> bool:
    """Fill memory, waiting for the disk. Errors: OSError, with EIO when the file ends early."""
    done = os.preadv(fd, (target,), offset)
    while done < len(target):
        more = os.preadv(fd, (target[done:],), offset + done)
        if not more:
            raise OSError(errno.EIO, f"the file ends at byte {offset + done}")
        done += more
    return True


class CopyFiles:
    """The files in one directory. ``origin``: a descriptor of the origin. Any thread may read.

    They say what was there at the cut: ``overlay`` is what writers changed inside the copy afterwards, if they did.
    What was read counts only if the copy is ``alive`` afterwards. They are closed, but for the origin, by ``close()``,
    or when nobody has them any more: who goes on elsewhere need not know whether others still read here.

    Errors: VSS_E_OBJECT_NOT_FOUND when the storage has no such living copy.
    """

    def __init__(self, storage: str, copy_id: UUID, origin: int) -> None:
        self.storage = storage
        self._origin = origin
        self._rows = LivingRows(storage)
        try:
            self._row, self.entry = self._rows.find(copy_id)
            self._head = os.open(f"{storage}/head", os.O_RDONLY | os.O_CLOEXEC)
            self.overlay = find_overlay(storage, copy_id)
        except BaseException:
            self._rows.close()
            raise
        self.chunk_size = self._rows.header.chunk_size
        self._slots = Slots(storage, self.chunk_size)
        self._number = self.entry.number
        self._limit = self._number << layout.SLOT_BITS
        self.windows = Windows()
        table, losses = self._rows.places
        self._fixed = (self._head, origin, table, self._row, losses, self._limit, self.chunk_size)
        self.close = weakref.finalize(self, _close, self.windows, self._slots, self.overlay, self._head, self._rows)

    @property
    def alive(self) -> bool:
        """Whether the copy lives, here. Errors: OSError."""
        return self._rows.alive(self._row, self._number)

    @property
    def moved(self) -> bool:
        """Whether the storage has left this place. Errors: OSError."""
        return self._rows.moved(self._row)

    def _chunks(self, offset: int, length: int) -> tuple[int, int]:
        """First chunk and number of chunks."""
        first = offset // self.chunk_size
        return first, (offset + length - 1) // self.chunk_size - first + 1

    def read(self, offset: int, length: int) -> bytes:
        """Bytes within the copy. What lies in the origin alone is not copied again. Errors: OSError."""
        first, count = self._chunks(offset, length)
        words = read_words(self._head, first, count)
        if max(_numbers(words)) < self._limit:
            content = os.pread(self._origin, length, offset)
            if len(content) == length and read_words(self._head, first, count) == words:
                return content
        target = memory(length)
        self.fill(offset, target, read_whole)
        return bytes(target)

    def fill(self, offset: int, target: memoryview, pread: Pread) -> bool:
        """Fill memory within the copy. False where ``pread`` will not. Errors: OSError."""
        first, count = self._chunks(offset, len(target))
        words = read_words(self._head, first, count)
        todo: Sequence[tuple[int, int]] = ((0, count),)
        for look in range(LOOKS):
            problem: OSError | None = None
            try:
                for start, end in todo:
                    numbers = _numbers(words[start * layout.WORD : end * layout.WORD])
                    if not self._fill_run(first + start, numbers, offset, target, pread):
                        return False
            except OSError as error:
                problem = error
                self._slots.look_again()
            again = read_words(self._head, first, count)
            if problem is None:
                if again == words:
                    return True
                todo = _differences(words, again)
            elif look == LOOKS - 1 or (again == words and not isinstance(problem, FileNotFoundError)):
                try:  # it is not of a word that was just changing, nor of a segment of other copies that just went
                    raise problem
                finally:
                    problem = None  # else the two hold each other, and these files open
            words = again
        raise OSError(errno.EIO, f"chunks of shadow copy {self.entry.copy_id} change too fast to be read")

    def fill_at_once(self, offset: int, target: memoryview) -> bool | None:
        """``fill`` from memory and the look at ``alive``, by one call; None where that has to be done step by step."""
        place = self._place(offset, len(target), target)
        return None if place is None else resident.fill_copy(*place)

    def send_at_once(
        self, socket: int, offset: int, replies: Sequence[Outgoing], holes: bool, target: memoryview
    ) -> tuple[int, list[memoryview]]:
        """As ``CopyReader.send_now``."""
        place = self._place(offset, sum([length for _, length in replies]), target)
        if place is None:
            return 0, []
        done, last, unsent, at = resident.send_copy(socket, list(replies), holes, place)
        return done, last_bytes(replies[done - last : done], target[at:], unsent) if unsent else []

    def _place(self, offset: int, length: int, target: memoryview) -> Place | None:
        """What the module in C has to know; None where it cannot say anything."""
        row = self._rows.seen(self._row, self._number)
        if not resident.COMPILED or row is None or self.overlay:
            return None
        window, at = self.windows.find(self._origin, offset, length)
        return target, offset, self._fixed, row, self._slots.descriptors, window, at

    def _fill_run(self, first: int, numbers: list[int], offset: int, target: memoryview, pread: Pread) -> bool:
        """Fill what lies in consecutive chunks whose head words are given: the origin first, the slots over it."""
        size, limit, end = self.chunk_size, self._limit, len(target)
        begin = first * size - offset  # where the first chunk begins in ``target``, perhaps before it
        kept = [index for index, word in enumerate(numbers) if word >= limit]
        if not self._fill_origin(begin, kept, len(numbers), offset, target, pread):
            return False
        for index in kept:
            fd, place = self._slots.place(numbers[index], self._number)
            chunk = begin + index * size
            start = max(0, chunk)
            if not pread(fd, place + start - chunk, target[start : min(end, chunk + size)]):
                return False
        return True

    def _fill_origin(
        self, begin: int, kept: Sequence[int], count: int, offset: int, target: memoryview, pread: Pread
    ) -> bool:
        size, end, origin = self.chunk_size, len(target), self._origin

        def fill(runs: Sequence[tuple[int, int]]) -> bool:
            for first, stop in runs:
                start = max(0, begin + first * size)
                if not pread(origin, offset + start, target[start : min(end, begin + stop * size)]):
                    return False
            return True

        if not kept:
            return fill(((0, count),))
        try:
            return fill(origin_runs(kept, count))
        except OSError:  # perhaps where nothing is needed of it
            return fill(origin_runs(kept, count, 0))

    def places(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Descriptor, offset and length of whole chunks that a read of the range would read now. Errors: OSError."""
        first, count = self._chunks(offset, length)
        numbers = _numbers(read_words(self._head, first, count))
        kept = [index for index, word in enumerate(numbers) if word >= self._limit]
        for start, end in origin_runs(kept, count):
            yield self._origin, (first + start) * self.chunk_size, (end - start) * self.chunk_size
        for index in kept:
            yield *self._slots.place(numbers[index], self._number), self.chunk_size


def _close(windows: Windows, slots: Slots, overlay: Overlay | None, head: int, rows: LivingRows) -> None:
    windows.close()
    slots.close()
    if overlay:
        overlay.close()
    os.close(head)
    rows.close()


def _numbers(words: bytes) -> list[int]:
    return memoryview(words).cast("Q").tolist()


def origin_runs(kept: Sequence[int], count: int, bridge: int = BRIDGE) -> list[tuple[int, int]]:
    """Runs of ``count`` chunks that are read from the origin, as (start, end); ``kept`` ones lie in slots.

    Up to ``bridge`` kept chunks within a run do not end it.
    """
    runs: list[tuple[int, int]] = []
    for before, after in pairwise((-1, *kept, count)):
        if after - before > 1:
            if runs and before + 1 - runs[-1][1] <= bridge:
                runs[-1] = (runs[-1][0], after)
            else:
                runs.append((before + 1, after))
    return runs


def last_bytes(replies: Sequence[Outgoing], target: memoryview, count: int) -> list[memoryview]:
    """The last ``count`` bytes of replies whose data lies in ``target``, without copying them."""
    parts: list[memoryview] = []
    at = 0
    for header, length in replies:
        parts += [memoryview(header), target[at : at + length]]
        at += length
    skip = sum(map(len, parts)) - count
    while skip >= len(parts[0]):
        skip -= len(parts.pop(0))
    parts[0] = parts[0][skip:]
    return parts


def _differences(before: bytes, after: bytes) -> list[tuple[int, int]]:
    """Runs of words that differ, as (start, end)."""
    pairs = enumerate(zip(_numbers(before), _numbers(after), strict=True))
    changed = layout.runs([index for index, (old, new) in pairs if old != new])
    return [(run[0], run[-1] + 1) for run in changed]
