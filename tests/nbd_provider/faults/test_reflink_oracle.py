"""An oracle apart: inside each hold XFS clones the origin file; the shadow copy must read as that clone for ever."""

from __future__ import annotations

import fcntl
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from racing import send

from shadowset.nbd_provider.store import resident
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.rows import list_copies
from shadowset.vss import provider_protocol as m

SIZE = 4 << 20
PIECE = 1 << 20
IN_FLIGHT = 256 * 1024
ROUNDS = 200
KEPT = 10
SECONDS = 45
FICLONE = 0x40049409


@pytest.fixture
def xfs(workdir: str, tools: Any) -> Iterator[str]:
    if os.geteuid():
        pytest.skip("needs root to mount XFS on a loop device")
    tools("mkfs.xfs", "losetup")
    place = f"{workdir}/x"
    os.mkdir(place)
    with open(f"{workdir}/image", "wb") as file:
        file.truncate(1 << 30)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", f"{workdir}/image"], check=True)
    subprocess.run(["mount", "-o", "loop", f"{workdir}/image", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


class Load(threading.Thread):
    """Writes of many sizes, eight at a time, until told to stop."""

    def __init__(self, nbd_module: Any, uri: str) -> None:
        super().__init__(daemon=True)
        self._client = nbd_module.NBD()
        self._client.connect_uri(uri)
        self._buffer = nbd_module.Buffer.from_bytearray
        self.stop, self.writes = False, 0
        self.failed: Exception | None = None

    def run(self) -> None:
        try:
            self._write()
        except Exception as error:
            self.failed = error

    def _write(self) -> None:
        chance = random.Random(5)
        while not self.stop:
            cookies = []
            for _ in range(8):
                length = chance.choice([512, 4096, 16384, 70000])
                offset = chance.randrange((SIZE - length) // 512) * 512
                cookies.append(self._client.aio_pwrite(self._buffer(bytearray(chance.randbytes(length))), offset))
            while cookies:
                cookies = [cookie for cookie in cookies if not self._client.aio_command_completed(cookie)]
                if cookies:
                    self._client.poll(-1)
            self.writes += 8


def read_plainly(reader: CopyReader, offset: int, _: random.Random) -> bytes:
    return reader.read(offset, PIECE)


def read_from_memory(reader: CopyReader, offset: int, _: random.Random) -> bytes:
    """Nothing where it is not all there."""
    target = bytearray(PIECE)
    return bytes(target) if reader.fill_now(offset, memoryview(target)) else b""


def read_by_sending(reader: CopyReader, offset: int, chance: random.Random) -> bytes:
    """From the beginning as much as one call sends."""
    return send(reader, offset, PIECE, chance) if reader.sends else b""


WAYS = (read_plainly, read_from_memory, read_by_sending)


class Oracle:
    """Copies and their clones."""

    def __init__(self, provider: Any, nbd_module: Any, directory: str) -> None:
        self.provider, self.directory, self._nbd = provider, directory, nbd_module
        self.export = provider.export()
        self.control = provider.control()
        self.read = dict.fromkeys(WAYS, 0)
        self.chance = random.Random(3)
        self.clones: dict[str, str] = {}
        self.compared = 0

    def cut(self) -> None:
        copy = str(uuid4())
        clone = f"{self.directory}/{copy}"
        persistent = self.chance.random() < 0.3
        self.control.value(m.Hold)
        with open(clone, "wb") as target, open(self.provider.origin, "rb") as source:
            fcntl.ioctl(target.fileno(), FICLONE, source.fileno())
        self.control.value(m.Commit, copy_id=copy, set_id=str(uuid4()), created_ns=1, persistent=persistent)
        self.control.value(m.Release)
        self.control.value(m.Finish, copy_id=copy)
        self.clones[copy] = clone

    def compare(self, copy: str) -> None:
        """In every way that a server of copies reads; what was read twice is mapped."""
        content = Path(self.clones[copy]).read_bytes()
        reader = CopyReader(self.provider.storage, self.provider.origin, UUID(copy))
        try:
            for way in (*WAYS, *WAYS[::-1]):
                for offset in range(0, SIZE, PIECE):
                    piece = way(reader, offset, self.chance)
                    same = piece == content[offset : offset + len(piece)]
                    assert same, f"copy {copy} differs from its clone in the MiB at {offset}: {way.__name__}"
                    self.read[way] += len(piece)
        finally:
            reader.close()
        assert self._served(copy) == content, f"copy {copy} is served with other bytes than its clone has"
        self.compared += 1

    def _served(self, copy: str) -> bytes:
        """What a client of ``shadowset-export`` gets that asks for all of it at once."""
        client = self._nbd.NBD()
        client.connect_uri(f"nbd+unix:///{copy}?socket={self.export}")
        buffers = [self._nbd.Buffer(IN_FLIGHT) for _ in range(0, SIZE, IN_FLIGHT)]
        waiting = [client.aio_pread(buffer, number * IN_FLIGHT) for number, buffer in enumerate(buffers)]
        while waiting:
            waiting = [cookie for cookie in waiting if not client.aio_command_completed(cookie)]
            if waiting:
                client.poll(-1)
        client.shutdown()
        return b"".join(buffer.to_bytearray() for buffer in buffers)

    def delete(self, copy: str) -> None:
        self.compare(copy)
        self.control.value(m.Delete, copy_id=copy)
        os.unlink(self.clones.pop(copy))


@pytest.mark.vss(89)
@pytest.mark.host
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_copies_equal_reflinked_files(
    xfs: str, provider_class: Any, nbd_module: Any, long: int, figures: list[str]
) -> None:
    provider = provider_class(xfs, SIZE)
    with open(provider.origin, "wb") as file:
        file.write(os.urandom(SIZE))
    try:
        provider.start()
        load = Load(nbd_module, provider.uri)
        load.start()
        oracle = Oracle(provider, nbd_module, xfs)
        rounds, end = 0, time.monotonic() + (long * 60 or SECONDS)
        while (long or rounds < ROUNDS) and time.monotonic() < end:
            rounds += 1
            oracle.cut()
            time.sleep(oracle.chance.uniform(0, 0.05))
            if len(oracle.clones) > KEPT:
                oracle.delete(oracle.chance.choice(list(oracle.clones)))
        load.stop = True
        load.join(20)
        assert load.failed is None, load.failed
        for copy in list(oracle.clones):
            oracle.compare(copy)
        assert {str(entry.copy_id) for entry in list_copies(provider.storage)} == set(oracle.clones)
        oracle.control.close()
        assert provider.stop() == 0
    finally:
        provider.close()
    ways = ", ".join(f"{count >> 20} MiB {way.__name__}" for way, count in oracle.read.items())
    figures.append(f"{oracle.compared} copies equal their reflinked files, under {load.writes} writes: {ways}")
    assert rounds >= 20 and load.writes > rounds
    assert not resident.COMPILED or all(oracle.read.values()), ways
