"""What changed between copies, through the command line: enough to make the new image of the old one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

SIZE = 24 << 20


def scribble(chain: Any, places: list[int]) -> None:
    device = chain.cli("volume", "attach", "v")["device"]
    try:
        with open(device, "r+b", buffering=0) as live:
            for place in places:
                live.seek(place)
                live.write(os.urandom(4096))
            os.fsync(live.fileno())
    finally:
        chain.cli("volume", "detach", "v")


@pytest.mark.vss(105)
def test_a_delta_on_the_old_image_is_the_new_image(chain: Any) -> None:
    path = f"{chain.directory}/v.img"
    Path(path).write_bytes(os.urandom(SIZE))
    chain.cli("volume", "add", "v", path)
    first = chain.cli("create", "v")["snapshots"][0]
    scribble(chain, [0, 5 << 20, (5 << 20) + 16384, SIZE - 4096])
    second = chain.cli("create", "v")["snapshots"][0]
    old, new = (Path(copy["device_object"]).read_bytes() for copy in (first, second))
    scribble(chain, [9 << 20])
    delta = chain.cli("delta", first["snapshot_id"], second["snapshot_id"])
    assert delta["known"] and delta["size"] == SIZE and old != new
    image = bytearray(old)
    with open(second["device_object"], "rb") as later:
        for piece in delta["ranges"]:
            later.seek(piece["offset"])
            image[piece["offset"] : piece["offset"] + piece["length"]] = later.read(piece["length"])
    assert bytes(image) == new
    assert delta["changed"] == sum(piece["length"] for piece in delta["ranges"]) == 4 * delta["block_size"]
    since_then = chain.raw("delta", str(second["device_number"]), "now")
    assert since_then.stdout == f"{9 << 20} 16384\n" and since_then.returncode == 0
    assert chain.raw("delta", str(first["device_number"])).stdout.count("\n") == 4


@pytest.mark.vss(105)
def test_an_image_is_brought_up_to_a_later_copy(chain: Any) -> None:
    path = f"{chain.directory}/v.img"
    Path(path).write_bytes(os.urandom(SIZE))
    chain.cli("volume", "add", "v", path)
    first = chain.cli("create", "v")["snapshots"][0]
    image = Path(f"{chain.directory}/backup.img")
    image.write_bytes(Path(first["device_object"]).read_bytes())
    scribble(chain, [4096, 7 << 20, SIZE - 4096])
    second = chain.cli("create", "v")["snapshots"][0]
    scribble(chain, [0, 11 << 20])
    copies = (first["snapshot_id"], second["snapshot_id"])
    with open(image, "r+b") as half_done:
        half_done.seek(7 << 20)
        half_done.write(bytes(4096))
    for _ in range(2):
        assert chain.cli("delta", *copies, "--apply", str(image))["known"]
        assert image.read_bytes() == Path(second["device_object"]).read_bytes()
    for target, status, word in (
        (path, 1, "what volume v is on"),
        ("/dev/null", 1, "no regular file"),
        (f"{chain.directory}/nowhere", 1, "No such file"),
    ):
        refused = chain.raw("delta", *copies, "--apply", target)
        assert refused.returncode == status and word in refused.stderr
    image.write_bytes(b"short")
    assert "5 bytes" in chain.raw("delta", *copies, "--apply", str(image)).stderr
    assert chain.raw("delta", copies[0], "now", "--apply", str(image)).returncode == 2


def test_what_is_not_known_is_said(chain: Any) -> None:
    for name in ("v", "w"):
        path = f"{chain.directory}/{name}.img"
        Path(path).write_bytes(bytes(1 << 20))
        chain.cli("volume", "add", name, path)
    copies = {copy["original_volume"]: copy["snapshot_id"] for copy in chain.cli("create", "v", "w")["snapshots"]}
    later = chain.cli("create", "v")["snapshots"][0]["snapshot_id"]
    for arguments, code in (
        ((copies["v"], copies["w"]), "E_INVALIDARG"),
        ((later, copies["v"]), "E_INVALIDARG"),
    ):
        refused = chain.raw("delta", *arguments)
        assert refused.returncode == 1 and code in refused.stderr and not refused.stdout
    chain.cli("delete", copies["v"])
    unknown = chain.raw("delta", copies["v"], later)
    assert unknown.returncode == 1 and "unknown, take a full backup" in unknown.stderr
    assert chain.cli("delta", copies["v"], later, status=1) == {
        "known": False,
        "reason": f"there is no shadow copy '{copies['v']}'; 'shadowset list' shows what there is",
        "ranges": [],
    }
