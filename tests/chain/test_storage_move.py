"""The shadow storage of a mounted volume moves, through the command line, while copies are open."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Copies:
    """Two copies of a volume that was written between and after them; one of them open since before the move."""

    def __init__(self, chain: Any) -> None:
        self.chain = chain
        self.place = Path(chain.places["v"])
        for _ in range(2):
            self.write()
            chain.cli("create", "v")
            self.write()
        self.devices = [copy["device_object"] for copy in chain.cli("list")]
        self.before = [digest(device) for device in self.devices]
        self.open = os.open(self.devices[0], os.O_RDONLY)
        self.begin = os.pread(self.open, MIB, 0)

    def write(self) -> None:
        for number in range(4):
            (self.place / f"file{number}").write_bytes(os.urandom(2 * MIB))
        os.sync()

    def check(self) -> None:
        os.posix_fadvise(self.open, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(self.open, MIB, 0) == self.begin
        assert [digest(device) for device in self.devices] == self.before
        self.chain.check_writable()


@pytest.fixture
def copies(chain: Any) -> Iterator[Copies]:
    chain.add_volumes((("v", "ext4", 64 * MIB),))
    made = Copies(chain)
    yield made
    os.close(made.open)


def storage_of(chain: Any) -> str:
    found: str = chain.cli("storage", "list")[0]["storage"]
    return found


@pytest.mark.vss(103)
def test_a_storage_moves_under_a_mounted_volume(
    chain: Any, copies: Copies, wait_until: Callable[[str, Callable[[], Any]], Any]
) -> None:
    old, there = storage_of(chain), f"{chain.directory}/there"
    answer = chain.cli("storage", "move", "v", there)
    assert (answer["volume"], answer["phase"], answer["storage"]) == ("v", "none", there)
    copies.write()
    copies.check()
    assert storage_of(chain) == chain.cli("volume", "list")[0]["storage"] == there
    assert sorted(os.listdir(old)) == ["lock", "moved"]
    done = chain.raw("storage", "move", "v", "--status")
    assert done.returncode == 0 and f"is in {there}" in done.stdout
    done = chain.raw("storage", "move", "v", "--cancel")
    assert done.returncode == 1 and "nothing to cancel" in done.stderr
    done = chain.raw("storage", "move", "v", there)
    assert done.returncode == 1 and "that of volume v" in done.stderr
    done = chain.raw("storage", "move", "v", str(copies.place / "inside"))
    assert done.returncode == 1 and "lies on protected volume v" in done.stderr
    told = {"move-started", "move-finished"}
    wait_until("the provider's events", lambda: told <= {event["name"] for event in chain.cli("events")})
    chain.cli("create", "v")
    copies.check()


@pytest.mark.vss(103)
def test_a_move_goes_on_after_provider_and_coordinator_were_killed(
    chain: Any, copies: Copies, wait_until: Callable[[str, Callable[[], Any]], Any]
) -> None:
    there = f"{chain.directory}/there"
    chain.cli("storage", "move", "v", there, "--no-wait")
    os.kill(chain.describe("v").pid, signal.SIGKILL)
    chain.daemon.kill()
    chain.daemon.wait(15)
    chain.start_daemon()
    wait_until("the provider to be back", lambda: chain.cli("volume", "list")[0]["state"] == "online")
    wait_until("the move to end", lambda: chain.cli("storage", "move", "v", "--status")["phase"] == "none")
    assert storage_of(chain) == there
    copies.write()
    copies.check()
    os.kill(chain.describe("v").pid, signal.SIGKILL)
    wait_until("the provider to be back", lambda: chain.cli("volume", "list")[0]["state"] == "online")
    copies.check()
