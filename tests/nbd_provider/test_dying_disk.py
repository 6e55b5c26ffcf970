"""A file system beneath the shadow storage that is shut down by its kernel, as after an error of its disk."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from shadowset.vss import provider_protocol as m

CHUNK = 16384
SIZE = 16 << 20
SHUTDOWN = 0x8004587D


@pytest.fixture
def disk(workdir: str, tools: Any) -> Iterator[str]:
    if os.geteuid():
        pytest.skip("needs root to mount XFS on a loop device")
    tools("mkfs.xfs", "losetup")
    place = f"{workdir}/x"
    os.mkdir(place)
    with open(f"{workdir}/image", "wb") as file:
        file.truncate(400 << 20)
    subprocess.run(["mkfs.xfs", "-q", f"{workdir}/image"], check=True)
    subprocess.run(["mount", "-o", "loop", f"{workdir}/image", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def shut_down(place: str) -> None:
    directory = os.open(place, os.O_RDONLY)
    fcntl.ioctl(directory, SHUTDOWN, (2).to_bytes(4, "little"))
    os.close(directory)


def test_the_live_volume_outlives_the_file_system_of_its_storage(
    disk: str, workdir: str, provider_class: Any, nbd_module: Any
) -> None:
    """Stores into the memory of its files would end the provider with SIGBUS; losses are recorded elsewhere."""
    provider = provider_class(workdir, SIZE)
    provider.storage = f"{disk}/storage"
    content = bytearray(os.urandom(SIZE))
    Path(provider.origin).write_bytes(content)
    provider.start()
    try:
        control, client = provider.control(), nbd_module.NBD()
        client.connect_uri(provider.uri)

        def write(byte: bytes, place: int, length: int) -> None:
            client.pwrite(byte * length, place)
            content[place : place + length] = byte * length

        copies = []
        for number in range(3):
            copies.append(control.snapshot(persistent=number == 1))
            write(b"1", number * CHUNK * 30, CHUNK * 40)
        control.value(m.Delete, copy_id=copies.pop(0))
        shut_down(disk)
        for number in range(40):
            write(b"2", number * 25 * CHUNK, CHUNK)
        client.flush()
        assert client.pread(SIZE, 0) == content
        told = {(event["copy_id"], event["cause"]) for event in control.value(m.ListEvents)["events"]}
        assert told == {(copy, "error") for copy in copies}
        answer = control.call(m.Hold), control.call(m.Commit, **new_copy()), control.call(m.Release)
        assert isinstance(answer[1], m.Failed)
        write(b"3", 0, CHUNK)
        provider.close()
        subprocess.run(["umount", disk], check=True)
        subprocess.run(["mount", "-o", "loop", f"{workdir}/image", disk], check=True)
        provider.start()
        described = provider.control().value(m.Describe)["copies"]
        (row,) = described
        assert (row["copy_id"], row["lost"], row["cause"]) == (copies[0], True, "error"), "the other was auto-release"
        assert not list(Path(f"{workdir}/losses").glob("*/*"))
        assert Path(provider.origin).read_bytes() == content
        fresh = provider.control().snapshot(persistent=True)
        assert provider.content(fresh) == content
        assert provider.stop() == 0
    finally:
        provider.close()


def test_a_storage_that_came_from_another_file_system_is_whole_after_a_kill(
    disk: str, provider: Any, nbd_module: Any, random_image: bytes
) -> None:
    """The mount that its header names is the one where it lies now, so nothing is taken for a power loss."""
    control, client = provider.control(), nbd_module.NBD()
    client.connect_uri(provider.uri)
    copy = control.snapshot()
    client.pwrite(b"x" * CHUNK * 20, 0)
    control.value(m.Move, storage=f"{disk}/there")
    deadline = time.monotonic() + 60
    while control.value(m.Describe)["move"] is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.pwrite(b"y" * CHUNK * 40, 0)
    provider.kill()
    provider.start()
    assert provider.content(copy) == random_image
    assert provider.stop() == 0


def new_copy() -> dict[str, Any]:
    return {"copy_id": str(uuid4()), "set_id": str(uuid4()), "created_ns": 1, "persistent": True}
