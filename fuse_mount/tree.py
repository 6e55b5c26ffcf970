"""The tree of device objects, without FUSE: names, attributes, extended attributes and reading.

A directory of descriptions (``DeviceObject`` as JSON, one file each) is all the state there is: a description that
appears is a new file in the tree, one that goes is a file less. Errors are OSError with the errno to report.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
import threading
from dataclasses import dataclass
from uuid import UUID

import msgspec

from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.vss.codes import VssError
from shadowset.vss.objects import DeviceObject
from shadowset.vss.paths import DEVICE_PREFIX

FILE_MODE = stat.S_IFREG | 0o440
DIRECTORY_MODE = stat.S_IFDIR | 0o555
XATTR_PREFIX = "user.shadowset."
NAME = re.compile(rf"/{DEVICE_PREFIX}([1-9][0-9]{{0,17}})\Z")


@dataclass(frozen=True)
class Attributes:
    """What stat(2) tells; times in nanoseconds since 1970."""

    mode: int
    size: int
    links: int
    time_ns: int


class DeviceTree:
    """The tree over one directory of descriptions; methods may be called from several threads."""

    def __init__(self, objects: str) -> None:
        self._objects = objects
        self._readers: dict[int, CopyReader] = {}
        self._handles = itertools.count(1)
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """File names of all device objects, by number."""
        numbers = []
        for name in os.listdir(self._objects):
            stem, dot, ending = name.partition(".")
            if dot and ending == "json" and stem.isdecimal():
                numbers.append(int(stem))
        return [f"{DEVICE_PREFIX}{number}" for number in sorted(numbers)]

    def find(self, path: str) -> DeviceObject:
        """The device object with this path. Errors: ENOENT, EIO when its description cannot be read."""
        match = NAME.match(path)
        if match is None:
            raise OSError(errno.ENOENT, path)
        try:
            with open(f"{self._objects}/{match[1]}.json", "rb") as file:
                return msgspec.json.decode(file.read(), type=DeviceObject)
        except msgspec.MsgspecError as error:
            raise OSError(errno.EIO, f"the description of {path} is damaged: {error}") from error

    def attributes(self, path: str) -> Attributes:
        """Attributes of the root or of a device object."""
        if path == "/":
            return Attributes(DIRECTORY_MODE, 0, 2, os.stat(self._objects).st_mtime_ns)
        found = self.find(path)
        return Attributes(FILE_MODE, found.size, 1, found.created_ns)

    def xattrs(self, path: str) -> dict[str, bytes]:
        """Extended attributes of a device object: the shadow copy's properties as text."""
        if path == "/":
            return {}
        found = self.find(path)
        values = {
            "snapshot_id": found.snapshot_id,
            "snapshot_set_id": found.snapshot_set_id,
            "original_volume": found.volume,
            "originating_machine": found.originating_machine,
            "attributes": f"0x{found.attributes:08x}",
            "created_ns": str(found.created_ns),
        }
        return {XATTR_PREFIX + name: value.encode() for name, value in values.items()}

    def open(self, path: str, flags: int) -> int:
        """A handle for reading.

        Errors: EROFS for anything but reading, ENOENT, EISDIR, ESTALE for a copy that is gone.
        """
        if path == "/":
            raise OSError(errno.EISDIR, path)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & (os.O_TRUNC | os.O_APPEND):
            raise OSError(errno.EROFS, path)
        found = self.find(path)
        try:
            reader = CopyReader(found.storage, found.origin, UUID(found.copy_id))
        except (VssError, ValueError) as error:
            raise OSError(errno.ESTALE, str(error)) from error
        with self._lock:
            handle = next(self._handles)
            self._readers[handle] = reader
        return handle

    def read(self, handle: int, offset: int, length: int) -> bytes:
        """Bytes of the copy. Errors: EBADF, ESTALE when the copy was deleted meanwhile, EIO."""
        reader = self._readers.get(handle)
        if reader is None:
            raise OSError(errno.EBADF, "no such handle")
        try:
            return reader.read(offset, length)
        except EOFError as error:
            raise OSError(errno.EIO, str(error)) from error

    def release(self, handle: int) -> None:
        """The last user of the handle has closed it."""
        with self._lock:
            reader = self._readers.pop(handle, None)
        if reader is not None:
            reader.close()
