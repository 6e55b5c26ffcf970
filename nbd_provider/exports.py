"""What the server can serve: the live volume, or shadow copies read-only."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

from shadowset.nbd_provider import protocol
from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.volume import Gate, Volume

COMMON_FLAGS = protocol.FLAG_HAS_FLAGS | protocol.FLAG_SEND_FLUSH | protocol.FLAG_CAN_MULTI_CONN
WRITE_FLAGS = protocol.FLAG_SEND_FUA | protocol.FLAG_SEND_TRIM | protocol.FLAG_SEND_WRITE_ZEROES


class Export(Protocol):
    """One export as the transmission phase uses it; errors are OSError with the errno to report."""

    name: str
    description: str
    size: int
    flags: int

    def read_now(self, offset: int, length: int) -> bytes | bytearray | None:
        """Bytes that need no waiting for a disk, or None."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes, waiting as long as it takes; called from any thread."""

    def prepare_write(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Called before the (offset, length) ranges of a batch are changed."""

    def write(self, offset: int, data: memoryview) -> None:
        """Change bytes."""

    def trim(self, offset: int, length: int) -> None:
        """The range is not needed any more."""

    def zero(self, offset: int, length: int, may_punch: bool) -> None:
        """Make the range read as zeros."""

    def flush(self) -> None:
        """Make finished changes durable; called from any thread."""

    def close(self) -> None:
        """The last user of this object is gone."""

    @property
    def gate(self) -> Gate | None:
        """What may hold changes back."""


class LiveExport:
    """The live volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._fd = volume.origin.fd
        self._may_try = hasattr(os, "RWF_NOWAIT")
        self.name = volume.name
        self.description = f"live volume {volume.name}"
        self.size = volume.origin.size
        self.flags = COMMON_FLAGS | WRITE_FLAGS

    @property
    def gate(self) -> Gate | None:
        """The volume's gate."""
        return self._volume.gate

    def read_now(self, offset: int, length: int) -> bytes | bytearray | None:
        """Bytes from the page cache, or None when a disk would have to be waited for."""
        if self._may_try:
            buffer = bytearray(length)
            try:
                done = os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._may_try = False
            else:
                return buffer if done == length else None
        return self._volume.read(offset, length)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes, waiting for the disk."""
        return self._volume.read(offset, length)

    def prepare_write(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Copy out what the batch is about to overwrite."""
        self._volume.prepare_write(ranges)

    def write(self, offset: int, data: memoryview) -> None:
        """Overwrite."""
        self._volume.write(offset, data)

    def trim(self, offset: int, length: int) -> None:
        """Discard what no copy needs; the rest keeps its content, so that a discard never fills the shadow storage."""
        for start, count in self._volume.store.preserved(offset, length):
            self._volume.origin.trim(start, count)

    def zero(self, offset: int, length: int, may_punch: bool) -> None:
        """Make the range read as zeros."""
        self._volume.origin.zero(offset, length, may_punch)

    def flush(self) -> None:
        """fdatasync of the origin."""
        self._volume.flush()

    def close(self) -> None:
        """Nothing: the volume outlives its connections."""


class CopyExport:
    """A shadow copy, read-only."""

    gate: Gate | None = None

    def __init__(self, reader: CopyReader, name: str) -> None:
        self._reader = reader
        self.name = name
        self.description = f"shadow copy {reader.entry.copy_id}"
        self.size = reader.size
        self.flags = COMMON_FLAGS | protocol.FLAG_READ_ONLY

    def read_now(self, offset: int, length: int) -> bytes | bytearray | None:
        """Bytes of the copy."""
        return self._reader.read(offset, length)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the copy."""
        return self._reader.read(offset, length)

    def _refuse(self) -> OSError:
        return OSError(errno.EPERM, f"{self.description} is read-only")

    def prepare_write(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Nothing to do: what follows is refused."""

    def write(self, offset: int, data: memoryview) -> None:
        """Refused."""
        raise self._refuse()

    def trim(self, offset: int, length: int) -> None:
        """Refused."""
        raise self._refuse()

    def zero(self, offset: int, length: int, may_punch: bool) -> None:
        """Refused."""
        raise self._refuse()

    def flush(self) -> None:
        """Nothing to make durable."""

    def close(self) -> None:
        """Close the files of this reader."""
        self._reader.close()


class Directory(Protocol):
    """Which exports there are."""

    def names(self) -> list[str]:
        """Their names, for NBD_OPT_LIST."""

    def find(self, name: str) -> Export | None:
        """One of them; an empty name asks for the default one."""


class LiveDirectory:
    """The one live volume, under its name and as the default."""

    def __init__(self, volume: Volume) -> None:
        self._export = LiveExport(volume)

    def names(self) -> list[str]:
        """The volume's name."""
        return [self._export.name]

    def find(self, name: str) -> Export | None:
        """The live volume."""
        return self._export if name in ("", self._export.name) else None


class CopyDirectory:
    """The living copies of one shadow storage, by copy id."""

    def __init__(self, storage: str, origin: str, entries: Callable[[], list[layout.Entry]]) -> None:
        self._storage = storage
        self._origin = origin
        self._entries = entries

    def names(self) -> list[str]:
        """Copy ids, oldest first."""
        return [str(entry.copy_id) for entry in self._entries()]

    def find(self, name: str) -> Export | None:
        """The copy with this id; the newest one by default."""
        entries = self._entries()
        if name == "" and entries:
            return CopyExport(CopyReader(self._storage, self._origin, entries[-1].copy_id), name)
        for entry in entries:
            if str(entry.copy_id) == name.lower():
                return CopyExport(CopyReader(self._storage, self._origin, UUID(name)), name)
        return None
