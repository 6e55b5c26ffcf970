"""Shadow copies travel to another host as files: whole ones, and what changed since."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from windows_tools import tool

pytestmark = pytest.mark.host

PARTITIONED = bytes(446) + struct.pack("<B3sB3sII", 0, b"\0\2\0", 0x83, b"\0\3\0", 2048, 4096) + bytes(48) + b"\x55\xaa"
"""First sector of a disk with one partition."""


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def elsewhere(chain: Any) -> Iterator[Any]:
    """Another installation, as on another host."""
    made = type(chain)()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def pair(chain: Any) -> tuple[Any, Any]:
    """An earlier copy and a later one."""
    chain.add_volumes((("one", "ext4", 64 << 20),))
    copies = []
    for text in ("earlier", "later"):
        Path(chain.places["one"], "file").write_text(text)
        copies += chain.cli("create", "--no-writers", "one")["snapshots"]
    Path(chain.places["one"], "file").write_text("now")
    return copies[0], copies[1]


@pytest.mark.vss(105, 118)
def test_a_copy_is_imported_elsewhere_and_brought_up_to_a_later_one(chain: Any, elsewhere: Any, pair: Any) -> None:
    first, second = pair
    whole, more = f"{chain.directory}/whole", f"{chain.directory}/more"
    document = Path(chain.directory, "document.xml")
    document.write_text("<document/>")
    chain.cli("export", first["snapshot_id"], whole, "--document", str(document))
    chain.cli("export", second["snapshot_id"], more, "--since", first["snapshot_id"])
    assert Path(more).stat().st_size < Path(whole).stat().st_size < int(first["size"]) // 4

    done = elsewhere.raw("import", more)
    assert done.returncode == 1 and "import that one first" in done.stderr
    came = f"{elsewhere.directory}/came.xml"
    here = elsewhere.cli("import", whole, "--document", came)
    later = elsewhere.cli("import", more)
    assert Path(came).read_text() == "<document/>"
    elsewhere.cli("delete", later["snapshot_id"], "--yes")
    script = Path(elsewhere.directory, "script")
    script.write_text(f"import {more}\n")
    assert f"{{{second['snapshot_id']}}} was imported as " in tool(elsewhere, "diskshadow", "-s", str(script))
    later = next(each for each in elsewhere.cli("list") if each["snapshot_id"] == second["snapshot_id"])
    for copy, original, text in ((here, first, "earlier"), (later, second, "later")):
        assert digest(copy["device_object"]) == digest(original["device_object"])
        assert copy["snapshot_id"] == original["snapshot_id"]
        place = elsewhere.raw("mount", copy["snapshot_id"]).stdout.strip()
        assert Path(place, "file").read_text() == text
        elsewhere.raw("umount", copy["snapshot_id"])
        with pytest.raises(OSError, match="Read-only"):
            open(copy["device_object"], "r+b").close()

    elsewhere.daemon.kill()
    elsewhere.daemon.wait()
    elsewhere.start_daemon()
    assert {copy["snapshot_id"] for copy in elsewhere.cli("list")} == {first["snapshot_id"], second["snapshot_id"]}
    elsewhere.cli("delete", first["snapshot_id"], "--yes")
    assert digest(later["device_object"]) == digest(second["device_object"])
    assert len(list(Path(elsewhere.paths.provider_state("imported")).iterdir())) == 1


def test_files_that_are_none_or_damaged_are_refused(chain: Any, elsewhere: Any, pair: Any) -> None:
    copy = pair[0]
    whole = f"{chain.directory}/whole"
    chain.cli("export", copy["snapshot_id"], whole)
    done = chain.raw("export", copy["snapshot_id"], whole)
    assert done.returncode == 1 and "name a new file" in done.stderr
    done = chain.raw("import", whole)
    assert done.returncode == 1 and "on this host already" in done.stderr

    content = Path(whole).read_bytes()
    with tarfile.open(whole) as archive:
        data, ranges = archive.getmember("data"), archive.getmember("map.json")
    bad = {
        "flipped": content[: data.offset_data + 9] + b"\xff" + content[data.offset_data + 10 :],
        "short": content[: data.offset_data + data.size // 2],
        "ranges": content[: ranges.offset_data] + b"[" + content[ranges.offset_data + 1 :],
        "text": b"not an archive at all",
    }
    for name, wrong in bad.items():
        path = Path(chain.directory, name)
        path.write_bytes(wrong)
        done = elsewhere.raw("import", str(path))
        assert done.returncode == 1 and "is no exported shadow copy" in done.stderr, (name, done.stderr)
    assert elsewhere.raw("import", f"{chain.directory}/nowhere").returncode == 1
    assert list(Path(elsewhere.paths.provider_state("imported")).iterdir()) == []
    assert json.loads(elsewhere.raw("list", "--json").stdout) == []


@pytest.mark.vss(119)
def test_a_lost_device_is_recovered_from_an_imported_copy(
    chain: Any, pair: Any, wait_until: Callable[[str, Callable[[], Any]], Any]
) -> None:
    copy = pair[0]
    whole, image = f"{chain.directory}/whole", Path(chain.directory, "one.img")
    chain.cli("export", copy["snapshot_id"], whole)
    expected, size = digest(copy["device_object"]), image.stat().st_size
    subprocess.run(["umount", chain.places["one"]], check=True)
    chain.cli("volume", "remove", "one", "--force")
    image.write_bytes(b"")
    with image.open("r+b") as file:
        file.truncate(size)
    device = subprocess.run(
        ["losetup", "-f", "--show", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        imported = chain.cli("import", whole)
        Path(device).write_bytes(PARTITIONED)
        done = chain.raw("break", imported["snapshot_id"], device, "--yes")
        assert done.returncode == 1 and "disk with partitions" in done.stderr
        Path(device).write_bytes(bytes(512))
        chain.cli("break", imported["snapshot_id"], device, "--yes", "--keep-uuid", "--writable")
        assert digest(device) == expected and chain.cli("list") == []
        subprocess.run(["mount", device, chain.places["one"]], check=True)
        assert Path(chain.places["one"], "file").read_text() == "earlier"
        subprocess.run(["umount", chain.places["one"]], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
        wait_until("the loop device to go", lambda: not Path(f"/sys/block/{device[5:]}/loop").exists())
