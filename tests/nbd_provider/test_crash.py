"""SIGKILL of the provider under load, and readers that race with it: every copy stays exact."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.rows import list_copies
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss import provider_protocol as m

ROUNDS = 8
BLOCK = 4096


class Load(threading.Thread):
    """Writes blocks without pause and remembers which writes were acknowledged."""

    def __init__(self, nbd_module: Any, provider: Any, seed: int) -> None:
        super().__init__()
        self._client = nbd_module.NBD()
        self._client.connect_uri(provider.uri)
        self._error = nbd_module.Error
        self._blocks = provider.size // BLOCK
        self._chance = random.Random(seed)
        self.acknowledged: dict[int, bytes] = {}
        self.uncertain: set[int] = set()
        self.stop = False

    def run(self) -> None:
        while not self.stop:
            block = self._chance.randrange(self._blocks)
            data = self._chance.randbytes(BLOCK)
            self.uncertain.add(block)
            try:
                self._client.pwrite(data, block * BLOCK)
            except self._error:
                return
            self.acknowledged[block] = data
            self.uncertain.discard(block)


def digest(provider: Any, copy: str) -> str:
    return hashlib.sha256(provider.content(copy)).hexdigest()


@pytest.mark.vss(94)
def test_kill_under_load(provider: Any, nbd_module: Any, random_image: bytes) -> None:
    expected: dict[str, str] = {}
    for number in range(ROUNDS):
        load = Load(nbd_module, provider, number)
        load.start()
        time.sleep(0.05)
        control = provider.control()
        copy = control.snapshot(persistent=number % 2 == 0)
        expected[copy] = digest(provider, copy)
        time.sleep(random.Random(number).uniform(0.01, 0.15))
        provider.kill()
        load.stop = True
        load.join(10)
        content = Path(provider.origin).read_bytes()
        for block, data in load.acknowledged.items():
            if block not in load.uncertain:
                assert content[block * BLOCK : (block + 1) * BLOCK] == data, "an acknowledged write is lost"
        provider.start()
        for other, value in expected.items():
            assert digest(provider, other) == value, f"copy {other} changed in round {number}"
    assert len(list_copies(provider.storage)) == ROUNDS
    for copy in list(expected)[::2]:
        provider.control().value(m.Delete, copy_id=copy)
        del expected[copy]
    for other, value in expected.items():
        assert digest(provider, other) == value
    assert provider.stop() == 0


def test_readers_race_with_the_writer(provider: Any, nbd_module: Any, random_image: bytes) -> None:
    copy = provider.control().snapshot()
    readers = [CopyReader(provider.storage, provider.origin, UUID(copy)) for _ in range(2)]
    wrong: list[int] = []
    load = Load(nbd_module, provider, 99)
    load.start()

    def read(reader: CopyReader, seed: int) -> None:
        chance = random.Random(seed)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            length = chance.choice([512, 4096, 20000, 300000])
            offset = chance.randrange(provider.size - length)
            if reader.read(offset, length) != random_image[offset : offset + length]:
                wrong.append(offset)

    threads = [threading.Thread(target=read, args=(reader, seed)) for seed, reader in enumerate(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    load.stop = True
    load.join(10)
    assert not wrong and len(load.acknowledged) > 100
    for reader in readers:
        reader.close()


def test_deleting_gives_the_space_back(provider: Any, nbd_module: Any, random_image: bytes) -> None:
    control = provider.control()
    first, second = control.snapshot(), None
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    client.pwrite(os.urandom(4 << 20), 0)
    second = control.snapshot()
    client.pwrite(os.urandom(8 << 20), 0)
    full = control.value(m.Describe)["storage_used"]
    expected = digest(provider, first)
    control.value(m.Delete, copy_id=second)
    deadline = time.monotonic() + 10
    while control.value(m.Describe)["storage_used"] > full - (3 << 20):
        assert time.monotonic() < deadline, "the space of a deleted copy never came back"
        time.sleep(0.1)
    assert digest(provider, first) == expected == hashlib.sha256(random_image).hexdigest()
    control.value(m.Delete, copy_id=first)
    assert control.value(m.Describe)["storage_used"] < 1 << 20


@pytest.mark.parametrize(("mebibytes", "survivors"), [(14, [2]), (9, [])])
def test_full_storage_loses_copies_never_the_live_volume(workdir: str, mebibytes: int, survivors: list[int]) -> None:
    """The oldest copy goes first, the younger one stays exact as long as there is room, live writes never fail."""
    if os.geteuid():
        pytest.skip("needs root to mount a small tmpfs")
    small, path = f"{workdir}/small", f"{workdir}/o"
    os.mkdir(small)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}M", "tmpfs", small], check=True)
    Path(path).write_bytes(os.urandom(16 << 20))
    fd = os.open(path, os.O_RDWR)
    try:
        store = ShadowStore(f"{small}/storage", fd, 16 << 20)
        store.commit(UUID(int=1), UUID(int=9), 1, False)
        store.prepare_write([(0, 5 << 20)])
        os.pwrite(fd, bytes(5 << 20), 0)
        store.commit(UUID(int=2), UUID(int=9), 2, False)
        second = Path(path).read_bytes()
        for offset in range(5 << 20, 16 << 20, 1 << 20):
            store.prepare_write([(offset, 1 << 20)])
            os.pwrite(fd, bytes(1 << 20), offset)
        assert store.table.live == survivors
        assert [entry.state for entry in store.table.entries if entry.number not in survivors] == (
            [layout.STATE_LOST] * (2 - len(survivors))
        )
        assert Path(path).read_bytes() == bytes(16 << 20)
        if survivors:
            reader = CopyReader(f"{small}/storage", path, UUID(int=2))
            assert reader.read(0, len(second)) == second
            reader.close()
        store.close()
    finally:
        os.close(fd)
        subprocess.run(["umount", "-l", small], check=True)
