"""The snapshots of one file system: a directory each, with the subvolume ``copy`` and what it is in ``copy.json``.

The description is there before the snapshot and goes after it, so whatever a crash leaves behind is found and settled
like a pending copy.
"""

from __future__ import annotations

import os
import re

import msgspec

from shadowset.btrfs_provider import calls
from shadowset.btrfs_provider.filesystems import STORE
from shadowset.vss.codes import Code, VssError
from shadowset.vss.provider_protocol import CopyInfo

COPY = "copy"
_NAME = re.compile(r"[0-9a-f-]{36}\Z")


class Record(msgspec.Struct):
    """A snapshot and the volume that it was made of."""

    volume: str
    copy: CopyInfo


class Records:
    """Those below ``top``, a mount of the whole file system. Errors: OSError, beside those that are named."""

    def __init__(self, top: str) -> None:
        self._directory = f"{top}/{STORE}"

    def place(self, snapshot_id: str) -> str:
        """Where the snapshot is."""
        return f"{self._directory}/{snapshot_id}/{COPY}"

    def all(self) -> list[Record]:
        """What there is, by age."""
        try:
            names = [name for name in os.listdir(self._directory) if _NAME.match(name)]
        except FileNotFoundError:
            return []
        found = [record for record in map(self._read, names) if record]
        return sorted(found, key=lambda record: (record.copy.created_ns, record.copy.copy_id))

    def get(self, volume: str, snapshot_id: str) -> Record:
        """Errors: VSS_E_OBJECT_NOT_FOUND."""
        record = self._read(snapshot_id) if _NAME.match(snapshot_id) else None
        if record is None or record.volume != volume:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no shadow copy {snapshot_id[:80]!r} of {volume}")
        return record

    def _read(self, snapshot_id: str) -> Record | None:
        try:
            with open(f"{self._directory}/{snapshot_id}/{COPY}.json", "rb") as file:
                return msgspec.json.decode(file.read(), type=Record)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def write(self, record: Record) -> None:
        """Durable when this returns."""
        directory = f"{self._directory}/{record.copy.copy_id}"
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        with open(f"{directory}/{COPY}.new", "wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{directory}/{COPY}.new", f"{directory}/{COPY}.json")
        descriptor = self.open(record.copy.copy_id)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def open(self, snapshot_id: str) -> int:
        """A descriptor of the directory that the snapshot is made in."""
        return os.open(f"{self._directory}/{snapshot_id}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def remove(self, snapshot_id: str) -> None:
        """The snapshot goes, then what describes it."""
        directory = self.open(snapshot_id)
        try:
            if os.path.isdir(self.place(snapshot_id)):
                calls.destroy(directory, COPY)
            for name in os.listdir(directory):
                os.unlink(name, dir_fd=directory)
        finally:
            os.close(directory)
        os.rmdir(f"{self._directory}/{snapshot_id}")
