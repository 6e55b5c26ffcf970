"""Moving a shadow storage to another directory while it is written and read.

The old directory stays the storage until one durable step, the renaming of its note, makes the new one count.
Until then every change goes to the old one alone, and the new one follows (``move_steps``). Slots are never numbered
anew while a move is under way (``ShadowStore.moving``).

When little is left, the rest is copied while nothing can be copied out, everything is synced, and the step is made.
Only then are those told who have the old directory open, and after that the next copy-out may begin.

A move that is cut off goes on at the next start: what the new directory has was written in the same session, so it is
there; after a power loss the move begins again. A move that cannot go on leaves the old directory as it is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from threading import Lock

from shadowset.nbd_provider.store.files import sync_directory
from shadowset.nbd_provider.store.move_steps import Move, Phase, Progress, is_ours
from shadowset.nbd_provider.store.place import (
    INCOMING,
    MOVED,
    MOVING,
    Note,
    drop_note,
    locate,
    read_note,
    wipe,
    write_note,
)
from shadowset.nbd_provider.store.room import MOVE_FINISHED, MOVE_STARTED, MOVE_STOPPED
from shadowset.nbd_provider.store.session import session_id
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss.codes import Code, VssError

log = logging.getLogger(__name__)


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
            self._steps = self._guarded(Move(store, note, self.progress))

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
        self._steps = self._guarded(Move(store, note, self.progress))
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

    def _guarded(self, move: Move) -> Generator[int, None, None]:
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
        except BaseException:
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
        try:
            note = read_note(store.storage, MOVING)
            drop_note(store.storage, MOVING)
            store.moving = False
            if note is not None:
                _discard(store, note)
        except (OSError, VssError) as error:
            log.error("what a move has left in %s cannot be removed: %s", progress.storage, error)
        store.space.garbage = True
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
    return Note(path, str(store.header.storage_id), str(session_id(path)), made)


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


def _discard(store: ShadowStore, note: Note) -> None:
    """Remove what a move has brought to its destination, unless that is another one by now. Errors: OSError."""
    if is_ours(store, note):
        _empty(note)


def _empty(note: Note) -> None:
    wipe(note.storage)
    for name in ("lock", INCOMING):
        with suppress(FileNotFoundError):
            os.unlink(f"{note.storage}/{name}")
    if note.made:
        os.rmdir(note.storage)
