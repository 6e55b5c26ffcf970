"""What the kernel tells of processes: their programs, directories, sockets and open files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LISTENS = 0x10000  # __SO_ACCEPTCON in /proc/net/unix


@dataclass(frozen=True)
class Process:
    """One process; ``words`` is its command line. ``directory`` is empty when it is none of this host's own tree."""

    pid: int
    name: str
    words: tuple[str, ...]
    directory: str

    def option(self, *names: str) -> str:
        """The value of an option, given as ``--name=value`` or as ``-n value``; empty without one."""
        for number, word in enumerate(self.words):
            for name in names:
                if word.startswith(f"{name}="):
                    return word.partition("=")[2]
                if word == name and number + 1 < len(self.words):
                    return self.words[number + 1]
        return ""


class Host:
    """A host by its /proc, as it is now. What may not be looked at is passed over."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self.processes = sorted(self._read_processes(), key=lambda process: process.pid)
        self._sockets = dict(self._read_sockets())

    def named(self, *names: str) -> list[Process]:
        """The processes of these programs."""
        return [process for process in self.processes if process.name in names]

    def _read_processes(self) -> Iterator[Process]:
        for pid in filter(str.isdecimal, os.listdir(self._proc)):
            top = f"{self._proc}/{pid}"
            try:
                name = Path(f"{top}/comm").read_text(errors="surrogateescape").strip()
                words = Path(f"{top}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
                directory = os.readlink(f"{top}/cwd")
            except OSError:
                continue  # it has ended, or is somebody else's
            if self._in_container(pid):
                continue  # its paths are not this host's
            if not _is_same(f"{top}/cwd", directory):
                directory = ""
            yield Process(int(pid), name, tuple(words), directory)

    def _in_container(self, pid: str) -> bool:
        try:
            return os.readlink(f"{self._proc}/{pid}/ns/pid") != os.readlink(f"{self._proc}/self/ns/pid")
        except OSError:
            return False

    def _read_sockets(self) -> Iterator[tuple[str, str]]:
        """Inode and path of Unix sockets that somebody listens on."""
        try:
            lines = Path(f"{self._proc}/net/unix").read_text(errors="surrogateescape").splitlines()[1:]
        except OSError:
            return
        for line in lines:
            fields = line.split(None, 7)
            if len(fields) == 8 and int(fields[3], 16) & LISTENS and fields[7].startswith("/"):
                yield fields[6], fields[7]

    def _descriptors(self, process: Process) -> list[str]:
        top = f"{self._proc}/{process.pid}/fd"
        found = []
        try:
            for name in sorted(os.listdir(top)):
                found.append(os.readlink(f"{top}/{name}"))
        except OSError:
            pass  # it may not be looked at, or has ended
        return found

    def listening(self, process: Process) -> list[str]:
        """The paths of the Unix sockets that it listens on."""
        inodes = [link[8:-1] for link in self._descriptors(process) if link.startswith("socket:[")]
        paths = [self._sockets[inode] for inode in inodes if inode in self._sockets]
        return sorted(path for path in paths if os.path.exists(path))

    def files(self, process: Process) -> list[str]:
        """The regular files that it has open, which are still there."""
        return [link for link in self._descriptors(process) if link.startswith("/") and os.path.isfile(link)]

    def mapped(self, process: Process) -> set[str]:
        """The regular files that it has mapped into its memory, which are still there."""
        try:
            lines = Path(f"{self._proc}/{process.pid}/maps").read_text(errors="surrogateescape").splitlines()
        except OSError:
            return set()  # it may not be looked at, or has ended
        paths = {fields[5] for line in lines if len(fields := line.split(None, 5)) == 6}
        return {path for path in paths if path.startswith("/") and os.path.isfile(path)}


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
