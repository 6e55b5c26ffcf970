"""Words and slots of shadow storage as its readers see them.

They are not looked at in mapped memory: a page that cannot be read is an error to readers and not a SIGBUS, which
would end the process.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Callable
from threading import Lock
from typing import Final, NamedTuple

from shadowset.nbd_provider.store import layout

PAGE_WORDS: Final = layout.PAGE // layout.WORD
PAGE_SLOTS: Final = layout.PAGE // layout.SLOT_RECORD_SIZE
MOST_PAGES: Final = 1024
MOST_PACKED: Final = 4096


def too_short(end: int) -> OSError:
    """The error for a file that does not have all words before ``end``."""
    return OSError(errno.EIO, f"a file of shadow storage ends before its word {end}")


def read_words(fd: int, first: int, count: int) -> bytes:
    """``count`` words of a file, from word ``first``. Errors: OSError, with EIO when the file is too short."""
    words = os.pread(fd, count * layout.WORD, first * layout.WORD)
    if len(words) < count * layout.WORD:
        raise too_short(first + count)
    return words


def stable_words(fd: int, first: int, count: int) -> bytes:
    """Words read twice alike: a word that was being stored meanwhile would differ, so none is torn. Errors: OSError."""
    before = read_words(fd, first, count)
    while (again := read_words(fd, first, count)) != before:
        before = again
    return before


def lower(word: int, slot: int) -> int:
    """``word``, which the record of a slot says to be the older one. Slots are taken in order, so every way back ends.

    Errors: OSError (EIO) where it does not lead to a lower slot.
    """
    if word and not 0 <= layout.head_slot(word) < slot:
        raise OSError(errno.EIO, f"shadow storage is damaged: slot {slot} leads back to slot {layout.head_slot(word)}")
    return word


def find_slot(word: int, copy: int, previous_head: Callable[[int], int]) -> int | None:
    """The slot that holds what copy number ``copy`` saw, walking back from a head word; None means the origin.

    What is behind the copy's own is not looked at. Errors: as ``lower`` and ``previous_head``.
    """
    found = None
    while word >> layout.SLOT_BITS >= copy and word:
        found = layout.head_slot(word if found is None else lower(word, found))
        if word >> layout.SLOT_BITS == copy:
            break
        word = previous_head(found)
    return found


class _Page(NamedTuple):
    """A page of records that was read when ``newest`` of its slots was known to be in use."""

    records: bytes
    newest: int


class Slots:
    """All slots of a storage directory; their segments are opened when first needed. Any thread may use it.

    Pages of records are kept. Slots are taken in order, and the head names one only when its record is written, so up
    to the slot that a page was read for all records are there. None changes any more but for the way to older slots,
    from which slots are taken out that no living copy wants: the way that was leads to the same places, as long as all
    of its segments are there.
    """

    def __init__(self, storage: str, chunk_size: int) -> None:
        self._storage = storage
        self._chunk_size = chunk_size
        self._open: dict[int, int] = {}
        self.descriptors = b""
        self._pages: dict[int, _Page] = {}
        self._opening = Lock()

    def _segment(self, number: int) -> int:
        fd = self._open.get(number)
        if fd is None:
            with self._opening:
                fd = self._open.get(number)
                if fd is None:
                    fd = os.open(f"{self._storage}/{layout.segment_name(number)}", os.O_RDONLY | os.O_CLOEXEC)
                    self._open[number] = fd
                    self.descriptors = self._packed()
        return fd

    def _packed(self) -> bytes:
        """The descriptors of the first segments, by number, for the module in C; -1 where one is not open."""
        opened = [number for number in self._open if number < MOST_PACKED]
        fds = array("i", [-1]) * (max(opened, default=-1) + 1)
        for number in opened:
            fds[number] = self._open[number]
        return fds.tobytes()

    def previous_head(self, slot: int) -> int:
        """The head word that the slot replaced. Errors: OSError; FileNotFoundError when its segment went."""
        number, index = divmod(slot, PAGE_SLOTS)
        page = self._pages.get(number)
        if page is None or slot > page.newest:
            page = self._read_page(number, slot)
        at = index * layout.SLOT_RECORD_SIZE + layout.WORD_PREVIOUS * layout.WORD
        return int.from_bytes(page.records[at : at + layout.WORD], "little")

    def _read_page(self, number: int, slot: int) -> _Page:
        segment, first = divmod(number * PAGE_SLOTS, layout.SEGMENT_SLOTS)
        words = stable_words(self._segment(segment), first * layout.SLOT_WORDS, PAGE_WORDS)
        if len(self._pages) >= MOST_PAGES:
            self._pages.clear()
        page = self._pages[number] = _Page(words, slot)
        return page

    def look_again(self) -> None:
        """A segment on the way to a slot is gone: the way is another one by now."""
        self._pages.clear()

    def place(self, word: int, copy: int) -> tuple[int, int]:
        """Descriptor and offset of what copy number ``copy`` saw of a chunk with this head word, which is not the
        origin's. Errors: OSError."""
        slot = find_slot(word, copy, self.previous_head)
        assert slot is not None
        number, _, data = layout.slot_position(slot, self._chunk_size)
        return self._segment(number), data

    def close(self) -> None:
        """Close all segments."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
