"""A shadow storage whose table is damaged: the volume's provider says which command brings it back, and it
does, while a file system on the volume waits."""

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
def test_the_command_in_the_sentence_brings_the_volume_back(chain: Any, wait_until: Any) -> None:
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
    damage(storage)
    os.kill(chain.describe("v").pid, 9)
    wait_until("the reason", lambda: "its table is damaged" in volume(chain)["message"])
    (quoted,) = re.findall("'(shadowset-provider [^']+)'", volume(chain)["message"])
    command = shlex.split(quoted.replace("DEVICE", image))
    assert command[0] == "shadowset-provider"
    subprocess.run([sys.executable, "-m", "shadowset.nbd_provider.main", *command[1:]], check=True, timeout=60)
    wait_until("the volume to be back", lambda: volume(chain)["state"] == "online")
    Path(f"{place}/new").write_text("and goes on")
    os.sync()
    assert Path(f"{place}/file").read_text() == "what applications wrote"
    wait_until("the copy to be gone", lambda: chain.cli("list") == [])
    chain.cli("create", "--persistent", "v")
