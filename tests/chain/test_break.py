"""A shadow copy becomes an ordinary volume: an image file or a block device, with a new UUID or the old one."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.host


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def uuid_of(place: str) -> str:
    return run("blkid", "-p", "-o", "value", "-s", "UUID", place)


def copy_of(chain: Any, volume: str) -> Any:
    Path(chain.places[volume], "file").write_text("then")
    (copy,) = chain.cli("create", "--no-writers", volume)["snapshots"]
    Path(chain.places[volume], "file").write_text("now")
    return copy


def device_of(place: str) -> str:
    return run("findmnt", "-n", "-o", "SOURCE", place)


@pytest.mark.vss(117)
def test_an_image_with_a_new_uuid_is_mounted_beside_the_original(chain: Any) -> None:
    chain.add_volumes((("one", "ext4", 64 << 20), ("two", "xfs", 320 << 20)))
    for volume in ("one", "two"):
        copy = copy_of(chain, volume)
        image, place = f"{chain.directory}/{volume}.broken", Path(chain.directory, f"{volume}.place")
        place.mkdir()
        told = chain.cli("break", copy["snapshot_id"], image, "--writable")
        assert told["uuid"] == uuid_of(image) != uuid_of(device_of(chain.places[volume]))
        assert chain.cli("list", "--volume", volume) == []
        run("mount", "-o", "loop", image, str(place))
        try:
            assert (place / "file").read_text() == "then"
            (place / "file").write_text("changed")
        finally:
            run("umount", str(place))
        assert Path(chain.places[volume], "file").read_text() == "now"
        assert os.stat(image).st_blocks * 512 < os.stat(image).st_size, "what is zero takes no space"


@pytest.mark.vss(117)
def test_a_device_keeps_the_uuid_and_is_read_only_when_asked(
    chain: Any, wait_until: Callable[[str, Callable[[], Any]], Any]
) -> None:
    chain.add_volumes((("one", "ext4", 64 << 20),))
    copy = copy_of(chain, "one")
    image = Path(chain.directory, "disk")
    with image.open("wb") as file:
        file.truncate(80 << 20)
    device = run("losetup", "--find", "--show", str(image))
    try:
        done = chain.raw("break", copy["snapshot_id"], device)
        assert done.returncode == 2 and "give --yes" in done.stderr
        chain.cli("break", copy["snapshot_id"], device, "--yes", "--keep-uuid", "--keep-copy")
        assert uuid_of(device) == uuid_of(device_of(chain.places["one"]))
        assert run("blockdev", "--getro", device) == "1"
        size = int(copy["size"])
        with open(device, "rb") as made, open(copy["device_object"], "rb") as source:
            assert made.read(size) == source.read(size)
        assert len(chain.cli("list")) == 1
    finally:
        run("blockdev", "--setrw", device)  # the loop device would keep that for its next file
        run("losetup", "--detach", device)
        wait_until("the loop device to go", lambda: not Path(f"/sys/block/{device[5:]}/loop").exists())


def test_what_cannot_be_broken_is_said_and_nothing_is_lost(chain: Any) -> None:
    chain.add_volumes((("one", "ext4", 64 << 20),))
    copy = copy_of(chain, "one")
    existing = Path(chain.directory, "existing")
    existing.write_text("mine")
    live = device_of(chain.places["one"])
    for target, words in (
        (str(existing), "exists; name a new image file"),
        (f"{chain.directory}/no/where", "no parent directory"),
        (live, "is of protected volume one"),
    ):
        done = chain.raw("break", copy["snapshot_id"], target, "--yes")
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
    assert existing.read_text() == "mine"
    image = f"{chain.directory}/image"
    chain.cli("break", copy["snapshot_id"], image)
    assert stat.S_IMODE(os.stat(image).st_mode) == 0o400
