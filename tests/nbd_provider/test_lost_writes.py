"""Writes that the origin does not take: at once, which costs these alone, or later, which each client is told once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SIZE = 16 << 20
STEP = 64 * 1024
LITTLE = "1M"


@pytest.fixture
def image(workdir: str) -> Iterator[str]:
    """A sparse file on a file system that soon has no room for it."""
    if os.geteuid():
        pytest.skip("needs root to mount a tmpfs")
    place = f"{workdir}/little"
    os.mkdir(place)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={LITTLE}", "none", place], check=True)
    with open(f"{place}/image", "wb") as file:
        file.truncate(SIZE)
    yield file.name
    subprocess.run(["umount", place], check=True)


@pytest.fixture
def device(image: str, tools: Any) -> Iterator[str]:
    """Takes every write, and loses most of them when they go to the disk."""
    tools("losetup")
    made = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True, text=True, timeout=60)
    yield made.stdout.strip()
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)


@pytest.fixture
def serve(workdir: str, provider_class: Any) -> Iterator[Callable[[str], Any]]:
    started: list[Any] = []

    def start(origin: str) -> Any:
        provider = provider_class(workdir, SIZE)
        provider.origin = origin
        started.append(provider)
        provider.start()
        return provider

    yield start
    for provider in started:
        provider.close()


def connected(provider: Any, nbd_module: Any) -> Any:
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    return client


@pytest.mark.parametrize("copies", [False, True])
def test_only_writes_that_were_taken_are_acknowledged(
    image: str, serve: Callable[[str], Any], nbd_module: Any, copies: bool
) -> None:
    """Many at once, so that they are done in runs, without a copy and with one that has all that they overwrite."""
    provider = serve(image)
    client = connected(provider, nbd_module)
    if copies:
        provider.control().snapshot()
        for start in range(0, SIZE, 4 << 20):
            client.zero(4 << 20, start)
    told: dict[int, int] = {}
    for number in range(SIZE // STEP):
        data = nbd_module.Buffer.from_bytearray(bytearray([1 + number % 255]) * STEP)
        client.aio_pwrite(
            data,
            number * STEP,
            lambda error, number=number: told.update({number: int.from_bytes(error, sys.byteorder)}) or 1,
        )
    while client.aio_in_flight():
        client.poll(60_000)
    assert set(told.values()) == {0, errno.ENOSPC} and len(told) == SIZE // STEP
    taken = {number for number, error in told.items() if not error}
    client.shutdown()
    provider.close()
    content = Path(image).read_bytes()
    for number in taken:
        assert content[number * STEP : (number + 1) * STEP] == bytes([1 + number % 255]) * STEP


def failed(client: Any, nbd_module: Any) -> bool:
    """Whether its flush is an error."""
    try:
        client.flush()
    except nbd_module.Error as error:
        assert error.errno in ("EIO", "ENOSPC")
        return True
    return False


def test_each_client_is_told_that_writes_were_lost(device: str, serve: Callable[[str], Any], nbd_module: Any) -> None:
    """The kernel says so once for each description of an open file."""
    provider = serve(device)
    clients = [connected(provider, nbd_module) for _ in range(3)]
    for number, client in enumerate(clients):
        client.pwrite(b"w" * (2 << 20), number * (4 << 20))
    assert [failed(client, nbd_module) for client in clients] == [True, True, True]


def test_a_persistent_copy_does_not_take_the_error_from_the_client(
    device: str, serve: Callable[[str], Any], nbd_module: Any
) -> None:
    provider = serve(device)
    client = connected(provider, nbd_module)
    client.pwrite(b"w" * (2 << 20), 0)
    with pytest.raises(AssertionError, match=r"Input/output error|No space left"):
        provider.control().snapshot(persistent=True)
    assert failed(client, nbd_module)
