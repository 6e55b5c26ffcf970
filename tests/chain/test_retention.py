"""Limits of shadow storage, priorities and holds, from the command line down to the storage."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def volume(chain: Any) -> Iterator[str]:
    """A protected volume v of 32 MiB; its device."""
    image = f"{chain.directory}/v.img"
    Path(image).write_bytes(os.urandom(32 << 20))
    chain.cli("volume", "add", "v", image)
    yield chain.cli("volume", "attach", "v")["device"]
    chain.raw("volume", "detach", "v")


def overwrite(device: str, megabytes: int) -> int:
    command = ["dd", "if=/dev/urandom", f"of={device}", "bs=1M", f"count={megabytes}", "oflag=direct"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode


def refused(done: Any, *words: str) -> None:
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.vss(106)
def test_a_held_copy_is_deleted_only_when_its_hold_has_ended(chain: Any, volume: str) -> None:
    chain.cli("create", "v")
    (copy,) = chain.cli("list")
    held = chain.cli("hold", copy["snapshot_id"], "--for", "30d")
    assert held["hold_until"] > copy["created"]
    for command in (("delete", copy["snapshot_id"], "--force"), ("delete", "--all", "--yes", "--force")):
        refused(chain.raw(*command), "is held until", "end its hold first")
    refused(chain.raw("volume", "remove", "v", "--force"), "is held until")
    assert chain.cli("list")[0]["hold_until"] == held["hold_until"]
    assert chain.describe("v").copies[0].hold_until_ns
    chain.cli("hold", copy["snapshot_id"], "--end")
    assert chain.cli("delete", copy["snapshot_id"])["deleted"] == 1


@pytest.mark.vss(101)
def test_the_lowest_priority_goes_first_and_a_held_copy_never(chain: Any, volume: str, wait_until: Any) -> None:
    chain.cli("create", "v")
    (old,) = chain.cli("list")
    overwrite(volume, 4)
    chain.cli("create", "v")
    young = next(copy for copy in chain.cli("list") if copy["snapshot_id"] != old["snapshot_id"])
    chain.cli("priority", old["snapshot_id"], "200")
    used = chain.cli("storage", "list", "--volume", "v")[0]["used"]
    limits = chain.cli("storage", "set", "v", "--max-size", str(used + (10 << 20)), "--warn-at", "never")
    assert limits["policy"] == "delete-oldest" and limits["max_size"] == used + (10 << 20)
    assert overwrite(volume, 12) == 0
    wait_until("the loss", lambda: [e for e in chain.cli("events") if e["name"] == "snapshot-lost"])
    assert [copy["snapshot_id"] for copy in chain.cli("list")] == [old["snapshot_id"]]
    (lost,) = [e for e in chain.cli("events") if e["name"] == "copy-lost"]
    assert young["snapshot_id"] in lost["message"]

    chain.cli("hold", old["snapshot_id"], "--for", "1h")
    assert overwrite(volume, 32) == 1
    assert [copy["snapshot_id"] for copy in chain.cli("list")] == [old["snapshot_id"]]
    chain.cli("storage", "set", "v", "--max-size", "unlimited")
    assert overwrite(volume, 32) == 0
    chain.cli("hold", old["snapshot_id"], "--end")


def test_limits_outlive_the_provider_and_the_coordinator(chain: Any, volume: str, wait_until: Any) -> None:
    chain.cli("storage", "set", "v", "--max-size", "3G", "--policy", "protect-copies", "--warn-at", "70%")
    os.kill(chain.describe("v").pid, 9)
    wait_until("the provider to be back", lambda: chain.cli("volume", "list")[0]["state"] == "online")
    (storage,) = chain.cli("storage", "list")
    assert (storage["max_size"], storage["policy"], storage["warn_percent"]) == (3 << 30, "protect-copies", 70)


@pytest.mark.vss(98)
def test_a_maximum_in_percent_is_one_of_the_file_system_of_the_storage(chain: Any, volume: str) -> None:
    place = chain.cli("storage", "list")[0]["storage"]
    disk = os.statvfs(place)
    size = disk.f_blocks * disk.f_frsize
    for percent in (100, 7):
        assert chain.cli("storage", "set", "v", "--max-size", f"{percent}%")["max_size"] == size * percent // 100
    assert chain.cli("storage", "set", "v", "--max-size", "UNBOUNDED")["max_size"] == 0


@pytest.mark.vss(98)
def test_a_storage_that_is_to_shrink_gives_up_its_oldest_copies(chain: Any, volume: str, wait_until: Any) -> None:
    copies = []
    for _ in range(3):
        chain.cli("create", "v")
        copies.append(max(chain.cli("list"), key=lambda copy: int(copy["device_number"])))
        assert overwrite(volume, 6) == 0
    newest = Path(copies[-1]["device_object"]).read_bytes()
    used = chain.cli("storage", "list")[0]["used"]
    limit = used - (5 << 20)
    assert chain.cli("storage", "set", "v", "--max-size", str(limit))["max_size"] == limit
    assert len(chain.cli("list")) == 3
    assert overwrite(volume, 12) == 0
    wait_until("the loss", lambda: len(chain.cli("list")) < 3, 120)
    left = {copy["snapshot_id"] for copy in chain.cli("list")}
    assert copies[-1]["snapshot_id"] in left and copies[0]["snapshot_id"] not in left
    assert Path(copies[-1]["device_object"]).read_bytes() == newest
    wait_until("the space to come back", lambda: chain.cli("storage", "list")[0]["used"] <= limit, 120)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("storage", "set", "v"), "say what to change"),
        (("storage", "set", "v", "--max-size", "0"), "keeps no copies"),
        (("storage", "set", "v", "--warn-at", "0"), "give 1 to 100"),
        (("storage", "set", "v", "--max-size", "101%"), "give 1 to 100"),
        (("storage", "set", "v", "--max-size", "100"), "is too little for any shadow copy"),
        (("hold", "1", "--for", "soon"), "give a number with s, m, h, d or w"),
        (("hold", "1", "--until", "2001-01-01"), "that time has passed"),
        (("priority", "1", "256"), "give 0 to 255"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anybody_is_asked(chain: Any, arguments: Any, sentence: str) -> None:
    done = chain.raw(*arguments)
    assert done.returncode == 2 and sentence in done.stderr


def test_a_volume_for_few_copies(chain: Any) -> None:
    """The number belongs to the storage: whoever says another one later does not change it."""
    image = f"{chain.directory}/few.img"
    Path(image).write_bytes(os.urandom(8 << 20))
    storage = f"{chain.directory}/few"
    refused(chain.raw("volume", "add", "few", image, "--storage", storage, "--max-copies", "0"), "0 shadow copies")
    chain.cli("volume", "add", "few", image, "--storage", storage, "--max-copies", "2")
    for _ in range(2):
        chain.cli("create", "few")
    refused(chain.raw("create", "few"), "VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED")
    chain.cli("delete", chain.cli("list")[0]["snapshot_id"])
    chain.cli("create", "few")
    chain.cli("delete", "--all", "--yes")
    chain.cli("volume", "remove", "few")
    chain.cli("volume", "add", "few", image, "--storage", storage)
    for _ in range(2):
        chain.cli("create", "few")
    refused(chain.raw("create", "few"), "VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED")
