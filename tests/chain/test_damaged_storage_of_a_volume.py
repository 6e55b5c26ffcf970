"""A shadow storage whose table is damaged: the volume's provider says which command brings it back, and it does."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SIZE = 64 << 20


def damage(storage: str) -> None:
    with open(f"{storage}/table", "r+b") as table:
        table.seek(20)
        table.write(b"\xff")


def volume(chain: Any) -> dict[str, Any]:
    found: dict[str, Any] = chain.cli("volume", "list")[0]
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("in_use", [False, True])
def test_the_command_in_the_sentence_brings_the_volume_back(chain: Any, wait_until: Any, in_use: bool) -> None:
    image, storage = f"{chain.directory}/v.img", f"{chain.directory}/storage"
    place = f"{chain.directory}/v"
    with open(image, "wb") as file:
        file.truncate(SIZE)
    os.mkdir(place)
    chain.cli("volume", "add", "v", image, "--storage", storage)
    device = chain.cli("volume", "attach", "v")["device"]
    subprocess.run(["mkfs.ext4", "-q", device], check=True, timeout=60)
    subprocess.run(["mount", device, place], check=True, timeout=60)
    chain.places["v"] = place
    Path(f"{place}/file").write_text("what applications wrote")
    chain.cli("create", "--persistent", "v")
    os.sync()
    if not in_use:
        subprocess.run(["umount", place], check=True, timeout=60)
        chain.cli("volume", "detach", "v")
    damage(storage)
    os.kill(chain.describe("v").pid, 9)
    wait_until("the reason", lambda: "its table is damaged" in volume(chain)["message"])
    (quoted,) = re.findall("'(shadowset-provider [^']+)'", volume(chain)["message"])
    command = shlex.split(quoted.replace("DEVICE", image))
    assert command[0] == "shadowset-provider"
    subprocess.run([sys.executable, "-m", "shadowset.nbd_provider.main", *command[1:]], check=True, timeout=60)
    wait_until("the volume to be back", lambda: volume(chain)["state"] == "online")
    if not in_use:
        device = chain.cli("volume", "attach", "v")["device"]
        subprocess.run(["mount", device, place], check=True, timeout=60)
    Path(f"{place}/new").write_text("and goes on")
    os.sync()
    assert Path(f"{place}/file").read_text() == "what applications wrote"
    wait_until("the copy to be gone", lambda: chain.cli("list") == [])
    chain.cli("create", "--persistent", "v")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_with_a_damaged_head_the_volume_comes_back_by_itself(chain: Any, wait_until: Any) -> None:
    image, storage = f"{chain.directory}/v.img", f"{chain.directory}/storage"
    content = os.urandom(4 << 20)
    Path(image).write_bytes(content)
    chain.cli("volume", "add", "v", image, "--storage", storage)
    chain.places["v"] = f"{chain.directory}/v"
    (copy,) = chain.cli("create", "--persistent", "v")["snapshots"]
    (fleeting,) = chain.cli("create", "v")["snapshots"]
    device = chain.cli("volume", "attach", "v")["device"]
    with open(device, "r+b", buffering=0) as file:
        file.write(b"x" * 65536)
        os.fsync(file.fileno())
    os.truncate(f"{storage}/head", 8)
    os.kill(chain.describe("v").pid, 9)

    wait_until("the loss to be told", lambda: [e for e in chain.cli("events") if e["name"] == "copy-lost"])
    (told,) = [event for event in chain.cli("events") if event["name"] == "copy-lost"]
    assert fleeting["snapshot_id"] in told["message"] and "its head was cut off" in told["message"]
    wait_until("the volume to be back", lambda: volume(chain)["state"] == "online")
    assert Path(copy["device_object"]).read_bytes() == content
    with open(device, "r+b", buffering=0) as file:
        assert file.read(65536) == b"x" * 65536
        file.write(b"y" * 131072)
        os.fsync(file.fileno())
    assert Path(copy["device_object"]).read_bytes() == content
