"""The file system of the bridge: one directory with one file, ``disk``, that has the size of the export. Pure."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable

from shadowset.nbd_provider.attach import fuse

FILE_NAME = "disk"
DIRECTORY_INODE = 1
FILE_INODE = 2
_DISCARD_UNIT = 4096
_VALID_S = 3600
_ENTRIES = [
    (DIRECTORY_INODE, stat.S_IFDIR, "."),
    (DIRECTORY_INODE, stat.S_IFDIR, ".."),
    (FILE_INODE, stat.S_IFREG, FILE_NAME),
]


class Disk:
    """Answers the requests that do not touch data. ``size`` in bytes; ``block`` the server's smallest unit.

    Whoever truncates the file to a greater size makes it grow, when ``may_grow(size)`` says that the export has it:
    so the kernel, which asks for attributes once an hour, learns of it in the same step.
    """

    def __init__(self, size: int, block: int, may_grow: Callable[[int], bool] = lambda _: False) -> None:
        self.size = size
        self._may_grow = may_grow
        self._unit = max(block, _DISCARD_UNIT)
        self._answers: dict[int, Callable[[int, memoryview], bytes]] = {
            fuse.INIT: lambda _node, body: fuse.init_reply(bytes(body)),
            fuse.LOOKUP: self._lookup,
            fuse.GETATTR: lambda node, _body: fuse.attr_reply(self._attributes(node), _VALID_S),
            fuse.SETATTR: self._set_attributes,
            fuse.OPEN: lambda _node, _body: fuse.open_reply(direct=True),
            fuse.OPENDIR: lambda _node, _body: fuse.open_reply(direct=False),
            fuse.READDIR: self._readdir,
            fuse.STATFS: lambda _node, _body: fuse.statfs_reply(self.size, self._unit),
            fuse.RELEASE: lambda _node, _body: b"",
            fuse.RELEASEDIR: lambda _node, _body: b"",
            fuse.DESTROY: lambda _node, _body: b"",
        }

    def answer(self, opcode: int, node: int, body: memoryview) -> bytes:
        """What to reply after the header.

        Errors: OSError; ENOSYS (for all that a disk does not need) tells the kernel not to ask again.
        """
        handler = self._answers.get(opcode)
        if handler is None:
            raise OSError(errno.ENOSYS, "not served")
        return handler(node, body)

    def clamp(self, offset: int, length: int) -> int:
        """How much of a range lies on the disk."""
        return max(0, min(length, self.size - offset))

    def _attributes(self, node: int) -> bytes:
        if node == FILE_INODE:
            return fuse.attributes(FILE_INODE, stat.S_IFREG | 0o600, self.size, self._unit)
        return fuse.attributes(DIRECTORY_INODE, stat.S_IFDIR | 0o700, 0, self._unit)

    def _set_attributes(self, node: int, body: memoryview) -> bytes:
        size = fuse.wanted_size(body)
        if size is not None and size != self.size:
            if size < self.size or not self._may_grow(size):
                raise OSError(errno.EPERM, "the export has another size")
            self.size = size
        return fuse.attr_reply(self._attributes(node), _VALID_S)

    def _lookup(self, _node: int, body: memoryview) -> bytes:
        if bytes(body).rstrip(b"\0") != FILE_NAME.encode():
            raise OSError(errno.ENOENT, "no such file")
        return fuse.entry_reply(FILE_INODE, self._attributes(FILE_INODE), _VALID_S)

    def _readdir(self, _node: int, body: memoryview) -> bytes:
        _handle, offset, room = fuse.READ_IN.unpack_from(body)
        return fuse.directory(_ENTRIES, offset, room)
