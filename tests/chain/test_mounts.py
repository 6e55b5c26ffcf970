"""``shadowset mount``: what each file system needs so that its copy can be mounted, and is whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mount_table import root_is_mount

UNSEEN = """
import os, subprocess, sys
device, place = sys.argv[1:]
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", device, place], check=True)
for number in range(3):
    with open(f"{place}/synced{number}", "w") as file:
        file.write(f"content {number}")
        file.flush()
        os.fsync(file.fileno())
print("written", flush=True)
sys.stdin.read()
subprocess.run(["umount", place], check=True)
"""
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry) for entry in ((1, 7, 0xFFFFFFFF), (2, 4, 77), (4, 5, 0xFFFFFFFF), (16, 5, 0xFFFFFFFF),
                                              (32, 1, 0xFFFFFFFF))
)  # fmt: skip
"""User 77 may read, beside owner, group and others."""
SIZES = {"ext4": 64 << 20, "xfs": 320 << 20, "btrfs": 256 << 20}


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(params=["ext4", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("xfs", "btrfs"))])
def unseen(request: pytest.FixtureRequest, chain: Any) -> Iterator[Any]:
    """A volume that is mounted where the coordinator does not see it, as in a virtual machine; nobody freezes it."""
    kind = request.param
    if not root_is_mount():
        pytest.skip("the root is no mount, as in a chroot: no mount namespace can be cut off from the host's")
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"not installed: mkfs.{kind}")
    chain.add_volumes((("vol", kind, SIZES[kind]),))
    device = os.path.realpath(chain.cli("volume", "list")[0]["device"])
    subprocess.run(["umount", chain.places["vol"]], check=True)
    command = ["unshare", "--mount", sys.executable, "-c", UNSEEN, device, chain.places["vol"]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "written\n"
            yield chain
        finally:
            process.communicate(timeout=60)


def test_a_log_is_replayed_beside_the_copy(unseen: Any) -> None:
    (copy,) = unseen.cli("create", "--persistent", "--no-writers", "vol")["snapshots"]
    assert copy["mount_points"] == []
    before = digest(copy["device_object"])
    place = unseen.cli("mount", copy["snapshot_id"])["path"]
    assert [Path(f"{place}/synced{number}").read_text() for number in range(3)] == [f"content {n}" for n in range(3)]
    with pytest.raises(OSError, match="Read-only"):
        Path(f"{place}/new").touch()
    options = next(line.split()[3] for line in Path("/proc/mounts").read_text().splitlines() if f" {place} " in line)
    assert {"ro", "nosuid", "nodev"} <= set(options.split(","))
    assert digest(copy["device_object"]) == before
    unseen.daemon.kill()
    unseen.daemon.wait()
    unseen.start_daemon()
    assert Path(f"{place}/synced2").read_text() == "content 2", "what serves the copy outlives the coordinator"
    unseen.cli("umount", copy["snapshot_id"])
    assert os.listdir(unseen.paths.scratch) == []
    assert digest(copy["device_object"]) == before


@pytest.fixture
def nested(chain: Any) -> Any:
    """Volume ``inner`` is mounted inside ``outer``, and a directory of ``inner`` in a second place."""
    chain.add_volumes((("outer", "ext4", 64 << 20), ("inner", "xfs", 320 << 20)))
    outer, inner = chain.places["outer"], chain.places["inner"]
    device = next(line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if f" {inner} " in line)
    subprocess.run(["umount", inner], check=True)
    os.mkdir(f"{outer}/db")
    subprocess.run(["mount", device, f"{outer}/db"], check=True)
    os.mkdir(f"{outer}/db/part")
    subprocess.run(["mount", "--bind", f"{outer}/db/part", inner], check=True)
    chain.places = {"part": inner, "inner": f"{outer}/db", "outer": outer}  # unmounted in this order
    for path in (f"{outer}/file", f"{outer}/db/file", f"{inner}/file"):
        Path(path).write_text(f"{path}, as it was")
    return chain


def change(chain: Any) -> list[str]:
    paths = [f"{place}/file" for place in chain.places.values()]
    for path in paths:
        Path(path).write_text("changed")
    return paths


def mounted_below(root: str) -> list[str]:
    lines = Path("/proc/mounts").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(root)]


@pytest.mark.vss(109)
def test_a_set_below_one_root_looks_as_it_did(nested: Any) -> None:
    """On a shared mount, as all are under systemd: what is mounted inside must not show up elsewhere."""
    outer, inner = nested.places["outer"], nested.places["inner"]
    for number, place in enumerate((outer, inner)):
        odd = Path(f"{place}/odd")
        odd.write_text("owned")
        os.link(odd, f"{place}/hard")
        os.symlink("odd", f"{place}/soft")
        os.chown(odd, 1234 + number, 4321)
        os.chmod(odd, 0o6751)
        os.setxattr(odd, "user.note", b"kept")
        os.setxattr(odd, "security.capability", bytes.fromhex("0000000200040000000000000000000000000000"))
        os.setxattr(odd, "system.posix_acl_access", ACL)
    set_id = nested.cli("create", "--persistent", "--no-writers", "outer", "inner")["set_id"]
    root = f"{nested.runtime}/root"
    os.mkdir(root)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", root], check=True)
    subprocess.run(["mount", "--make-shared", root], check=True)
    os.mkdir(f"{root}/all")
    made = nested.cli("mount", "--all", f"{root}/all")
    assert (made["set_id"], made["path"]) == (set_id, f"{root}/all")
    compare = ["rsync", "-aHAX", "--checksum", "--dry-run", "--itemize-changes", "--delete"]
    same = subprocess.run([*compare, f"{outer}/", f"{root}/all{outer}"], capture_output=True, text=True, check=True)
    assert same.stdout == "", "contents, owners, modes, times, ACLs, extended attributes and hard links"
    paths = change(nested)
    assert set(made["mounts"]) == {f"{root}/all{place}" for place in nested.places.values()}
    for path in paths:
        assert Path(f"{root}/all{path}").read_text() == f"{path}, as it was"
        with pytest.raises(OSError, match="Read-only"):
            Path(f"{root}/all{path}.new").touch()
    assert not any(place.endswith("/db") for place in mounted_below(nested.paths.mounts))
    for arguments in (("mount", "--all", f"{root}/all"), ("mount", "--all", set_id[:8], root)):
        refused = nested.raw(*arguments)
        assert refused.returncode == 1 and f"'shadowset umount {root}/all'" in refused.stderr, refused
    (one, _) = nested.cli("list")
    assert nested.raw("umount", one["snapshot_id"]).returncode == 1
    with open(f"{root}/all{paths[1]}"):
        refused = nested.raw("umount", f"{root}/all")
        assert refused.returncode == 1 and "busy" in refused.stderr
    nested.cli("umount", f"{root}/all")
    assert mounted_below(f"{root}/all") == [] and os.listdir(f"{root}/all") == []
    assert os.listdir(nested.paths.mounts) == []
    nested.cli("mount", "--all", set_id, f"{root}/all")
    nested.daemon.kill()
    nested.daemon.wait()
    nested.start_daemon()
    assert Path(f"{root}/all{paths[0]}").read_text() == f"{paths[0]}, as it was"
    assert nested.raw("delete", one["snapshot_id"], "--yes").returncode == 1
    nested.cli("delete", "--force", one["snapshot_id"], "--yes")
    assert mounted_below(f"{root}/all") == [] and not any(copy["exposed_name"] for copy in nested.cli("list"))
    nested.cli("mount", "--all", f"{root}/all")
    nested.cli("umount", set_id)
    subprocess.run(["umount", root], check=True)


def test_what_somebody_unmounts_by_hand_is_mounted_no_longer(chain: Any) -> None:
    """Whoever types ``umount`` from habit can mount and delete as before, and nothing of his own is unmounted."""
    chain.add_volumes((("vol", "ext4", 64 << 20),))
    first, second = (chain.cli("create", "--persistent", "--no-writers", "vol")["snapshots"][0] for _ in range(2))
    assert chain.cli("show", "last")["set_id"] == second["snapshot_set_id"]
    place = f"{chain.runtime}/old"
    os.mkdir(place)
    chain.cli("mount", first["snapshot_id"], place)
    subprocess.run(["umount", place], check=True)
    assert [copy["exposed_name"] for copy in chain.cli("list")] == ["", ""]
    chain.cli("mount", second["snapshot_id"], place)
    assert chain.raw("umount", first["snapshot_id"]).returncode == 1
    assert [copy["exposed_name"] for copy in chain.cli("list")] == ["", place]
    subprocess.run(["umount", place], check=True)
    chain.cli("mount", "--all", place)
    chain.cli("umount", place)
    assert mounted_below(place) == [] and os.listdir(chain.paths.mounts) == []
    chain.cli("mount", "--all", place)
    subprocess.run(["umount", "--recursive", place], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "mine", place], check=True)
    chain.cli("delete", second["snapshot_id"], "--yes")
    chain.cli("mount", first["snapshot_id"])
    chain.cli("umount", first["snapshot_id"])
    refused = chain.raw("mount", first["snapshot_id"], place)
    assert refused.returncode == 1 and f"something is mounted at {place} already" in refused.stderr
    subprocess.run(["umount", place], check=True)
    Path(f"{place}/file").touch()
    assert "is not empty" in chain.raw("mount", first["snapshot_id"], place).stderr
    chain.cli("delete", first["snapshot_id"], "--yes")
    assert chain.cli("list") == [] and os.listdir(chain.paths.mounts) == []


@pytest.mark.parametrize("instant", ["before", pytest.param("after", marks=pytest.mark.long)])
def test_a_coordinator_killed_while_it_mounts_leaves_nothing_unknown(
    chain: Any, monkeypatch: pytest.MonkeyPatch, wait_until: Any, loops: Any, instant: str
) -> None:
    wrapper = Path(f"{chain.directory}/mount")
    run = f'{shutil.which("mount")} "$@"\n'
    wrapper.write_text(f"#!/bin/sh\n{run if instant == 'after' else ''}kill -KILL $PPID\n")
    monkeypatch.setitem(chain.environment, "PATH", f"{chain.directory}:{os.environ['PATH']}")
    chain.add_volumes((("vol", "ext4", 64 << 20),))
    Path(f"{chain.places['vol']}/file").write_text("as it was")
    (copy,) = chain.cli("create", "--persistent", "--no-writers", "vol")["snapshots"]
    chain.daemon.terminate()
    chain.daemon.wait(30)
    chain.start_daemon()  # with the wrapper in its way
    wrapper.chmod(0o755)
    assert chain.raw("mount", copy["snapshot_id"]).returncode
    assert chain.daemon.wait(30) == -signal.SIGKILL
    wrapper.chmod(0o644)
    if instant == "before":
        wait_until("the loop device to clear itself", lambda: not loops(chain.paths.devices))
    chain.start_daemon()
    (found,) = chain.cli("list")
    assert bool(found["exposed_name"]) is (instant == "after")
    if instant == "after":
        assert Path(f"{found['exposed_name']}/file").read_text() == "as it was"
        chain.cli("umount", copy["snapshot_id"])
    assert loops(chain.paths.devices) == [] and os.listdir(chain.paths.mounts) == []


@pytest.mark.long
def test_mounts_come_back_when_their_device_objects_had_died(nested: Any, wait_until: Any, loops: Any) -> None:
    (one, _) = nested.cli("create", "--persistent", "--no-writers", "outer", "inner")["snapshots"]
    alone = nested.cli("create", "--persistent", "--no-writers", "outer")["snapshots"][0]
    paths = change(nested)
    root = f"{nested.runtime}/root"
    os.mkdir(root)
    nested.cli("mount", "--all", one["snapshot_set_id"], root)
    place = nested.cli("mount", alone["snapshot_id"])["path"]
    os.kill(int(Path(f"{nested.runtime}/fuse.pid").read_text()), signal.SIGKILL)

    def again() -> int:
        return sum(event["name"] == "exposed-again" for event in nested.cli("events"))

    wait_until("all to be mounted again", lambda: again() >= 2, 60)
    for path in paths:
        assert Path(f"{root}{path}").read_text() == f"{path}, as it was"
    assert Path(f"{place}/file").read_text() == f"{nested.places['outer']}/file, as it was"
    nested.cli("umount", root)
    nested.cli("umount", alone["snapshot_id"])
    wait_until("the loop devices to go", lambda: not loops(nested.paths.devices))


@pytest.mark.long
def test_a_copy_as_a_block_device(chain: Any, wait_until: Any, loops: Any) -> None:
    chain.add_volumes((("vol", "ext4", 64 << 20),))
    (copy,) = chain.cli("create", "--persistent", "--no-writers", "vol")["snapshots"]
    name = copy["snapshot_id"]
    device = chain.cli("device", name, "--via", "loop")["device"]
    assert digest(device) == digest(copy["device_object"])
    with pytest.raises(PermissionError), open(device, "r+b", buffering=0) as file:
        file.write(b"x")
    chain.daemon.kill()
    chain.daemon.wait()
    chain.start_daemon()
    assert chain.raw("device", name).stdout.strip() == device
    with open(device, "rb"):
        refused = chain.raw("device", name, "--remove")
        assert refused.returncode == 1 and f"{device}, a shadow copy, is used by process" in refused.stderr
    chain.cli("device", name, "--remove")
    wait_until("the loop device to go", lambda: not loops(chain.paths.devices))
    assert "is no block device" in chain.raw("device", name, "--remove").stderr
    if not os.path.isdir("/sys/module/nbd"):
        assert "this kernel has no nbd" in chain.raw("device", name, "--via", "nbd").stderr
    again = chain.cli("device", name, "--via", "loop")["device"]
    with open(again, "rb"):
        assert chain.raw("delete", name, "--yes").returncode == 1
        chain.cli("delete", name, "--force", "--yes")
    wait_until("the loop device to go", lambda: not loops(chain.paths.devices))
    assert os.listdir(chain.paths.copy_devices) == []
