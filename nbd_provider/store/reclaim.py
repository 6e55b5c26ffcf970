"""Giving back the space of deleted copies, in steps small enough to do between requests.

A slot is garbage when no living copy's number lies in (label of the slot before it, its own label]. That cannot change
back, because later copies have higher numbers than any label. The slot is taken out of its chunk's chain first, then
marked, then its data is punched out of the file; readers of living copies never walk as far as it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from typing import Final

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import Segment, Segments, Words
from shadowset.nbd_provider.store.table import CopyTable

STEP_SLOTS: Final = 1024
FALLOC_FL_KEEP_SIZE: Final = 1
FALLOC_FL_PUNCH_HOLE: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with its modes. Errors: OSError."""
    if _libc.fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Reclaimer:
    """One pass over all slots; iterate over ``steps``."""

    def __init__(self, segments: Segments, head: Words, table: CopyTable, next_slot: int, chunk_size: int) -> None:
        self._segments = segments
        self._head = head
        self._table = table
        self._next_slot = next_slot
        self._chunk_size = chunk_size

    def steps(self) -> Iterator[int]:
        """Free garbage a little at a time; yields the bytes that each step freed. Errors: OSError."""
        current = self._next_slot // layout.SEGMENT_SLOTS
        for number in range(current + 1):
            if not self._segments.exists(number):
                continue
            end = self._next_slot - number * layout.SEGMENT_SLOTS if number == current else layout.SEGMENT_SLOTS
            used = 0
            for start in range(0, end, STEP_SLOTS):
                garbage, kept = self._sort_out(number, start, min(start + STEP_SLOTS, end))
                self._free(number, garbage)
                used += kept
                yield len(garbage) * self._chunk_size
            if not used and number != current:
                self._segments.discard(number)

    def _sort_out(self, number: int, start: int, stop: int) -> tuple[list[int], int]:
        """Garbage among the slots of one step, and how many others are in use."""
        segment = self._segments.get(number)
        words = segment.records(start, stop)
        garbage, kept = [], 0
        for index in range(start, stop):
            base = index * layout.SLOT_WORDS
            if not words[base + layout.WORD_FLAGS] & layout.FLAG_USED:
                continue
            if words[base + layout.WORD_CHUNK] == layout.FREE_CHUNK:
                continue
            before = words[base + layout.WORD_PREVIOUS] >> layout.SLOT_BITS
            if self._table.needed(before, words[base + layout.WORD_LABEL] >> 32):
                kept += 1
            else:
                garbage.append(index)
        segment.words.check()
        return garbage, kept

    def _free(self, number: int, garbage: list[int]) -> None:
        if not garbage:
            return
        segment = self._segments.get(number)
        for index in garbage:
            self._unlink(segment, number * layout.SEGMENT_SLOTS + index, index)
            segment.words.put(index * layout.SLOT_WORDS + layout.WORD_CHUNK, layout.FREE_CHUNK)
        if self._table.durable:
            os.fdatasync(segment.fd)
        size = self._chunk_size
        for run in layout.runs(garbage):
            offset = layout.SEGMENT_DATA + run[0] * size
            fallocate(segment.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, len(run) * size)

    def _unlink(self, segment: Segment, slot: int, index: int) -> None:
        """Take a slot out of its chunk's chain; one that a crash left outside the chain needs nothing."""
        base = index * layout.SLOT_WORDS
        chunk, previous = segment.words.get(base + layout.WORD_CHUNK), segment.words.get(base + layout.WORD_PREVIOUS)
        word = self._head.get(chunk)
        if word and layout.head_slot(word) == slot:
            self._head.put(chunk, previous)
            return
        while word:
            newer = layout.head_slot(word)
            word = self._segments.previous_head(newer)
            if word and layout.head_slot(word) == slot:
                self._segments.set_previous_head(newer, previous)
                return
