"""The same with a kernel and a disk that takes writes and loses them: a loop over a sparse file on a full tmpfs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shadowset.nbd_provider.store.reader import CopyLost, CopyReader
from shadowset.nbd_provider.store.rows import list_copies
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss import provider_protocol as m

CHUNK = 16384
CHUNKS = 128
SIZE = CHUNK * CHUNKS
COPY, SET = UUID(int=1), UUID(int=2)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


class Place:
    """A file system whose disk takes nothing new once it is ``fill``ed."""

    def __init__(self, directory: str) -> None:
        self.little, self.mounted = f"{directory}/little", f"{directory}/mounted"
        os.mkdir(self.little)
        os.mkdir(self.mounted)
        self._loop = ""
        self._mounts: list[str] = []

    def mount(self) -> None:
        self._mount("-t", "tmpfs", "-o", "size=24M", "none", self.little)
        image = f"{self.little}/image"
        with open(image, "wb") as file:
            file.truncate(128 << 20)
        run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=1", image)
        self._loop = run("losetup", "-f", "--show", image)
        self._mount(self._loop, self.mounted)

    def _mount(self, *arguments: str) -> None:
        run("mount", *arguments)
        self._mounts.append(arguments[-1])

    def fill(self) -> None:
        run("sync", "-f", self.mounted)
        with suppress(OSError), open(f"{self.little}/fill", "wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass

    def close(self) -> None:
        if len(self._mounts) > 1:
            run("umount", self._mounts.pop())
        if self._loop:
            run("losetup", "-d", self._loop)
        if self._mounts:
            run("umount", self._mounts.pop())


@pytest.fixture
def place(workdir: str) -> Iterator[Place]:
    made = Place(workdir)
    try:
        try:
            made.mount()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"needs root, loop devices and mkfs.ext4: {error}")
        yield made
    finally:
        made.close()


def write_back(storage: str) -> None:
    """What the kernel does in its own time; nobody is told of what goes wrong."""
    subprocess.run(["sync", "-f", storage], capture_output=True, timeout=60, check=False)


def overwrite(store: ShadowStore, origin: int, first: int, end: int) -> None:
    for chunk in range(first, end):
        store.prepare_write([(chunk * CHUNK, CHUNK)])
        os.pwrite(origin, b"n" * CHUNK, chunk * CHUNK)


@pytest.mark.parametrize("killed", [False, True])
def test_slots_that_the_disk_lost_cost_the_copy(place: Place, workdir: str, killed: bool) -> None:
    """While the process lives, and after a kill before it has asked. No sync is robbed of its error."""
    storage, path = f"{place.mounted}/storage", f"{workdir}/origin"
    Path(path).write_bytes(os.urandom(SIZE))
    origin = os.open(path, os.O_RDWR)
    store = ShadowStore(storage, origin, SIZE, CHUNK)
    store.commit(COPY, SET, 1, False)
    store.finish(COPY)
    reader = CopyReader(storage, path, COPY)
    segment = os.dup(store.segments.get(0).fd)
    try:
        overwrite(store, origin, 0, 4)
        place.fill()
        assert not store.writeback.look()
        overwrite(store, origin, 4, CHUNKS)
        write_back(storage)
        if killed:
            store.close(clean=False)
            store = ShadowStore(storage, origin, SIZE, CHUNK)
        else:
            assert store.writeback.look()
        assert [(each.copy_id, each.kind) for each in store.room.events] == [(str(COPY), "copy-lost")]
        assert list_copies(storage) == []
        with pytest.raises(CopyLost):
            reader.read(0, SIZE)
        with pytest.raises(OSError, match=r"No space left|Input/output"):
            os.fdatasync(segment)
        overwrite(store, origin, 0, CHUNKS)
    finally:
        reader.close()
        os.close(segment)
        store.close(clean=False)
        os.close(origin)


def test_the_provider_tells_without_being_asked_and_serves_on(
    place: Place, workdir: str, provider_class: Any, nbd_module: Any
) -> None:
    provider = provider_class(workdir, SIZE)
    provider.storage = f"{place.mounted}/storage"
    try:
        provider.start()
        control = provider.control()
        copy = control.snapshot()
        client = nbd_module.NBD()
        client.connect_uri(provider.uri)
        client.pwrite(b"n" * CHUNK, 0)
        place.fill()
        for chunk in range(CHUNKS):
            client.pwrite(b"n" * CHUNK, chunk * CHUNK)
        write_back(provider.storage)
        end = time.monotonic() + 60
        while not (events := control.value(m.ListEvents)["events"]) and time.monotonic() < end:
            time.sleep(0.1)
        assert [(each["event"], each["copy_id"]) for each in events] == [("copy-lost", copy)]
        client.pwrite(b"m" * CHUNK, 0)
        assert client.pread(SIZE, 0) == b"m" * CHUNK + b"n" * (SIZE - CHUNK)
        client.shutdown()
    finally:
        provider.close()
