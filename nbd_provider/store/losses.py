"""The second place for losses: a small file on another file system than the storage.

When a storage takes no write at all, the row of a copy that must be given up cannot say so, and going on would let its
readers see wrong data. So the loss is recorded elsewhere: ``storage/losses`` is a symbolic link to a directory, one for
each storage, and the file in it that is named by the storage's id lists the lost copies. It is durable before the
origin changes, a reader looks for it after each read as it looks at the copy's row, and the next start carries it over
into the table. It goes as soon as the table durably says the same.
"""

from __future__ import annotations

import os
import shlex
import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.files import storage_error
from shadowset.vss.codes import VssError

LINK: Final = "losses"
MAGIC: Final = b"SHADOWLS"
VERSION: Final = 1
HEAD: Final = struct.Struct("<8sII16s")
"""magic, version, count of rows, storage id; after the rows follows the CRC-32 of all that precedes it."""
ROW: Final = struct.Struct("<16sQIIQ")
"""copy id, number, cause, zero, lost at (ns)."""
CRC: Final = struct.Struct("<I")


class Loss(NamedTuple):
    """A copy that was given up, with its generation, the cause as in a table row, and the time in ns since 1970."""

    copy_id: UUID
    number: int
    cause: int
    lost_ns: int


def pack(storage_id: UUID, losses: Sequence[Loss]) -> bytes:
    """The file."""
    rows = [ROW.pack(loss.copy_id.bytes, loss.number, loss.cause, 0, loss.lost_ns) for loss in losses]
    body = HEAD.pack(MAGIC, VERSION, len(rows), storage_id.bytes) + b"".join(rows)
    return body + CRC.pack(zlib.crc32(body))


def unpack(data: bytes, storage_id: UUID) -> list[Loss]:
    """Read the file. Errors: ValueError with the reason."""
    body, crc = data[: -CRC.size], data[-CRC.size :]
    if len(body) < HEAD.size or crc != CRC.pack(zlib.crc32(body)):
        raise ValueError("its checksum is wrong")
    magic, version, count, storage = HEAD.unpack_from(body)
    if (magic, version, storage) != (MAGIC, VERSION, storage_id.bytes) or len(body) != HEAD.size + count * ROW.size:
        raise ValueError("it is no record of this storage's losses")
    rows = ROW.iter_unpack(body[HEAD.size :])
    return [Loss(UUID(bytes=copy), number, cause, lost_ns) for copy, number, cause, _, lost_ns in rows]


def read(path: str, storage_id: UUID) -> list[Loss] | None:
    """The recorded losses; None when there is no record. Errors: ValueError when it is damaged, OSError."""
    try:
        with open(path, "rb", buffering=0) as file:
            return unpack(file.readall(), storage_id)
    except FileNotFoundError:
        return None


class LossWatch:
    """How readers ask. Errors: VssError when the directory is gone and nobody knows what stood in it."""

    def __init__(self, storage: str, header: layout.Header) -> None:
        self._id = header.storage_id
        link = f"{storage}/{LINK}"
        self.path = f"{link}/{self._id}"
        if not header.clean and os.path.islink(link) and not os.path.isdir(link):
            raise gone(storage, os.readlink(link))

    def lost(self, entry: layout.Entry) -> bool:
        """Whether the copy is recorded as lost; every one is when the record is damaged. Errors: OSError."""
        try:
            os.stat(self.path)
        except FileNotFoundError:
            return False
        try:
            losses = read(self.path, self._id) or []
        except ValueError:
            return True
        return any(loss.copy_id == entry.copy_id for loss in losses)


def gone(storage: str, directory: str) -> VssError:
    reason = f"losses of its copies may be recorded in {directory}, which is not there"
    step = f"mount or restore it, or make it anew with 'mkdir -p -m 700 {shlex.quote(directory)}' if it held no record"
    return storage_error(storage, reason, step)
