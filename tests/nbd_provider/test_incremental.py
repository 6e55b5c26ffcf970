"""Incremental backups from the changed blocks that NBD tells, over kills and power losses, against the full ones."""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.vss import provider_protocol as m

CHUNK = 16 * 1024
SIZE = 4 << 20
BITMAP = "qemu:dirty-bitmap:"
SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
ROUNDS = 4


class Site:
    """A provider, and copies of it read whole over NBD; ``images`` are backups by copy id."""

    def __init__(self, provider: Any, nbd_module: Any, chance: random.Random) -> None:
        self.provider, self._nbd, self.chance = provider, nbd_module, chance
        Path(provider.origin).write_bytes(chance.randbytes(provider.size))
        self.images: dict[str, bytes] = {}
        provider.start()

    def connect(self, export: str = "vol", socket: str = "", *contexts: str) -> Any:
        client = self._nbd.NBD()
        for context in contexts:
            client.add_meta_context(context)
        client.connect_uri(f"nbd+unix:///{export}?socket={socket or self.provider.nbd}")
        return client

    def scribble(self, flush: bool = False) -> None:
        """Writes of many sizes, more of them in the front; unflushed ones may or may not outlive a power loss."""
        client = self.connect()
        for _ in range(self.chance.randrange(1, 20)):
            length = self.chance.choice([512, 4096, 20000, 60000])
            end = self.chance.choice([SIZE // 8, SIZE]) - length
            client.pwrite(self.chance.randbytes(length), self.chance.randrange(end))
        if flush:
            client.flush()
        client.shutdown()

    def cut(self) -> str:
        control = self.provider.control()
        copy: str = control.snapshot(persistent=True)
        control.close()
        return copy

    def full(self, copy: str) -> bytes:
        client = self.connect(copy, self.export)
        content = b"".join(client.pread(1 << 20, at) for at in range(0, SIZE, 1 << 20))
        client.shutdown()
        return content

    def map(self, since: str, until: str) -> list[tuple[int, int]]:
        """Changed (offset, length) ranges as nbdinfo prints them."""
        uri = f"nbd+unix:///{until}?socket={self.export}"
        command = ["nbdinfo", f"--map={BITMAP}{since}", "--json", uri]
        rows = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
        assert sum(row["length"] for row in rows) == SIZE
        return [(row["offset"], row["length"]) for row in rows if row["type"]]

    def incremental(self, since: str, until: str) -> bytes:
        """The earlier image with what is marked read from the later copy."""
        image = bytearray(self.images[since])
        client = self.connect(until, self.export)
        for offset, length in self.map(since, until):
            image[offset : offset + length] = client.pread(length, offset)
        client.shutdown()
        return bytes(image)

    def serve(self) -> None:
        self.export = self.provider.export()


@pytest.fixture
def place(workdir: str, tools: Any) -> Iterator[str]:
    """An XFS of its own, so that it can lose its power."""
    if os.geteuid():
        pytest.skip("needs root to mount XFS on a loop device")
    tools("mkfs.xfs", "losetup", "nbdinfo")
    place = f"{workdir}/x"
    os.mkdir(place)
    with open(f"{workdir}/image", "wb") as file:
        file.truncate(400 << 20)
    subprocess.run(["mkfs.xfs", "-q", f"{workdir}/image"], check=True)
    mount(place)
    yield place
    subprocess.run(["umount", place], check=True)


def mount(place: str) -> None:
    subprocess.run(["mount", "-o", "loop", f"{os.path.dirname(place)}/image", place], check=True)


def lose_power(provider: Any, place: str) -> None:
    """Nothing that was not durable is on the file system when it is mounted again."""
    Path(f"{place}/young").touch()
    directory = os.open(place, os.O_RDONLY)
    fcntl.ioctl(directory, SHUTDOWN, NO_LOG_FLUSH.to_bytes(4, "little"))
    os.close(directory)
    provider.close()
    subprocess.run(["umount", place], check=True)
    mount(place)
    assert not os.path.exists(f"{place}/young"), "nothing was lost with the power"


@pytest.mark.vss(94, 104)
@pytest.mark.host
@pytest.mark.parametrize("crash", ["kill", "power loss"])
def test_an_incremental_backup_equals_the_full_one(
    place: str, provider_class: Any, nbd_module: Any, crash: str
) -> None:
    """In each round: a crash between the two copies, or after both, with writes before, between and afterwards."""
    site = Site(provider_class(place, SIZE), nbd_module, random.Random(3))
    site.serve()
    try:
        base = site.cut()
        site.images[base] = site.full(base)
        for number in range(ROUNDS):
            site.scribble(flush=number % 3 == 0)
            later = site.cut() if number % 2 else ""
            site.scribble()
            if crash == "kill":
                site.provider.close()
            else:
                lose_power(site.provider, place)
            site.provider.start()
            site.serve()
            site.scribble()
            later = later or site.cut()
            site.scribble()
            site.images[later] = site.full(later)
            assert site.incremental(base, later) == site.images[later], f"round {number}"
            assert site.full(base) == site.images[base], "the copy that the earlier backup was made of has changed"
            base = later
        described = site.provider.control().value(m.Describe)
        assert len(described["copies"]) == ROUNDS + 1 and not any(copy["lost"] for copy in described["copies"])
        assert site.provider.stop() == 0
    finally:
        site.provider.close()


@pytest.mark.vss(104)
def test_the_map_equals_a_comparison_in_many_rounds(
    workdir: str, provider_class: Any, nbd_module: Any, tools: Any
) -> None:
    """All pairs of copies; some copies are deleted and the provider is killed now and then, between two requests."""
    tools("nbdinfo")
    chance = random.Random(4)
    site = Site(provider_class(workdir, SIZE), nbd_module, chance)
    site.serve()
    compared = 0
    try:
        for number in range(ROUNDS * 2):
            site.scribble()
            newest = site.cut()
            site.images[newest] = site.full(newest)
            site.scribble()
            if number % 4 == 3:
                site.provider.close()
                site.provider.start()
                site.serve()
            if len(site.images) > 4:
                gone = chance.choice(list(site.images)[:-1])
                control = site.provider.control()
                control.value(m.Delete, copy_id=gone)
                control.close()
                del site.images[gone]
            for since in list(site.images)[:-1]:
                compared += 1
                assert site.map(since, newest) == differing(site.images[since], site.images[newest])
        assert site.provider.stop() == 0
    finally:
        site.provider.close()
    assert compared > ROUNDS * 4


def differing(one: bytes, other: bytes) -> list[tuple[int, int]]:
    """Ranges of chunks that are not alike, joined."""
    found: list[tuple[int, int]] = []
    for at in range(0, len(one), CHUNK):
        if one[at : at + CHUNK] != other[at : at + CHUNK]:
            if found and sum(found[-1]) == at:
                found[-1] = (found[-1][0], found[-1][1] + CHUNK)
            else:
                found.append((at, CHUNK))
    return found
