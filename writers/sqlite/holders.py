"""Who keeps a database's writers waiting, by the kernel's list of locks.

SQLite locks single bytes: of the database file, or, in WAL mode, of its ``-shm`` file. The list is read instead of
asking for a lock, because asking would mean opening the file, and closing it would drop this process's own locks on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

LOCKS = "/proc/locks"
RESERVED_BYTE = 0x40000001
WAL_WRITE_BYTE = 120
END_OF_FILE = "EOF"


@dataclass(frozen=True)
class Holder:
    """A process; ``name`` is empty when the process cannot be looked at."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})" if self.name else f"process {self.pid}"


def write_lock_holders(path: str, locks: Iterable[str] | None = None) -> list[Holder]:
    """The other processes that hold the write lock of a database; ``locks`` are lines of the kernel's list.

    Empty when nobody does any more, or when it is held from another namespace or another host.
    """
    if locks is None:
        try:
            with open(LOCKS, encoding="ascii", errors="replace") as file:
                locks = file.read().splitlines()
        except OSError:
            return []
    wanted = [(place, byte) for place, byte in ((path, RESERVED_BYTE), (f"{path}-shm", WAL_WRITE_BYTE))]
    inodes = {inode: byte for place, byte in wanted if (inode := _inode(place)) is not None}
    pids = [pid for line in locks if (pid := _writer(line, inodes)) not in (0, os.getpid())]
    return [Holder(pid, _name(pid)) for pid in dict.fromkeys(pids)]


def _inode(path: str) -> tuple[str, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}", status.st_ino


def _writer(line: str, inodes: dict[tuple[str, int], int]) -> int:
    """The process of a line like ``1: POSIX  ADVISORY  WRITE 4711 fd:00:1234 120 120`` when it is meant, else 0."""
    fields = line.split()
    if len(fields) != 8 or fields[1] != "POSIX" or fields[3] != "WRITE":
        return 0
    device, _, inode = fields[5].rpartition(":")
    if not (inode.isdecimal() and fields[4].isdecimal() and fields[6].isdecimal()):
        return 0
    byte = inodes.get((device, int(inode)))
    if byte is None or int(fields[6]) > byte:
        return 0
    return int(fields[4]) if fields[7] == END_OF_FILE or int(fields[7]) >= byte else 0


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
