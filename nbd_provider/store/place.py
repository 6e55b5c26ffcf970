"""Where a shadow storage is: small files in its directories tell those who come by an old path of a move.

``moving`` in the old directory names the new one while a move is under way; renaming it to ``moved`` is the one durable
step that makes the new directory count. ``incoming`` in the new directory names the old one until all of the move is
done. Whoever opens a storage asks ``locate`` first; whoever has it open finds its rows in the state *moved*.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar
from uuid import UUID

import msgspec

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.create import private_file
from shadowset.nbd_provider.store.files import storage_error, sync_directory, write_all
from shadowset.nbd_provider.store.overlay import DIRECTORY, bring_overlays
from shadowset.nbd_provider.store.session import session_id
from shadowset.vss.codes import Code, VssError

MOVING: Final = "moving"
MOVED: Final = "moved"
INCOMING: Final = "incoming"
MAX_MOVES: Final = 64

T = TypeVar("T")


class Note(msgspec.Struct, frozen=True):
    """What such a file says: the other directory, the storage's id, and the boot under which the move began.

    ``made`` tells that the new directory was made for the move, so it goes with it when that is given up.
    """

    storage: str
    storage_id: str
    boot: str = ""
    made: bool = False


def read_note(storage: str, name: str) -> Note | None:
    """One of the files, None when it is not there. Errors: VssError when it cannot be understood."""
    try:
        with open(f"{storage}/{name}", "rb") as file:
            return msgspec.json.decode(file.read(), type=Note)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.DecodeError as error:
        raise storage_error(storage, f"its file {name} is damaged: {error}", "restore the file or remove it") from error


def write_note(storage: str, name: str, note: Note) -> None:
    """Write one of the files, durably and whole. Errors: OSError."""
    temporary = f"{storage}/{name}.new"
    try:
        with private_file(temporary) as file:
            write_all(file.fileno(), msgspec.json.encode(note), 0)
            os.fsync(file.fileno())
        os.rename(temporary, f"{storage}/{name}")
        sync_directory(storage)
    except OSError:
        for path in (temporary, f"{storage}/{name}"):
            with suppress(FileNotFoundError):
                os.unlink(path)
        raise


def drop_note(storage: str, name: str) -> None:
    """Remove one of the files, durably. Errors: OSError."""
    with suppress(FileNotFoundError):
        os.unlink(f"{storage}/{name}")
        sync_directory(storage)


def locate(storage: str) -> str:
    """The directory of the storage that was, or is to be, in this one. Errors: VssError when it is not there."""
    for _ in range(MAX_MOVES):
        there = _next(storage)
        if there == storage:
            return storage
        storage = there
    raise storage_error(
        storage, "its moves lead in a circle", f"remove the file {MOVED} of the directories without a table"
    )


def _next(storage: str) -> str:
    """One step on the way. A place to which the storage comes back has its old note until that is done."""
    moved, incoming = read_note(storage, MOVED), read_note(storage, INCOMING)
    if incoming is not None:
        source = read_note(incoming.storage, MOVED)
        if source is not None and _same(source.storage, storage):
            return storage
        if moved is None:
            return _there(storage, incoming.storage, "it was being moved here from")
    if moved is None:
        return storage
    back = read_note(moved.storage, INCOMING)
    if back is not None and _same(back.storage, storage) and not os.path.exists(f"{moved.storage}/table"):
        return storage  # the last step was taken back because it failed
    return _there(storage, moved.storage, "it was moved to")


def _there(storage: str, other: str, how: str) -> str:
    if not any(os.path.exists(f"{other}/{name}") for name in ("table", MOVED, INCOMING)):
        reason = f"{how} {other}, and there is no storage there now"
        raise storage_error(storage, reason, "mount what belongs there")
    return other


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def at_home(storage: str, make: Callable[[str], T]) -> T:
    """``make(directory)`` with the directory in which the storage is, once more when it moved meanwhile.

    Errors: those of ``make`` and ``locate``.
    """
    for _ in range(MAX_MOVES):
        home = locate(storage)
        try:
            return make(home)
        except Exception:
            if locate(storage) == home:
                raise
    return make(locate(storage))


def _may_have_more(table: bytes, directory: str) -> bool:
    """Whether an old table does not tell those who have it open that the storage has moved, not even in part."""
    rows = range(layout.PAGE, len(table) - layout.ENTRY_SIZE + 1, layout.ENTRY_SIZE)
    try:
        boot = layout.Header.unpack(table[: layout.PAGE]).boot_id
    except ValueError:  # it tells, or is damaged
        return False
    if boot != session_id(directory):
        return False
    return not any(struct.unpack_from("<I", table, at)[0] == layout.STATE_MOVED for at in rows)


def mark_left(fd: int, table: bytes | bytearray) -> None:
    """Tell those who have the old table open. Rows first: whoever finds the header marked finds every row. OSError."""
    marked = bytearray(table)
    for at in range(layout.PAGE, len(table) - layout.ENTRY_SIZE + 1, layout.ENTRY_SIZE):
        if struct.unpack_from("<I", marked, at)[0] != layout.STATE_FREE:
            struct.pack_into("<I", marked, at, layout.STATE_MOVED)
            end = at + layout.ENTRY.size - 4
            struct.pack_into("<I", marked, end, zlib.crc32(marked[at:end]))
    write_all(fd, marked[layout.PAGE :], layout.PAGE)
    write_all(fd, layout.LEFT_MAGIC, 0)


def take_lock(directory: str) -> int:
    """The lock of a storage directory, as a descriptor. Errors: VSS_E_PROVIDER_IN_USE, OSError."""
    fd = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise VssError(
            Code.VSS_E_PROVIDER_IN_USE, f"shadow storage {directory} is in use by another provider; stop that one first"
        ) from None
    return fd


def is_lock_of(directory: str, fd: int) -> bool:
    """Whether ``fd`` is the lock of this storage directory; -1 is none."""
    try:
        return fd >= 0 and os.path.samestat(os.fstat(fd), os.stat(f"{directory}/lock"))
    except FileNotFoundError:
        return False


def wipe(directory: str) -> None:
    """Remove a storage's files; the table is the last, because readers who still have it open find their way by it."""
    for name in ("segments", DIRECTORY):
        with suppress(FileNotFoundError):
            shutil.rmtree(f"{directory}/{name}")
    for name in ("head", "head.new", "losses", "losses.new", "table.new", "table.left", "table"):
        with suppress(FileNotFoundError):
            os.unlink(f"{directory}/{name}")


def settle(storage: str) -> None:
    """Before a storage is opened that a move has brought here: what is left to do after the durable step.

    Unless its readers were told, the old table may have got rows after it was copied; so it is taken over as it is. Not
    after a power loss: none of these was durable, and the old table may have lost the mark. Errors: OSError, VssError.
    """
    note = read_note(storage, INCOMING)
    if note is None:
        return
    source = note.storage
    moved = read_note(source, MOVED)
    if moved is None or not _same(moved.storage, storage):
        raise storage_error(storage, f"it is being moved here from {source}", "name that directory")
    if os.path.exists(f"{source}/table"):
        lock = take_lock(source)
        try:
            fd = os.open(f"{source}/table", os.O_RDWR | os.O_CLOEXEC)
            try:
                table = os.pread(fd, os.fstat(fd).st_size, 0)
                if _may_have_more(table, source):
                    with open(f"{storage}/table", "rb") as file:
                        known = layout.Header.unpack(file.read(layout.PAGE)).boot_id
                    replace_table(storage, with_session(table, known))
                mark_left(fd, table)
            finally:
                os.close(fd)
        finally:
            os.close(lock)
    bring_overlays(source, storage)
    if os.path.isdir(source):
        wipe(source)
    arrived(storage)


def arrived(storage: str) -> None:
    """Nothing is left to do for the move to this directory. Errors: OSError."""
    drop_note(storage, MOVED)
    drop_note(storage, INCOMING)


def with_session(table: bytes, session: UUID) -> bytes:
    """The table for a directory whose files were written in this session. Errors: ValueError."""
    header = layout.Header.unpack(table[: layout.PAGE])
    header.boot_id = session
    return header.pack() + table[layout.PAGE :]


def replace_table(storage: str, table: bytes) -> None:
    """Put a table in place, durably. Errors: OSError."""
    with private_file(f"{storage}/table.new") as file:
        file.write(table)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{storage}/table.new", f"{storage}/table")
    sync_directory(storage)
