"""The steps of a move: what is copied when, so that the new directory holds the same at the moment it counts.

Slots are taken in ascending order and never twice, and their data never changes, so going through them from the first
to the last copies everything. A slot is taken over when it is in its chunk's chain, together with the backward word
that it has at that moment; that word leads to an older slot that was in the chain too when its turn came. A slot that
is given back later was garbage, so its copy is only garbage more.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import Final

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.create import lengthen_head, new_head, put_in_place
from shadowset.nbd_provider.store.files import Segments, Words, storage_error, sync_directory, write_all
from shadowset.nbd_provider.store.overlay import bring_overlays
from shadowset.nbd_provider.store.place import (
    INCOMING,
    MOVED,
    MOVING,
    Note,
    arrived,
    read_note,
    replace_table,
    take_lock,
    wipe,
    write_note,
)
from shadowset.nbd_provider.store.session import session_id
from shadowset.nbd_provider.store.writer import ShadowStore

STEP_SLOTS: Final = 256
PASSES: Final = 8
"""So often the move goes after what came meanwhile; then copy-outs no longer overtake it."""
CHASE_SLOTS: Final = 1024
CHASES: Final = 64
LAST_SLOTS: Final = 256
"""With so few slots left, or after so many steps during which nothing was copied out, the move tries to end."""
PATIENT: Final = 4
DOUBLINGS: Final = 4
"""An attempt that finds too many slots left doubles the size of steps and of the last one, so often at the most; after
so many it is no longer patient. No copy-out waits for more than such a step and one sync of what steps brought."""
SYNC_BYTES: Final = 64 << 20
PIECE: Final = 1 << 20


class Phase(StrEnum):
    """Where a move stands; ``CLEANING`` is in the new place already, ``STOPPED`` is over without effect."""

    COPYING = "copying"
    SWITCHING = "switching"
    CLEANING = "cleaning"
    STOPPED = "stopped"


@dataclass
class Progress:
    """A move to the directory ``storage``; ``done`` of ``total`` bytes are there, ``reason`` says why it stopped."""

    storage: str
    phase: Phase
    done: int = 0
    total: int = 0
    reason: str = ""


def is_ours(store: ShadowStore, note: Note) -> bool:
    """Whether the destination still is as this move has found or left it."""
    incoming = read_note(note.storage, INCOMING)
    return incoming is not None and incoming.storage_id == str(store.header.storage_id)


class Move:
    """One move under way: its place in the old segments, and the files of the new directory."""

    def __init__(self, store: ShadowStore, note: Note, progress: Progress) -> None:
        self._store = store
        self._note = note
        self.progress = progress
        self._open: list[Segments | Words] = []
        self._lock = -1
        self._directory = -1
        self._unsynced = 0

    def steps(self) -> Iterator[tuple[Phase, int]]:
        """Everything; yields what comes next and the bytes that each step brought. OSError, EOFError, VssError."""
        store, old = self._store, self._store.storage
        self._enter()
        yield Phase.COPYING, 0
        position, goal, passes = 0, store.next_slot, 0
        while store.next_slot - position > CHASE_SLOTS * 2 and passes < PASSES:
            end = self._window(position, STEP_SLOTS)
            yield Phase.COPYING, self._brought(end, self._copy(position, end))
            position = end
            if position >= goal:
                goal, passes = store.next_slot, passes + 1
        for attempt in count():
            patient = attempt < PATIENT
            position = yield from self._chase(position, CHASE_SLOTS << min(attempt, DOUBLINGS), patient)
            if patient:
                self._sync()
            yield Phase.SWITCHING, 0
            if self._finish(position, LAST_SLOTS << min(attempt, DOUBLINGS)):
                break
        yield Phase.CLEANING, 0
        with store.work:
            bring_overlays(old, store.storage)  # of a set that was made meanwhile
        wipe(old)
        arrived(store.storage)

    def _chase(self, position: int, most: int, patient: bool) -> Generator[tuple[Phase, int], None, int]:
        """Steps of ``most`` slots, during which nothing is copied out, until few are left; returns how far it is.

        Unless it is ``patient``, nothing is copied out either while what it brought is made durable.
        """
        store = self._store
        steps = CHASES + 2 * (store.next_slot - position) // most
        while store.next_slot - position > LAST_SLOTS and steps:
            with store.work:
                end = self._window(position, most)
                brought = self._copy(position, end)
                if not patient and self._unsynced + brought >= SYNC_BYTES:
                    self._sync()
            yield Phase.COPYING, self._brought(end, brought)
            position, steps = end, steps - 1
        return position

    def close(self) -> None:
        """Let go of the new directory's files, unless the store has taken them over."""
        for each in self._open:
            each.close()
        for fd in (self._lock, self._directory):
            if fd >= 0:
                os.close(fd)
        self._open, self._lock, self._directory = [], -1, -1

    def _enter(self) -> None:
        """Open what is there, from an earlier run of the same move in the same session, or begin with nothing."""
        store, path = self._store, self._note.storage
        if not is_ours(store, self._note):
            raise storage_error(path, "it is not as the move has left it", "mount what belongs there and move again")
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = take_lock(path)
        if self._note.boot != str(session_id(path)):
            wipe(path)
        os.makedirs(f"{path}/segments", mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            os.unlink(f"{path}/table")
        self._head = new_head(path, store.chunks)
        put_in_place(path, self._head)
        self._open.append(self._head)
        self._target = Segments(path, store.chunk_size, writable=True)
        self._source = Segments(store.storage, store.chunk_size)
        self._open += [self._target, self._source]
        if self._note.boot != str(session_id(path)):
            self._note = Note(path, self._note.storage_id, str(session_id(path)), self._note.made)
            write_note(store.storage, MOVING, self._note)

    def _brought(self, position: int, brought: int) -> int:
        """Note how far it is."""
        slot_size = self._store.slot_size
        self.progress.total = self._store.next_slot * slot_size
        self.progress.done = min(position * slot_size, self.progress.total)
        self._unsynced += brought
        if self._unsynced >= SYNC_BYTES:
            self._sync()
        return brought

    def _sync(self) -> None:
        self._unsynced = 0
        self._target.sync()

    def _window(self, first: int, most: int) -> int:
        """The end of the next slots to look at, all in one segment."""
        with self._store.work:
            end = (first // layout.SEGMENT_SLOTS + 1) * layout.SEGMENT_SLOTS
            return min(first + most, end, self._store.next_slot)

    def _copy(self, first: int, end: int) -> int:
        """Bring the slots from ``first`` to before ``end``; returns the bytes of data. Errors: OSError, EOFError."""
        number, start = divmod(first, layout.SEGMENT_SLOTS)
        stop = start + max(end - first, 1)
        try:
            source = self._source.get(number)
        except FileNotFoundError:  # all of it was given back
            return 0
        words = source.records(start, stop)
        used = [slot for slot in range(first, end) if _in_use(words, slot)]
        source.words.check()
        if not used:
            return 0
        there = self._target.get(number)
        have = there.records(start, stop)
        fresh = [slot for slot in used if not _in_use(have, slot)]
        for run in layout.runs(fresh):
            self._copy_data(number, run)
        with self._store.work:
            chained = [slot for slot in used if _in_use(words, slot) and self._in_chain(words, slot)]
            records = {slot: _record(words, slot) for slot in chained}
        source.words.check()
        for run in layout.runs(chained):
            at = layout.slot_position(run[0], self._store.chunk_size)[1]
            write_all(there.fd, b"".join(records[slot] for slot in run), at)
        self._put_words(records)
        return len(fresh) * self._store.chunk_size

    def _put_words(self, records: dict[int, bytes]) -> None:
        for slot, record in records.items():
            chunk, _, label, _, _ = layout.SLOT_RECORD.unpack(record)
            self._grow(chunk)
            self._head.reserve((chunk,))
            self._head.put(chunk, layout.pack_head(label >> 32, slot))

    def _grow(self, chunk: int) -> None:
        """The volume may have grown since the move began."""
        if chunk >= len(self._head.view):
            with self._store.work:
                lengthen_head(self._note.storage, self._store.chunks)
                self._head.enlarge(self._store.chunks)

    def _copy_data(self, number: int, run: list[int]) -> None:
        size = self._store.chunk_size
        source, target = self._source.get(number).fd, self._target.get(number).fd
        at = layout.slot_position(run[0], size)[2]
        end = at + len(run) * size
        while at < end:
            piece = os.pread(source, min(PIECE, end - at), at)
            if not piece:
                raise EOFError(f"segment {number} of {self._store.storage} ends at byte {at}")
            write_all(target, piece, at)
            at += len(piece)

    def _in_chain(self, words: memoryview, slot: int) -> bool:
        """Whether the slot is reached from its chunk's word; slots on the way to it have higher numbers."""
        store = self._store
        word = store.head.get(words[slot % layout.SEGMENT_SLOTS * layout.SLOT_WORDS + layout.WORD_CHUNK])
        while word and (newer := layout.head_slot(word)) > slot:
            word = store.segments.previous_head(newer)
        return bool(word) and layout.head_slot(word) == slot

    def _finish(self, position: int, most: int) -> bool:
        """The rest, while nobody else writes the storage, then the durable step, then in effect. OSError, EOFError.

        Nothing is done, and False returned, when more than ``most`` slots are left: copy-outs would wait for long.
        """
        store, path = self._store, self._note.storage
        with store.work:
            if store.next_slot - position > most:
                return False
            while position < store.next_slot:
                end = self._window(position, CHASE_SLOTS)
                self._copy(position, end)
                position = end
            self._grow(store.chunks - 1)
            self._sync()
            bring_overlays(store.storage, path)
            table = store.prepare_switch(path)
            replace_table(path, table)
            sync_directory(f"{path}/segments")
            fd = os.open(f"{path}/table", os.O_RDWR | os.O_CLOEXEC)
            try:
                self._check_place()
                self._step(store.storage, path)
            except OSError:
                os.close(fd)
                raise
            self._open = [self._source]
            lock, self._lock = self._lock, -1
            store.switch_to(path, self._head, self._target, fd, table, lock)
            store.moving = False
            store.space.garbage = True
        with suppress(OSError):
            self.close()
        return True

    def _check_place(self) -> None:
        """The path must still lead to the directory that is open: another one may be mounted over it. OSError."""
        if not os.path.samestat(os.fstat(self._directory), os.stat(self._note.storage)):
            raise OSError(errno.ESTALE, f"{self._note.storage} is another directory now")

    def _step(self, old: str, new: str) -> None:
        """From here on the new directory counts, also after a power loss. Errors: OSError, and then it does not."""
        os.rename(f"{old}/{MOVING}", f"{old}/{MOVED}")
        try:
            sync_directory(old)
        except OSError:
            os.unlink(f"{new}/table")  # whichever name is found after a power loss, it leads to the old place
            sync_directory(new)
            os.rename(f"{old}/{MOVED}", f"{old}/{MOVING}")
            raise


def _in_use(words: memoryview, slot: int) -> bool:
    """Whether a slot was filled and not given back."""
    at = slot % layout.SEGMENT_SLOTS * layout.SLOT_WORDS
    return bool(words[at + layout.WORD_FLAGS] & layout.FLAG_USED) and words[at + layout.WORD_CHUNK] != layout.FREE_CHUNK


def _record(words: memoryview, slot: int) -> bytes:
    at = slot % layout.SEGMENT_SLOTS * layout.SLOT_WORDS
    return words[at : at + layout.SLOT_WORDS].tobytes()
