"""The product from end to end: real volumes, real file systems, real writers, the commands a user has."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def sha256(path: str) -> str:
    value = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value.update(block)
    return value.hexdigest()


class Counters(threading.Thread):
    """Writes the same number to a file on each volume in turn, durably."""

    def __init__(self, places: list[str]) -> None:
        super().__init__()
        self.stop = False
        self.count = 0
        self._files = [os.open(f"{place}/counter", os.O_WRONLY | os.O_CREAT | os.O_DSYNC, 0o644) for place in places]

    def run(self) -> None:
        while not self.stop:
            self.count += 1
            for fd in self._files:
                os.pwrite(fd, b"%020d" % self.count, 0)
        for fd in self._files:
            os.close(fd)


@pytest.mark.vss(84)
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_both_volumes_are_cut_at_one_instant(volumes: Any, wait_until: Any) -> None:
    chain = volumes
    counters = Counters(list(chain.places.values()))
    counters.start()
    seen = []
    try:
        for _ in range(10):
            before = counters.count
            wait_until("the counters to move", lambda before=before: counters.count > before + 3)
            record = chain.cli("create", *chain.places)
            values = {}
            for snapshot in record["snapshots"]:
                place = chain.cli("mount", snapshot["snapshot_id"])["path"]
                values[snapshot["original_volume"]] = int(Path(f"{place}/counter").read_text())
                chain.cli("umount", snapshot["snapshot_id"])
            seen.append((values["one"], values["two"]))
            chain.cli("delete", record["set_id"])
    finally:
        counters.stop = True
        counters.join(60)
    for first, second in seen:
        assert first - 1 <= second <= first, seen
    assert len({first for first, _ in seen}) == len(seen)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_device_object_never_changes(volumes: Any) -> None:
    """Thirty seconds of random writes at full speed, on both volumes."""
    if shutil.which("fio") is None:
        pytest.skip("not installed: fio")
    chain = volumes
    for place in chain.places.values():
        Path(f"{place}/data").write_bytes(os.urandom(24 << 20))
    record = chain.cli("create", *chain.places)
    devices = [snapshot["device_object"] for snapshot in record["snapshots"]]
    before = [sha256(device) for device in devices]
    loads = [
        subprocess.Popen(
            ["fio", "--name=load", f"--filename={place}/data", "--rw=randwrite", "--bs=4k", "--size=24M",
             "--ioengine=psync", "--fsync=32", "--time_based", "--runtime=30", f"--aux-path={chain.directory}"],
            stdout=subprocess.DEVNULL,
        )
        for place in chain.places.values()
    ]  # fmt: skip
    while any(load.poll() is None for load in loads):
        assert [sha256(device) for device in devices] == before
        time.sleep(1)
    assert [load.returncode for load in loads] == [0, 0]
    assert [sha256(device) for device in devices] == before
    for device, snapshot in zip(devices, record["snapshots"], strict=True):
        status = os.stat(device)
        assert status.st_mtime_ns == snapshot_time(chain, snapshot["snapshot_id"])
        with pytest.raises(OSError, match="Read-only"):
            os.open(device, os.O_RDWR)


def snapshot_time(chain: Any, snapshot_id: str) -> int:
    objects = [json.loads(path.read_text()) for path in Path(chain.paths.objects).glob("*.json")]
    (found,) = [entry["created_ns"] for entry in objects if entry["snapshot_id"] == snapshot_id]
    return int(found)


def test_catalogue_survives_a_restart(volumes: Any) -> None:
    chain = volumes
    Path(f"{chain.places['one']}/file").write_bytes(b"before the cut")
    record = chain.cli("create", *chain.places)
    digests = [sha256(snapshot["device_object"]) for snapshot in record["snapshots"]]
    Path(f"{chain.places['one']}/file").write_bytes(b"after")
    listed = chain.cli("list")
    chain.daemon.terminate()
    assert chain.daemon.wait(20) == 0
    chain.check_writable()
    chain.start_daemon()
    assert chain.cli("list") == listed
    assert [sha256(snapshot["device_object"]) for snapshot in record["snapshots"]] == digests
    assert chain.cli("show", record["set_id"])["set_id"] == record["set_id"]


def test_thirty_lines_of_plain_python_take_part(volumes: Any, wait_until: Any) -> None:
    chain = volumes
    pytest.importorskip("msgpack", reason="not installed: msgpack")
    example = ROOT / "docs" / "examples" / "minimal_writer.py"
    code = [line for line in example.read_text().splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(code) <= 40, f"{len(code)} lines"
    os.mkdir(f"{chain.places['one']}/minimal")
    Path(f"{chain.places['one']}/minimal/data").write_text("kept")
    chain.start(sys.executable, str(example), chain.paths.writer_socket, f"{chain.places['one']}/minimal")
    wait_until("the writer", lambda: [entry for entry in chain.cli("writers") if entry["connected"]])
    done = chain.cli("backup", f"{chain.directory}/backup")
    assert [entry["succeeded"] for entry in done["components"]] == [True]
    assert any(path.read_text() == "kept" for path in Path(f"{chain.directory}/backup/files").rglob("data"))
    assert Path(f"{chain.directory}/backup/BackupComponents.xml").read_text().startswith("<?xml")


def test_shadow_copies_work_with_nbd_tools(volumes: Any, wait_until: Any) -> None:
    if shutil.which("nbdcopy") is None or shutil.which("qemu-img") is None:
        pytest.skip("not installed: nbdcopy, qemu-img")
    chain = volumes
    Path(f"{chain.places['one']}/file").write_bytes(os.urandom(1 << 20))
    record = chain.cli("create", "one")
    (snapshot,) = record["snapshots"]
    described = chain.describe("one")
    path = f"{chain.runtime}/export.sock"
    chain.module(
        "shadowset.nbd_provider.export", "--storage", described.storage, "--origin", described.origin, "--nbd", path
    )
    wait_until("the export", lambda: os.path.exists(path))
    uri = f"nbd+unix:///{described.copies[0].copy_id}?socket={path}"
    compare = ["qemu-img", "compare", "-f", "raw", uri, "-F", "raw", snapshot["device_object"]]
    assert subprocess.run(compare, capture_output=True, timeout=60, check=False).returncode == 0
    subprocess.run(["nbdcopy", uri, f"{chain.directory}/out"], check=True, timeout=60)
    assert sha256(f"{chain.directory}/out") == sha256(snapshot["device_object"])


def test_json_is_json(volumes: Any) -> None:
    chain = volumes
    chain.cli("create", "one")
    listing = chain.raw("list", "--json").stdout
    tool = [sys.executable, "-m", "json.tool"]
    assert subprocess.run(tool, input=listing, capture_output=True, text=True, timeout=30, check=False).returncode == 0


@pytest.mark.vss(97)
def test_storage_never_lies_on_a_served_volume(volumes: Any) -> None:
    chain = volumes
    image = f"{chain.directory}/third.img"
    with open(image, "wb") as file:
        file.truncate(1 << 20)
    done = chain.raw("volume", "add", "third", image, "--storage", f"{chain.places['one']}/storage")
    assert done.returncode == 1 and "volume" in done.stderr and "Traceback" not in done.stderr
    odd = f"{chain.directory}/odd.img"
    Path(odd).write_bytes(b"x" * 1000)
    for arguments in (("volume", "add", "odd", odd), ("volume", "attach", "nonesuch"), ("create", "nonesuch")):
        refused = chain.raw(*arguments)
        assert refused.returncode == 1 and len(refused.stderr.strip().splitlines()) == 1, refused.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demonstration_holds() -> None:
    if os.geteuid():
        pytest.skip("needs root")
    pytest.importorskip("tantivy", reason="not installed: tantivy")
    done = subprocess.run(
        [sys.executable, "-m", "shadowset.requester.demo"], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no money is lost" in done.stdout and "Everything is cleaned up" in done.stdout
