"""Going on with a backup that was interrupted: its directory is taken over, and what is stored there stays.

Nothing of it is trusted. The new backup is of a new instant, and reads every file in its copies; a stored file that
only this backup has is compared with that and written where they differ, so a file that was cut short is gone on with
at its end. A stored file that has further names belongs to other backups too: it stays as it is, or another takes its
place. A mark in the directory says that it is unfinished, and a lock on the mark that somebody is at it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterable

from shadowset.requester.backup.copy import BLOCK, Fresh, TargetError, data_ranges, writing
from shadowset.requester.backup.manifest import FILES
from shadowset.requester.backup.manifest import NAME as MANIFEST
from shadowset.requester.connection import ConnectionLost
from shadowset.vss.codes import Code, VssError

MARK = "UNFINISHED"
TEXT = "This backup is not finished. The next run of its job, or the same 'shadowset backup' again, goes on with it.\n"


def worth_keeping(error: BaseException, was_kept: bool = False) -> bool:
    """Whether what is stored stays for a later run: the target or the coordinator was lost, or it was kept before.

    A full disk needs the room.
    """
    if isinstance(error, VssError) and error.code == Code.VSS_E_INSUFFICIENT_STORAGE:
        return False
    return was_kept or isinstance(error, TargetError | ConnectionLost)


def is_unfinished(directory: str) -> bool:
    """Whether a backup began there, and did not end."""
    return os.path.isfile(f"{directory}/{MARK}") and not os.path.lexists(f"{directory}/{MANIFEST}")


class Mark:
    """The mark of one backup, made or taken over."""

    def __init__(self, directory: str) -> None:
        """Errors: VSS_E_SNAPSHOT_SET_IN_PROGRESS when a living process has it; TargetError."""
        self._path = f"{directory}/{MARK}"
        with writing(self._path):
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.leave()
            sentence = f"another backup into {directory} is under way; wait for its end, or name another directory"
            raise VssError(Code.VSS_E_SNAPSHOT_SET_IN_PROGRESS, sentence) from None
        except OSError:
            pass  # a file system without locks
        with writing(self._path):
            os.pwrite(self._descriptor, TEXT.encode(), 0)
            os.fsync(self._descriptor)
            _sync(directory)

    def leave(self) -> None:
        """Let go of it. What it marks stays unfinished."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """The backup is finished; a mark that stays beside a manifest means nothing."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        self.leave()


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Continued(Fresh):
    """How contents get into a file that has some already."""

    def write(self, target: int, data: memoryview, position: int) -> None:
        """Only what is not there."""
        if os.pread(target, len(data), position) == data:
            self.kept += len(data)
        else:
            super().write(target, data, position)

    def hole(self, target: int, start: int, end: int) -> None:
        """What is there becomes zeros."""
        size = os.fstat(target).st_size
        for begin, until in data_ranges(target, min(end, size)):
            for position in range(max(begin, start), until, BLOCK):
                zeros = memoryview(bytes(min(BLOCK, until - position)))
                self.write(target, zeros, position)


def clear_documents(directory: str) -> None:
    """Of an unfinished backup only the files may be of use. Errors: TargetError."""
    with writing(directory):
        for entry in os.scandir(directory):
            if entry.name not in (FILES, MARK):
                _drop(entry.path)


def make_way(directory: str, stored: str) -> None:
    """What stands where ``stored`` needs a directory goes. Errors: OSError."""
    path = directory
    for part in stored.split("/")[:-1]:
        path = f"{path}/{part}"
        if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
            os.unlink(path)


def to_go_on_with(path: str) -> os.stat_result | None:
    """What is stored there, when it is a file that can be written; anything else goes. Errors: OSError."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK | os.W_OK):
        return status
    _drop(path)
    return None


def clear_strays(directory: str, stored: Iterable[str]) -> None:
    """Remove files that the backup does not have after all. Errors: TargetError."""
    known = {f"{directory}/{path}" for path in stored}
    with writing(directory):
        for above, directories, names in os.walk(f"{directory}/{FILES}", topdown=False):
            for name in names:
                if f"{above}/{name}" not in known:
                    os.unlink(f"{above}/{name}")
            for name in directories:
                with contextlib.suppress(OSError):  # it has files
                    _remove_directory(f"{above}/{name}")


def _remove_directory(path: str) -> None:
    if os.path.islink(path):
        os.unlink(path)
    else:
        os.rmdir(path)


def _drop(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
