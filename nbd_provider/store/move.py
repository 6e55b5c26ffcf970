"""Moving a shadow storage to another directory while it is written and read.

The old directory stays the storage until one durable step, the renaming of its note, makes the new one count. Until
then every change goes to the old one alone, and the new one follows: slots are taken in ascending order and never
twice, and their data never changes, so going through them from the first to the last copies everything.

What the new directory gets is right whatever happens to the old one meanwhile. A slot is taken over when it is in its
chunk's chain, together with the backward word that it has at that moment; that word leads to an older slot that was in
the chain too when its turn came. A slot that is given back later was garbage, so its copy is only garbage more. Slots
are never numbered anew while a move is under way (``ShadowStore.moving``).

When little is left, the rest is copied while nothing can be copied out, everything is synced, and the step is made.
Only then are those told who have the old directory open, and after that the next copy-out may begin.

A move that is cut off goes on at the next start: what the new directory has was written under the same boot, so it is
there; after a power loss the move begins again. A move that cannot go on leaves the old directory as it is.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
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
    drop_note,
    locate,
    read_note,
    replace_table,
    take_lock,
    wipe,
    write_note,
)
from shadowset.nbd_provider.store.recovery import boot_id
from shadowset.nbd_provider.store.room import MOVE_FINISHED, MOVE_STARTED, MOVE_STOPPED
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss.codes import Code, VssError

log = logging.getLogger(__name__)

STEP_SLOTS: Final = 256
PASSES: Final = 8
"""So often the move goes after what came meanwhile; then copy-outs no longer overtake it."""
CHASE_SLOTS: Final = 1024
CHASES: Final = 64
LAST_SLOTS: Final = 256
"""With so few slots left, or after so many steps during which nothing was copied out, the move comes to its end."""
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


class Mover:
    """The moves of one storage, one at a time; ``progress`` is None when none was asked for or the last one is done.

    The steps of ``work`` may be gone through in a thread of their own, beside live use of the storage and ``cancel``.
    """

    def __init__(self, store: ShadowStore) -> None:
        self._store = store
        self._steps: Generator[int, None, None] | None = None
        self._turn = Lock()
        self._cancelled = False
        self.progress: Progress | None = None
        note = read_note(store.storage, MOVING)
        if note is not None:
            self.progress = Progress(note.storage, Phase.COPYING)
            self._steps = self._guarded(_Move(store, note, self.progress))

    @property
    def active(self) -> bool:
        """Whether a move is under way."""
        return self._steps is not None

    def begin(self, directory: str) -> Progress:
        """Start a move to a directory that is empty or to be made; its parent must be there.

        Errors: VSS_E_BAD_STATE while one is under way, E_INVALIDARG, VSS_E_OBJECT_NOT_FOUND,
        VSS_E_OBJECT_ALREADY_EXISTS, VSS_E_PROVIDER_IN_USE, VSS_E_INSUFFICIENT_STORAGE, OSError.
        """
        store = self._store
        if self._steps is not None:
            assert self.progress is not None
            message = f"shadow storage {store.storage} is being moved to {self.progress.storage}; wait, or cancel that"
            raise VssError(Code.VSS_E_BAD_STATE, message)
        note = _destination(store, directory)
        _take(store, note)
        self._cancelled = False
        self.progress = Progress(note.storage, Phase.COPYING)
        self._steps = self._guarded(_Move(store, note, self.progress))
        store.room.add(MOVE_STARTED, f"shadow storage {store.storage} is being moved to {note.storage}")
        return self.progress

    def cancel(self) -> None:
        """Let the next step give the move up. Errors: VSS_E_BAD_STATE when there is none, or its end has come."""
        with self._turn:
            if self._steps is None or self.progress is None or self.progress.phase is not Phase.COPYING:
                message = f"shadow storage {self._store.storage} is not being moved; there is nothing to cancel"
                raise VssError(Code.VSS_E_BAD_STATE, message)
            self._cancelled = True

    def _go_on(self, phase: Phase) -> None:
        """Errors: VSS_E_BAD_STATE when the move was cancelled before it came to this phase."""
        assert self.progress is not None
        with self._turn:
            if self._cancelled and self.progress.phase is Phase.COPYING:
                raise VssError(Code.VSS_E_BAD_STATE, "it was cancelled")
            self.progress.phase = phase

    def work(self) -> Iterator[int] | None:
        """Steps of a few MiB, to be gone through one after another; they raise nothing. None when nothing is to do."""
        return self._steps

    def close(self) -> None:
        """Stop between two steps; the move goes on at the next start."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def _guarded(self, move: _Move) -> Generator[int, None, None]:
        """The steps, with an end in ``progress`` whatever happens."""
        progress, source = move.progress, self._store.storage
        try:
            for phase, brought in move.steps():
                self._go_on(phase)
                yield brought
        except (OSError, EOFError, VssError, ValueError) as error:
            reason = error.message if isinstance(error, VssError) else str(error)
            if progress.phase is Phase.CLEANING:
                log.error("what is left of shadow storage %s cannot be removed: %s", source, reason)
                self._end(source)
            else:
                move.close()
                self._give_up(progress, reason)
        except GeneratorExit:
            move.close()
            raise
        else:
            self._end(source)

    def _end(self, source: str) -> None:
        self.progress = self._steps = None
        self._store.room.add(MOVE_FINISHED, f"shadow storage {source} is in {self._store.storage} now")

    def _give_up(self, progress: Progress, reason: str) -> None:
        """The old place is whole; the new one goes, as far as it can be reached."""
        store = self._store
        note = read_note(store.storage, MOVING)
        try:
            drop_note(store.storage, MOVING)
            store.moving = False
            if note is not None:
                _discard(store, note)
        except OSError as error:
            log.error("what a move has left in %s cannot be removed: %s", progress.storage, error)
        store.garbage = True
        progress.phase, progress.reason, self._steps = Phase.STOPPED, reason, None
        message = f"the move of shadow storage {store.storage} to {progress.storage} has ended: {reason}"
        store.room.add(MOVE_STOPPED, f"{message}; the storage stays where it is")


def _destination(store: ShadowStore, directory: str) -> Note:
    """What to write down about the move. Errors: as ``Mover.begin``."""
    path, here = os.path.realpath(directory), os.path.realpath(store.storage)
    if not os.path.isabs(directory):
        raise VssError(Code.E_INVALIDARG, f"the directory {directory!r} must be an absolute path")
    if os.path.commonpath([path, here]) in (path, here):
        raise VssError(Code.E_INVALIDARG, f"{path} is, holds or lies in the shadow storage {here}; name another place")
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{path} cannot be made: there is no directory {parent}")
    made = not os.path.lexists(path)
    if not made and not (os.path.isdir(path) and _is_free(store, path)):
        raise VssError(
            Code.VSS_E_OBJECT_ALREADY_EXISTS, f"{path} is no empty directory; name one that is, or a new one"
        )
    disk = os.statvfs(parent if made else path)
    wanted, free = store.used, disk.f_bavail * disk.f_frsize
    if free < wanted:
        message = f"{path} has room for {free} bytes and shadow storage {here} takes {wanted}; name a place with more"
        raise VssError(Code.VSS_E_INSUFFICIENT_STORAGE, message)
    return Note(path, str(store.header.storage_id), str(boot_id()), made)


def _is_free(store: ShadowStore, path: str) -> bool:
    """Empty, or with nothing but what an earlier move of the same storage has left."""
    names = set(os.listdir(path))
    if not names - {"lock", "lost+found"}:
        return True
    incoming = read_note(path, INCOMING)
    if incoming is not None:
        return incoming.storage_id == str(store.header.storage_id) and os.path.samefile(incoming.storage, store.storage)
    return names <= {"lock", "lost+found", MOVED} and os.path.samefile(locate(path), store.storage)


def _take(store: ShadowStore, note: Note) -> None:
    """Make the new directory ours, and then the move durable. Errors: OSError, VssError."""
    if note.made:
        os.mkdir(note.storage, 0o700)
    try:
        sync_directory(os.path.dirname(note.storage))
        os.chmod(note.storage, 0o700)
        write_note(note.storage, INCOMING, Note(os.path.realpath(store.storage), note.storage_id))
        wipe(note.storage)
        write_note(store.storage, MOVING, note)
    except OSError:
        with suppress(OSError):
            _empty(note)
        raise
    store.moving = True


def _ours(store: ShadowStore, note: Note) -> bool:
    incoming = read_note(note.storage, INCOMING)
    return incoming is not None and incoming.storage_id == str(store.header.storage_id)


def _discard(store: ShadowStore, note: Note) -> None:
    """Remove what a move has brought to its destination, unless that is another one by now. Errors: OSError."""
    if _ours(store, note):
        _empty(note)


def _empty(note: Note) -> None:
    wipe(note.storage)
    for name in ("lock", INCOMING):
        with suppress(FileNotFoundError):
            os.unlink(f"{note.storage}/{name}")
    if note.made:
        os.rmdir(note.storage)


class _Move:
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
        most = CHASES + 2 * (store.next_slot - position) // CHASE_SLOTS
        while store.next_slot - position > LAST_SLOTS and most:
            with store.work:
                end = self._window(position, CHASE_SLOTS)
                brought = self._copy(position, end)
            yield Phase.COPYING, self._brought(end, brought)
            position, most = end, most - 1
        self._sync()
        yield Phase.SWITCHING, 0
        self._finish(position)
        yield Phase.CLEANING, 0
        with store.work:
            bring_overlays(old, store.storage)  # of a set that was made meanwhile
        wipe(old)
        arrived(store.storage)

    def close(self) -> None:
        """Let go of the new directory's files, unless the store has taken them over."""
        for each in self._open:
            each.close()
        for fd in (self._lock, self._directory):
            if fd >= 0:
                os.close(fd)
        self._open, self._lock, self._directory = [], -1, -1

    def _enter(self) -> None:
        """Open what is there, from an earlier run of the same move under the same boot, or begin with nothing."""
        store, path = self._store, self._note.storage
        if not _ours(store, self._note):
            raise storage_error(path, "it is not as the move has left it", "mount what belongs there and move again")
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = take_lock(path)
        if self._note.boot != str(boot_id()):
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
        if self._note.boot != str(boot_id()):
            self._note = Note(path, self._note.storage_id, str(boot_id()), self._note.made)
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
        number = first // layout.SEGMENT_SLOTS
        try:
            words = self._source.get(number).words
        except FileNotFoundError:  # all of it was given back
            return 0
        used = [slot for slot in range(first, end) if _in_use(words, slot)]
        if not used:
            return 0
        there = self._target.get(number)
        fresh = [slot for slot in used if not _in_use(there.words, slot)]
        for run in layout.runs(fresh):
            self._copy_data(number, run)
        with self._store.work:
            chained = [slot for slot in used if _in_use(words, slot) and self._in_chain(words, slot)]
            records = {slot: _record(words, slot) for slot in chained}
        for run in layout.runs(chained):
            at = layout.slot_position(run[0], self._store.chunk_size)[1]
            write_all(there.fd, b"".join(records[slot] for slot in run), at)
        self._put_words(records)
        return len(fresh) * self._store.chunk_size

    def _put_words(self, records: dict[int, bytes]) -> None:
        for slot, record in records.items():
            chunk, _, label, _, _ = layout.SLOT_RECORD.unpack(record)
            self._grow(chunk)
            self._head.reserve(chunk)
            self._head.view[chunk] = layout.pack_head(label >> 32, slot)

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
        word = store.head.view[words[slot % layout.SEGMENT_SLOTS * layout.SLOT_WORDS + layout.WORD_CHUNK]]
        while word and (newer := layout.head_slot(word)) > slot:
            word = store.segments.previous_head(newer)
        return bool(word) and layout.head_slot(word) == slot

    def _finish(self, position: int) -> None:
        """The rest, while nobody else writes the storage, then the durable step, then in effect. OSError, EOFError."""
        store, path = self._store, self._note.storage
        with store.work:
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
            store.garbage = True
        with suppress(OSError):
            self.close()

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
