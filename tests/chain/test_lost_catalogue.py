"""The state directory is lost: live volumes go on, and volumes and copies are known again when they are added."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

KEPT = ("--context", "client-accessible")


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lose_state(chain: Any) -> None:
    """As a disk that is lost while the coordinator is away; the shadow storage is on another one.

    Each directory for losses is made anew by hand, as docs/operations.md says: only its owner knows that it was empty.
    """
    chain.daemon.terminate()
    assert chain.daemon.wait(30) == 0
    shutil.rmtree(chain.paths.state)
    os.makedirs(os.readlink(f"{chain.directory}/storage/losses"), mode=0o700)
    chain.start_daemon()


@pytest.fixture
def device(chain: Any) -> str:
    """A block device, which a provider takes for itself alone."""
    image = f"{chain.directory}/disk.img"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    return subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_copies_come_back_with_their_volume(chain: Any, device: str, wait_until: Any) -> None:
    storage = f"{chain.directory}/storage"
    chain.cli("volume", "add", "one", device, "--storage", storage)
    live = chain.cli("volume", "attach", "one")["device"]
    place = f"{chain.directory}/one"
    os.mkdir(place)
    subprocess.run(["mkfs.ext4", "-q", live], check=True)
    subprocess.run(["mount", live, place], check=True)
    chain.places["one"] = place
    made = []
    for number in range(2):
        Path(f"{place}/file").write_text(f"version {number}")
        made.append(chain.cli("create", "one", *KEPT)["snapshots"][0])
    before = {copy["snapshot_id"]: digest(copy["device_object"]) for copy in made}
    Path(f"{place}/file").write_text("live")

    lose_state(chain)
    Path(f"{place}/file").write_text("live all the time")
    assert chain.cli("list") == []
    wrong = chain.raw("volume", "add", "one", device, "--storage", f"{chain.directory}/other")
    assert wrong.returncode and storage in wrong.stderr and "still serves" in wrong.stderr
    added = chain.cli("volume", "add", "one", device, "--storage", storage)
    assert (added["device"], added["copies"], added["mount_points"]) == (live, 2, [place])
    found = {copy["snapshot_id"]: copy for copy in chain.cli("list")}
    assert {key: digest(copy["device_object"]) for key, copy in found.items()} == before
    for copy in made:
        (more,) = set(found[copy["snapshot_id"]]["attributes"]) - set(copy["attributes"])
        assert more.lower() == "imported"
    wait_until("the previous versions", lambda: len(os.listdir(f"{chain.runtime}/previous/one")) == 2)
    assert "Imported" in chain.raw("list").stdout

    mounted = chain.cli("mount", made[0]["snapshot_id"])["path"]
    assert Path(f"{mounted}/file").read_text() == "version 0"
    chain.cli("umount", made[0]["snapshot_id"])
    newer = chain.cli("create", "one", *KEPT)["snapshots"][0]
    chain.cli("delete", made[0]["snapshot_id"])
    assert {copy["snapshot_id"] for copy in chain.cli("list")} == {made[1]["snapshot_id"], newer["snapshot_id"]}
    assert digest(found[made[1]["snapshot_id"]]["device_object"]) == before[made[1]["snapshot_id"]]
    assert {str(copy.copy_id) for copy in chain.describe("one").copies} == {
        made[1]["snapshot_id"],
        newer["snapshot_id"],
    }

    subprocess.run(["umount", place], check=True)
    chain.cli("volume", "detach", "one")
    lose_state(chain)
    chain.cli("volume", "add", "one", device, "--storage", storage)
    assert {copy["snapshot_id"] for copy in chain.cli("list")} == {made[1]["snapshot_id"], newer["snapshot_id"]}
