"""btrfs subvolumes as volumes: on a real file system, alone and in one set with a protected volume."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.host

PROVIDER_ID = "c52d7e0a-6c7b-4f7e-9a51-0b6f5d7f9d43"


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


class Subvolumes:
    """A btrfs file system on a loop device; ``data`` is a subvolume of it, mounted by itself."""

    def __init__(self, chain: Any) -> None:
        self.image = Path(chain.directory, "btrfs.img")
        with open(self.image, "wb") as file:
            file.truncate(160 << 20)
        run("mkfs.btrfs", "-q", str(self.image))
        self.device = run("losetup", "--find", "--show", str(self.image))
        self.data = Path(chain.directory, "data")
        self.data.mkdir()
        run("mount", self.device, str(self.data))
        run("btrfs", "subvolume", "create", str(self.data / "@data"))
        run("umount", str(self.data))
        self.mount()

    def mount(self, options: str = "subvol=@data") -> None:
        run("mount", "-o", options, self.device, str(self.data))

    def unmount(self) -> None:
        run("umount", str(self.data))

    def top(self, chain: Any) -> Path:
        (found,) = Path(chain.runtime, "providers", "btrfs").iterdir()
        return found


@pytest.fixture
def subvolumes(chain: Any, wait_until: Callable[..., Any]) -> Iterator[Subvolumes]:
    if shutil.which("mkfs.btrfs") is None or "btrfs" not in Path("/proc/filesystems").read_text():
        pytest.skip("needs btrfs-progs and a kernel with btrfs")
    made = Subvolumes(chain)
    try:
        yield made
    finally:
        for line in Path("/proc/self/mounts").read_text().splitlines()[::-1]:
            source, place = line.split(" ")[:2]
            if source == made.device:
                subprocess.run(["umount", "-l", place], check=False)
        subprocess.run(["losetup", "--detach", made.device], check=False)
        wait_until("the loop device to go", lambda: not Path(f"/sys/block/{made.device[5:]}/loop").exists())


def test_a_subvolume_is_copied_listed_exposed_and_deleted(chain: Any, subvolumes: Subvolumes) -> None:
    file = subvolumes.data / "file"
    file.write_text("before")
    (copy,) = chain.cli("create", "--persistent", str(subvolumes.data))["snapshots"]
    file.write_text("after")

    assert copy["provider_id"] == PROVIDER_ID and copy["mount_points"] == [str(subvolumes.data)]
    assert copy["original_volume"].startswith("btrfs:") and copy["original_volume"].endswith(":/@data")
    tree = Path(copy["device_object"])
    assert tree.parent == Path(chain.runtime, "trees") and (tree / "file").read_text() == "before"
    with pytest.raises(OSError, match="Read-only"):
        (tree / "file").write_text("changed")
    with pytest.raises(OSError, match="Read-only"):
        (subvolumes.top(chain) / ".shadowset" / copy["snapshot_id"] / "copy" / "new").touch()
    listed = chain.cli("list", "--volume", str(subvolumes.data))
    assert copy["snapshot_id"] in json.dumps(listed)

    place = chain.raw("mount", copy["snapshot_id"]).stdout.strip()
    assert (Path(place) / "file").read_text() == "before"
    chain.raw("umount", copy["snapshot_id"])
    restored = subvolumes.data / "restored"
    chain.cli("break", copy["snapshot_id"], str(restored), "--writable", "--keep-copy")
    (restored / "file").write_text("mine")
    assert (tree / "file").read_text() == "before"
    providers = {each["provider_id"]: each for each in chain.cli("providers")}
    assert providers[PROVIDER_ID]["copies"] == 1 and "changed-blocks" in providers[PROVIDER_ID]["lacks"]

    chain.cli("delete", copy["snapshot_id"], "--yes")
    assert not tree.exists()
    assert list((subvolumes.top(chain) / ".shadowset").iterdir()) == []


@pytest.mark.vss(84, 120)
def test_a_set_over_a_protected_volume_and_a_subvolume_is_one_instant(
    chain: Any, subvolumes: Subvolumes, wait_until: Callable[..., Any]
) -> None:
    chain.add_volumes((("one", "ext4", 64 << 20),))
    first, second = Path(chain.places["one"], "count"), subvolumes.data / "count"
    stop = threading.Event()

    def count() -> None:
        descriptors = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DSYNC) for path in (first, second)]
        number = 0
        while not stop.is_set():
            number += 1
            for descriptor in descriptors:
                os.pwrite(descriptor, b"%08d" % number, 0)
        for descriptor in descriptors:
            os.close(descriptor)

    counter = threading.Thread(target=count)
    counter.start()
    wait_until("both files", lambda: second.exists() and second.stat().st_size)
    try:
        for _ in range(3):
            record = chain.cli("create", "--persistent", "--no-writers", "one", str(subvolumes.data))
            place = chain.raw("mount", record["snapshots"][0]["snapshot_id"]).stdout.strip()
            seen = [
                int(Path(where, "count").read_text() or 0) for where in (place, record["snapshots"][1]["device_object"])
            ]
            assert seen[1] <= seen[0] <= seen[1] + 1, "the second file is written after the first one"
            chain.raw("umount", record["snapshots"][0]["snapshot_id"])
    finally:
        stop.set()
        counter.join()


def test_a_set_that_fails_leaves_no_snapshot_behind(chain: Any, subvolumes: Subvolumes) -> None:
    chain.add_volumes((("one", "ext4", 64 << 20),))
    Path(chain.places["one"], "file").write_text("x")
    run("fsfreeze", "--freeze", chain.places["one"])
    try:
        chain.cli("create", "--persistent", "--no-writers", "one", str(subvolumes.data), status=1)
    finally:
        run("fsfreeze", "--unfreeze", chain.places["one"])
    assert chain.cli("list") in ([], {"snapshots": []}, None)


def test_copies_survive_a_restart_and_follow_their_file_system(
    chain: Any, subvolumes: Subvolumes, wait_until: Callable[..., Any]
) -> None:
    (subvolumes.data / "file").write_text("kept")
    (copy,) = chain.cli("create", "--persistent", str(subvolumes.data))["snapshots"]
    chain.daemon.kill()
    chain.daemon.wait()
    chain.start_daemon()
    tree = Path(copy["device_object"])
    assert (tree / "file").read_text() == "kept"

    subvolumes.unmount()
    used = Path(f"/sys/block/{subvolumes.device[5:]}/loop")
    run("losetup", "--detach", subvolumes.device)
    wait_until("the device to be let go", lambda: not used.exists())
    assert copy["snapshot_id"] in json.dumps(chain.cli("list")), "a copy that is away is not lost"
    subvolumes.device = run("losetup", "--find", "--show", str(subvolumes.image))
    subvolumes.mount()
    wait_until("the copy to come back", (tree / "file").exists)
    chain.cli("delete", copy["snapshot_id"], "--yes")
    assert not tree.exists()


def test_copies_come_back_after_the_catalogue_was_lost(
    chain: Any, subvolumes: Subvolumes, wait_until: Callable[..., Any]
) -> None:
    """As soon as the provider has to do with their file system again; no tree takes the place of another one."""
    file = subvolumes.data / "file"
    file.write_text("old")
    (old,) = chain.cli("create", "--persistent", str(subvolumes.data))["snapshots"]
    chain.daemon.kill()
    chain.daemon.wait()
    shutil.rmtree(chain.paths.state)
    chain.start_daemon()
    file.write_text("new")
    (new,) = chain.cli("create", "--persistent", str(subvolumes.data))["snapshots"]
    wait_until("the old copy", lambda: len(chain.cli("list")) == 2)
    trees = {copy["snapshot_id"]: Path(copy["device_object"]) for copy in chain.cli("list")}
    assert (trees[old["snapshot_id"]] / "file").read_text() == "old"
    assert (trees[new["snapshot_id"]] / "file").read_text() == "new"
    assert old["device_object"] not in map(str, trees.values())
    for snapshot_id, tree in trees.items():
        chain.cli("delete", snapshot_id, "--yes")
        assert not tree.exists()
    assert list((subvolumes.top(chain) / ".shadowset").iterdir()) == []


def test_what_cannot_be_copied_is_said(chain: Any, subvolumes: Subvolumes) -> None:
    run("btrfs", "subvolume", "create", str(subvolumes.data / "inner"))
    done = chain.raw("create", "--no-writers", str(subvolumes.data), str(subvolumes.data / "inner"))
    assert done.returncode and "sets of their own" in done.stderr and "Traceback" not in done.stderr
    subvolumes.unmount()
    subvolumes.mount("ro,subvol=@data")
    done = chain.raw("create", "--no-writers", str(subvolumes.data))
    assert done.returncode and "read-only" in done.stderr
    with pytest.raises(OSError, match="Read-only"):
        (subvolumes.data / "file").touch()


def database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create table t(x)")
        connection.execute("insert into t values('as it was')")
        connection.commit()


def content(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("select x from t").fetchone()[0])


def test_backup_restore_and_run_know_subvolumes(
    chain: Any, subvolumes: Subvolumes, wait_until: Callable[..., Any], tmp_path: Path
) -> None:
    chain.add_volumes((("one", "ext4", 64 << 20),))
    first, second = Path(chain.places["one"], "first.db"), subvolumes.data / "deep" / "second.db"
    second.parent.mkdir()
    for path in (first, second):
        database(path)
    chain.module("shadowset.writers.sqlite.main", str(first), str(second))
    wait_until("the writer", lambda: chain.cli("writers"))
    made = chain.cli("backup", str(tmp_path / "backup"))
    assert len(made["volumes"]) == 2 and any(name.startswith("btrfs:") for name in made["volumes"]), made
    assert made["succeeded"] and {Path(each).name for each in made["dropped"]} == set()
    for path in (first, second):
        path.write_bytes(b"rubbish")
    assert chain.cli("restore", str(tmp_path / "backup"))["succeeded"]
    assert [content(path) for path in (first, second)] == ["as it was"] * 2

    marker, changed = tmp_path / "marker", tmp_path / "changed"
    script = (
        f"touch {marker}; while [ ! -e {changed} ]; do sleep 0.05; done; cat {second.parent}/text; touch {second}.no"
    )
    Path(second.parent, "text").write_text("then")
    command = [sys.executable, "-m", "shadowset.requester.cli", "run", "--volume", str(subvolumes.data), "--"]
    with subprocess.Popen(
        [*command, "sh", "-c", script], env=chain.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until("the program", marker.exists, 60)
        Path(second.parent, "text").write_text("now")
        changed.touch()
        out, err = process.communicate(timeout=60)
    assert out == "then" and "Read-only file system" in err, (out, err)
    assert chain.cli("list") == []


@pytest.mark.long
def test_what_a_snapshot_does_not_have_is_not_passed_over(
    chain: Any, subvolumes: Subvolumes, wait_until: Callable[..., Any], tmp_path: Path
) -> None:
    """A subvolume below a component's directory, and components on two subvolumes."""
    Path(subvolumes.data, "app").mkdir()
    inner, other = subvolumes.data / "app" / "inner", Path(chain.directory, "other")
    for path in (inner, subvolumes.data / "second"):
        run("btrfs", "subvolume", "create", str(path))
    other.mkdir()
    run("mount", "-o", "subvol=@data/second", subvolumes.device, str(other))
    places = {"app": str(inner.parent), "other": str(other)}
    writer = f"""
from shadowset.vss.enums import ComponentType
from shadowset.writers.sdk import Writer, run_until_signal
class Two(Writer):
    writer_id = "6f7ee1f5-57b6-4d2f-8a5b-3b1f4c6f5d12"
    name = "Two"
    def on_identify(self, metadata):
        for name, path in {places!r}.items():
            metadata.add_component(ComponentType.FILEGROUP, name).add_files(path, "*", recursive=True)
run_until_signal(Two())
"""
    chain.start(sys.executable, "-c", writer)
    wait_until("the writer", lambda: chain.cli("writers"))
    done = chain.raw("backup", str(tmp_path / "one"), "--component", "Two:app")
    assert done.returncode == 1 and f"{inner} is a subvolume of its own" in done.stdout + done.stderr, done
    run("btrfs", "subvolume", "delete", str(inner))
    assert chain.cli("backup", str(tmp_path / "two"), "--component", "Two:app")["succeeded"]
    done = chain.raw("backup", str(tmp_path / "three"))
    assert done.returncode == 1 and "cannot be cut at one instant" in done.stderr, done
    assert chain.cli("list") == []
