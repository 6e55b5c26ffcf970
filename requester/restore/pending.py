"""Files that take their places at the next boot: a list that survives, and the step that carries it out.

Each record is one component of one restore. Carrying one out again does no harm: a file that is in its place already
is known by its digest, and a record whose file system is not mounted stays for the next time.
"""

from __future__ import annotations

import contextlib
import os

import msgspec

from shadowset.requester.backup.copy import digest_file, writing
from shadowset.requester.backup.manifest import write_atomically
from shadowset.vss.codes import Code, VssError


class Swap(msgspec.Struct, kw_only=True):
    """``temporary`` becomes ``destination``; ``sha256`` is empty for a symbolic link."""

    temporary: str
    destination: str
    sha256: str = ""


class PendingRestore(msgspec.Struct, kw_only=True):
    """What is still to be done for one component; ``remove`` are stale files."""

    source: str
    writer: str
    component: str
    swaps: list[Swap]
    remove: list[str] = []


class PendingList:
    """The records in a directory, one file each, in the order in which they came."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def records(self) -> list[tuple[str, PendingRestore]]:
        """All of them by their files. Errors: VSS_E_UNEXPECTED for one that cannot be read."""
        try:
            names = sorted(name for name in os.listdir(self._directory) if name.endswith(".json"))
        except FileNotFoundError:
            return []
        return [(f"{self._directory}/{name}", _read(f"{self._directory}/{name}")) for name in names]

    def add(self, record: PendingRestore) -> None:
        """Take a record, which is durable afterwards; what waits for the same places waits no more. Errors: OSError."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        taken = {swap.destination for swap in record.swaps}
        known = self.records()
        for path, other in known:
            dropped = [swap for swap in other.swaps if swap.destination in taken]
            if dropped:
                other.swaps = [swap for swap in other.swaps if swap.destination not in taken]
                self._settle(path, other, dropped)
        number = max((int(os.path.basename(path).removesuffix(".json")) for path, _ in known), default=0) + 1
        write_atomically(f"{self._directory}/{number:08}.json", msgspec.json.encode(record))

    def cancel(self) -> list[PendingRestore]:
        """Give everything up; returns what waited. Errors: OSError."""
        known = self.records()
        for path, record in known:
            dropped, record.swaps = record.swaps, []
            self._settle(path, record, dropped)
        return [record for _, record in known]

    def _settle(self, path: str, record: PendingRestore, dropped: list[Swap]) -> None:
        if record.swaps:
            write_atomically(path, msgspec.json.encode(record))
        else:
            os.unlink(path)
        for swap in dropped:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(swap.temporary)

    def carry_out(self) -> list[tuple[PendingRestore, str]]:
        """Put all in place; for each record what went wrong, or an empty text. What went wrong stays in the list."""
        results = []
        for path, record in self.records():
            trouble = ""
            try:
                _carry_out(record)
                os.unlink(path)
            except (VssError, OSError) as error:
                trouble = str(error) if isinstance(error, VssError) else f"{error.filename}: {error.strerror}"
            results.append((record, trouble))
        return results


def _read(path: str) -> PendingRestore:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=PendingRestore)
    except (OSError, msgspec.MsgspecError) as error:
        raise VssError(Code.VSS_E_UNEXPECTED, f"{path} is not a list of pending files: {error}; remove it") from error


def _carry_out(record: PendingRestore) -> None:
    for swap in record.swaps:
        if not os.path.lexists(swap.temporary) and not _in_place(swap):
            raise VssError(
                Code.VSS_E_OBJECT_NOT_FOUND,
                f"{swap.temporary} is not there; mount its file system, or restore {record.component} again",
            )
    for swap in record.swaps:
        if os.path.lexists(swap.temporary):
            with writing(swap.destination):
                os.rename(swap.temporary, swap.destination)
    for path in record.remove:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    for directory in {os.path.dirname(swap.destination) for swap in record.swaps}:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _in_place(swap: Swap) -> bool:
    if not swap.sha256:
        return os.path.islink(swap.destination)
    try:
        return digest_file(swap.destination, lambda count: None)[1] == swap.sha256
    except OSError:
        return False
