"""Loop devices by ioctl."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shadowset.nbd_provider.attach import loop
from shadowset.vss.codes import Code, VssError

pytestmark = pytest.mark.host


@pytest.fixture
def image(place: Any) -> Any:
    path = f"{place.directory}/image"
    Path(path).write_bytes(os.urandom(1 << 20))
    yield path
    for device in loop.devices_on(path):
        loop.detach_loop(device)


@pytest.mark.parametrize("block_size", [512, 4096])
def test_size_sectors_and_data(image: str, block_size: int) -> None:
    device = loop.attach_loop(image, block_size=block_size)
    assert (loop.device_size(device), loop.sector_size(device)) == (1 << 20, block_size)
    assert loop.devices_on(image) == [device]
    Path(device).write_bytes(b"x" * 4096)
    loop.detach_loop(device)
    assert Path(image).read_bytes()[:4096] == b"x" * 4096
    assert loop.devices_on(image) == []


def test_a_read_only_device_refuses_writes(image: str) -> None:
    device = loop.attach_loop(image, read_only=True, direct_io=False)
    assert Path(device).read_bytes() == Path(image).read_bytes()
    with pytest.raises(PermissionError), open(device, "r+b", buffering=0) as file:
        file.write(b"x" * 512)


def test_many_at_once_get_different_devices(image: str) -> None:
    with ThreadPoolExecutor(12) as pool:
        devices = list(pool.map(lambda _: loop.attach_loop(image, direct_io=False), range(12)))
    assert len(set(devices)) == 12
    assert set(loop.devices_on(image)) == set(devices)


def test_a_device_in_use_is_not_detached(image: str) -> None:
    device = loop.attach_loop(image)
    fd = os.open(device, os.O_RDONLY | os.O_EXCL)
    with pytest.raises(VssError) as refusal:
        loop.detach_loop(device)
    os.close(fd)
    assert refusal.value.code == Code.VSS_E_VOLUME_IN_USE and device in refusal.value.message
    assert loop.backing_file(device) == image


def test_detaching_twice_is_harmless(image: str) -> None:
    device = loop.attach_loop(image)
    loop.detach_loop(device)
    if not loop.backing_file(device):
        loop.detach_loop(device)


def test_what_does_not_exist_or_cannot_be_is_named(image: str) -> None:
    with pytest.raises(VssError, match="/nowhere"):
        loop.attach_loop("/nowhere")
    with pytest.raises(VssError, match="image"):
        loop.attach_loop(image, block_size=100)
    assert loop.devices_on(image) == []


def test_a_file_that_does_not_fill_its_sectors_is_refused(image: str) -> None:
    os.truncate(image, 10_000)
    with pytest.raises(VssError):
        loop.attach_loop(image, direct_io=False, block_size=4096)
    assert loop.devices_on(image) == []
