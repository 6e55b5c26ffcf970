"""A volume grows from the origin to the mounted file system, through the command line."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

MIB = 1 << 20
SIZE = 320 * MIB


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def device_bytes(device: str) -> int:
    with open(device, "rb") as file:
        return file.seek(0, os.SEEK_END)


def test_a_mounted_file_system_grows_and_its_copies_stay(chain: Any) -> None:
    chain.add_volumes((("grown", "xfs", SIZE),))
    place, image = Path(chain.places["grown"]), f"{chain.directory}/grown.img"
    (place / "early").write_bytes(os.urandom(MIB))
    chain.cli("create", "grown")
    copy = chain.cli("list")[0]
    before = digest(copy["device_object"])

    os.truncate(image, SIZE - MIB)
    done = chain.raw("volume", "resize", "grown")
    assert done.returncode == 1 and f"shrank from {SIZE} to {SIZE - MIB}" in done.stderr, done.stderr
    os.truncate(image, SIZE)
    os.truncate(image, 2 * SIZE)
    done = chain.raw("volume", "resize", "grown")
    assert done.returncode == 0 and f"{2 * SIZE} bytes" in done.stdout, done.stderr
    assert f"xfs_growfs {place}" in done.stdout
    volume = chain.cli("volume", "resize", "grown")
    assert (volume["size"], device_bytes(volume["device"])) == (2 * SIZE, 2 * SIZE)
    assert [event["name"] for event in chain.cli("events")].count("volume-resized") == 1

    subprocess.run(["xfs_growfs", str(place)], check=True, timeout=60, stdout=subprocess.DEVNULL)
    late = os.urandom(8 * MIB)
    with open(place / "late", "w+b") as file:
        os.posix_fallocate(file.fileno(), 0, SIZE + 64 * MIB)
        os.pwrite(file.fileno(), late, SIZE)
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), len(late), SIZE) == late
    chain.check_writable()
    assert digest(copy["device_object"]) == before
    chain.cli("create", "grown")
    newest = max(chain.cli("list"), key=lambda each: int(each["device_number"]))
    assert device_bytes_of_copy(newest) == 2 * SIZE and device_bytes_of_copy(copy) == SIZE


def device_bytes_of_copy(copy: Any) -> int:
    return os.stat(copy["device_object"]).st_size


def test_a_detached_volume_grows_and_is_attached_with_its_new_size(chain: Any) -> None:
    image = f"{chain.directory}/plain.img"
    with open(image, "wb") as file:
        file.truncate(MIB)
    chain.cli("volume", "add", "plain", image)
    os.truncate(image, 3 * MIB)
    done = chain.raw("volume", "resize", "plain")
    assert done.returncode == 0 and "not attached" in done.stdout
    device = chain.cli("volume", "attach", "plain")["device"]
    try:
        assert device_bytes(device) == 3 * MIB
    finally:
        assert chain.raw("volume", "detach", "plain").returncode == 0
