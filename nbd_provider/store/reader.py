"""A shadow copy as bytes, read beside the writer, from any process and without locks."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from threading import Lock
from uuid import UUID

from shadowset.nbd_provider.store import resident
from shadowset.nbd_provider.store.copy_files import CopyFiles
from shadowset.nbd_provider.store.place import at_home
from shadowset.nbd_provider.store.resident import Outgoing, Pread
from shadowset.vss.codes import VssError

ATTEMPTS = 8


class CopyLost(OSError):
    """The copy was deleted or given up while it was being read."""


class CopyReader:
    """Read access to one shadow copy: ``size`` bytes at the moment of its cut. Follows a storage that moves.

    Any thread may read. Errors: VSS_E_OBJECT_NOT_FOUND when the storage has no such living copy.
    """

    def __init__(self, storage: str, origin: str, copy_id: UUID) -> None:
        self.origin_fd = os.open(origin, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._files = at_home(storage, lambda home: CopyFiles(home, copy_id, self.origin_fd))
        except BaseException:
            os.close(self.origin_fd)
            raise
        self._following = Lock()
        self.entry = self._files.entry
        self.size = self.entry.size
        self.chunk_size = self._files.chunk_size

    @property
    def home(self) -> str:
        """The directory in which the storage was when it was last looked for."""
        return self._files.storage

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``, fewer at the end of the copy. Errors: CopyLost, OSError."""
        length = max(0, min(length, self.size - offset))
        if not length:
            return b""
        for _ in range(ATTEMPTS):
            files = self._files
            try:
                content = files.read(offset, length)
                if files.overlay:
                    content = files.overlay.over(offset, content)
            except OSError:
                if self._counts(files):
                    raise
            else:
                if self._counts(files):
                    return content
        raise OSError(errno.EAGAIN, f"the shadow storage of copy {self.entry.copy_id} moves on and on")

    def fill(self, offset: int, target: memoryview, pread: Pread) -> bool:
        """Fill memory within the copy; False for what ``pread`` will not fill, or ``read`` has to look into.

        Errors: OSError.
        """
        return self._fill(self._files, offset, target, pread)

    def fill_now(self, offset: int, target: memoryview) -> bool:
        """``fill`` with what is in memory. Errors: OSError; EOPNOTSUPP where that cannot be asked for."""
        files = self._files
        filled = files.fill_at_once(offset, target)
        return self._fill(files, offset, target, files.windows.read) if filled is None else filled

    @property
    def sends(self) -> bool:
        """Whether ``send_now`` can do anything."""
        return resident.COMPILED

    def send_now(
        self, socket: int, offset: int, replies: Sequence[Outgoing], holes: bool, target: memoryview
    ) -> tuple[int, list[memoryview]]:
        """Send replies without waiting, reading through ``target``: of each its header and so many bytes from
        ``offset`` on, one after the other.

        Returns how many are done, and what of these the socket has not taken, which may lie in ``target``. All from the
        first one on that needs a closer look, or that ``target`` is too small for, are left; with ``holes`` also from
        the first that is zeros.
        """
        return self._files.send_at_once(socket, offset, replies, holes, target)

    @staticmethod
    def _fill(files: CopyFiles, offset: int, target: memoryview, pread: Pread) -> bool:
        if files.overlay and files.overlay.touches(offset, len(target)):
            return False
        try:
            filled = files.fill(offset, target, pread)
        except OSError:
            if files.alive:
                raise
            return False
        return filled and files.alive

    def places(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Descriptor, offset and length of whole chunks that a read of the range would read now. Errors: OSError."""
        return self._files.places(offset, length)

    def _counts(self, files: CopyFiles) -> bool:
        """Whether what was read from files counts; not when the storage has left it. Errors: CopyLost."""
        if files.alive:
            return True
        if not files.moved:
            raise CopyLost(errno.ESTALE, f"shadow copy {self.entry.copy_id} no longer exists")
        self._follow(files)
        return False

    def _follow(self, files: CopyFiles) -> None:
        """Go on where the storage is now; the files that are left close with the last read that uses them."""
        with self._following:
            if self._files is not files:
                return
            try:
                there = at_home(files.storage, lambda home: CopyFiles(home, self.entry.copy_id, self.origin_fd))
            except VssError as error:
                raise CopyLost(errno.ESTALE, error.message) from error
            self._files = there

    def close(self) -> None:
        """Let go of all files."""
        self._files.close()
        os.close(self.origin_fd)
