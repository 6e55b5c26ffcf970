"""A shadow storage whose disk comes later than the volume's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

SIZE = 4 << 20


@pytest.mark.vss(96)
def test_a_volume_waits_for_its_storage_and_its_copies_are_valid_then(chain: Any, wait_until: Any) -> None:
    """The volume stays offline, no new storage is made in the wrong place, and nobody has to do anything."""
    image, mount = f"{chain.directory}/v.img", f"{chain.directory}/mount"
    content = os.urandom(SIZE)
    Path(image).write_bytes(content)
    os.mkdir(mount)
    chain.cli("volume", "add", "v", image, "--storage", f"{mount}/v")
    (copy,) = chain.cli("create", "--persistent", "v")["snapshots"]
    device = chain.cli("volume", "attach", "v")["device"]
    with open(device, "r+b", buffering=0) as file:
        file.write(b"x" * 65536)
        os.fsync(file.fileno())
    chain.raw("volume", "detach", "v")
    os.rename(mount, f"{mount}-elsewhere")
    os.mkdir(mount)
    os.kill(chain.describe("v").pid, 9)
    wait_until("the volume to be offline", lambda: "mount the file system" in chain.cli("volume", "list")[0]["message"])
    assert os.listdir(mount) == []
    os.rmdir(mount)
    os.rename(f"{mount}-elsewhere", mount)
    wait_until("the volume to be back", lambda: chain.cli("volume", "list")[0]["state"] == "online")
    assert Path(copy["device_object"]).read_bytes() == content
    assert [each["snapshot_id"] for each in chain.cli("list")] == [copy["snapshot_id"]]
