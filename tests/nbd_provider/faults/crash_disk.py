"""A disk with a volatile cache: what of the written sectors is there after a power loss is a matter of chance.

Each file has a *durable* image and, for each 512-byte sector, the versions written since its last sync. A crash image
takes for each sector the durable content or any of these versions, in units of 512 or 4096 bytes; a file's size is any
that it had since then. Names appear and vanish in the order in which they were changed, as with a journal, but nothing
short of fsync of their directory makes them durable.
"""

from __future__ import annotations

import os
import random
import signal
import stat
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shadowset.nbd_provider.store import reclaim
from shadowset.nbd_provider.store.writer import ShadowStore

SECTOR = 512
PAGE = 4096


class PowerLost(BaseException):
    """The machine stops here; nothing in the product may catch this."""


class Inode:
    """One file."""

    def __init__(self, path: str, durable: bool) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.number = os.fstat(self.fd).st_ino
        self.durable = self.current = self._read() if durable else b""
        self.versions: dict[int, list[tuple[int, bytes]]] = {}
        self.sizes = [len(self.durable)]

    def _read(self) -> bytes:
        return os.pread(self.fd, os.fstat(self.fd).st_size, 0)

    def look(self, time: int) -> bool:
        """Note what changed since the last look."""
        now, before = self._read(), self.current
        if now == before:
            return False
        if len(now) != len(before):
            self.sizes.append(len(now))
        for page in range(0, len(now), PAGE):
            if now[page : page + PAGE] == before[page : page + PAGE]:
                continue
            for at in range(page, min(page + PAGE, len(now)), SECTOR):
                sector = now[at : at + SECTOR]
                if sector != before[at : at + SECTOR].ljust(len(sector), b"\0"):
                    self.versions.setdefault(at, []).append((time, sector))
        self.current = now
        return True

    def synced(self) -> None:
        """All of it is durable."""
        self.durable = self.current
        self.versions.clear()
        self.sizes = [len(self.durable)]

    def crash(self, chance: random.Random, how: str, grain: int) -> bytes:
        """Content after a power loss; ``how`` is none, all or some."""
        if how != "some":
            return self.current if how == "all" else self.durable
        image = bytearray(self.durable)
        size = chance.choice([self.sizes[0], self.sizes[-1], *self.sizes])
        share = chance.choice([0.1, 0.5, 0.9])
        units: dict[int, list[int]] = {}
        for at in self.versions:
            units.setdefault(at // grain, []).append(at)
        image.extend(bytes(max(self.sizes[-1], len(image)) - len(image)))
        for places in units.values():
            if chance.random() < share:
                times = sorted({time for at in places for time, _ in self.versions[at]})
                until = chance.choice([times[-1], *times])
                for at in places:
                    for time, sector in self.versions[at]:
                        if time <= until:
                            image[at : at + len(sector)] = sector
        return bytes(image[:size]).ljust(size, b"\0")


class Directory:
    """Names in one directory, as they were after each change since its last sync."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.number = 0
        self.history: list[dict[str, Inode]] = [{}]

    def look(self, find: Callable[[str], Inode]) -> bool:
        """Note what changed since the last look."""
        names = []
        if os.path.isdir(self.path):
            self.number = os.stat(self.path).st_ino
            names = [entry.name for entry in os.scandir(self.path) if entry.is_file()]
        now = {name: find(f"{self.path}/{name}") for name in names}
        if now == self.history[-1]:
            return False
        self.history.append(now)
        return True

    def synced(self) -> None:
        """The names are durable."""
        del self.history[:-1]

    def crash(self, chance: random.Random, how: str) -> dict[str, Inode]:
        """Names after a power loss."""
        if how == "some":
            return chance.choice([self.history[0], self.history[-1], *self.history])
        return self.history[-1 if how == "all" else 0]


class Disk:
    """Storage directory and origin file of one running store; ``on_step`` is called before each durable step.

    ``places`` are the directories below ``storage`` in which files are looked at; they are taken to be there always.
    """

    SYNCS = ("fdatasync", "fsync")
    STEPS = (*SYNCS, "pwrite", "pwritev", "posix_fallocate", "ftruncate", "rename", "unlink")

    def __init__(self, storage: str, origin: str, places: Sequence[str] = ("", "segments")) -> None:
        os.makedirs(f"{storage}/{places[1]}", exist_ok=True)
        self.time = 0
        self.recording = False
        self.on_step: Callable[[], None] = lambda: None
        self._inodes: dict[int, Inode] = {}
        self._durable_start = True
        self.origin = self._find(origin)
        self.directories = {name: Directory(f"{storage}/{name}") for name in places}
        for directory in self.directories.values():
            directory.look(self._find)
            directory.synced()
        self._durable_start = False

    def _find(self, path: str) -> Inode:
        number = os.stat(path).st_ino
        if number not in self._inodes:
            self._inodes[number] = Inode(path, self._durable_start)
        return self._inodes[number]

    def look(self) -> bool:
        """Note all changes; returns whether there were any."""
        self.time += 1
        changed = [directory.look(self._find) for directory in self.directories.values()]
        changed += [inode.look(self.time) for inode in self._inodes.values()]
        return any(changed)

    def sync(self, fd: int) -> None:
        """A file or directory was synced."""
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            for directory in self.directories.values():
                if directory.number == status.st_ino:
                    directory.synced()
        elif status.st_ino in self._inodes:
            self._inodes[status.st_ino].synced()

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """See every durable step of this process."""
        for name in self.STEPS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))
        monkeypatch.setattr(reclaim, "fallocate", self._wrap("fallocate", reclaim.fallocate))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if not self.recording:
                return real(*arguments, **keywords)
            self.on_step()
            result = real(*arguments, **keywords)
            self.look()
            if name in self.SYNCS:
                self.sync(arguments[0])
            return result

        return call

    def write_image(self, target: str, chance: random.Random, storage: str, origin: str) -> None:
        """A crash image: ``target``/storage and ``target``/origin; the modes are none, all or some."""
        grain = chance.choice([SECTOR, PAGE])
        for where, directory in self.directories.items():
            os.makedirs(f"{target}/storage/{where}", exist_ok=True)
            for name, inode in directory.crash(chance, storage).items():
                put(f"{target}/storage/{where}/{name}", inode.crash(chance, storage, grain))
        put(f"{target}/origin", self.origin.crash(chance, origin, grain))

    def close(self) -> None:
        """Let go of all files."""
        self.recording = False
        for inode in self._inodes.values():
            os.close(inode.fd)


def put(path: str, content: bytes) -> None:
    """Write a file."""
    with open(path, "wb") as file:
        file.write(content)


def abandon(store: ShadowStore | None) -> None:
    """What the end of a process does."""
    if store is not None:
        os.close(store._lock)
        store.table.close()
        store.segments.close()
        store.head.close()


def killed_at(step: int, calls: Sequence[str], work: Callable[[], object]) -> bool:
    """Do the work in a process that is killed before its ``step``-th of these calls; False when it needs fewer."""
    child = os.fork()
    if not child:
        try:
            _count_down(step, calls)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _count_down(last: int, calls: Sequence[str]) -> None:
    count = 0
    for name in calls:
        real = getattr(os, name)

        def call(*arguments: Any, real: Callable[..., Any] = real, **keywords: Any) -> Any:
            nonlocal count
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **keywords)

        setattr(os, name, call)
