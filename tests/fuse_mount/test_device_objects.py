"""Device objects: the tree by itself, and mounted for real."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from shadowset.fuse_mount.tree import DeviceTree
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss.objects import DeviceObject

SIZE = (8 << 20) + 512
COPY = UUID(int=42)


class World:
    """One volume with one shadow copy, described as device object 3."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="ss-fuse-", dir="/tmp")
        self.origin = f"{self.directory}/origin"
        self.storage = f"{self.directory}/storage"
        self.objects = f"{self.directory}/objects"
        os.mkdir(self.objects)
        self.content = os.urandom(SIZE)
        Path(self.origin).write_bytes(self.content)
        self.fd = os.open(self.origin, os.O_RDWR)
        self.store = ShadowStore(self.storage, self.fd, SIZE)
        self.store.commit(COPY, UUID(int=7), 1_700_000_000_123_456_789, False)
        self.describe(3)

    def describe(self, number: int) -> None:
        value = DeviceObject(
            device_number=number, snapshot_id=str(COPY), snapshot_set_id=str(UUID(int=7)), copy_id=str(COPY),
            volume="data", storage=self.storage, origin=self.origin, size=SIZE, created_ns=1_700_000_000_123_456_789,
            attributes=0x20000, originating_machine="host",
        )  # fmt: skip
        Path(f"{self.objects}/{number}.json").write_bytes(msgspec.json.encode(value))

    def overwrite(self, offset: int, length: int) -> None:
        self.store.prepare_write([(offset, length)])
        os.pwrite(self.fd, os.urandom(length), offset)

    def close(self) -> None:
        self.store.close()
        os.close(self.fd)
        shutil.rmtree(self.directory)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def test_tree_lists_and_describes(world: World) -> None:
    tree = DeviceTree(world.objects)
    world.describe(12)
    Path(f"{world.objects}/.13.json.tmp").write_bytes(b"half")
    assert tree.names() == ["HarddiskVolumeShadowCopy3", "HarddiskVolumeShadowCopy12"]
    found = tree.attributes("/HarddiskVolumeShadowCopy3")
    assert (found.size, found.time_ns, found.mode) == (SIZE, 1_700_000_000_123_456_789, stat.S_IFREG | 0o440)
    assert tree.xattrs("/HarddiskVolumeShadowCopy3")["user.shadowset.snapshot_id"] == str(COPY).encode()


@pytest.mark.parametrize("path", ["/", "/x", "/HarddiskVolumeShadowCopy4", "/HarddiskVolumeShadowCopy03", "/../3"])
def test_tree_refuses_what_is_not_there(world: World, path: str) -> None:
    with pytest.raises(OSError) as caught:
        DeviceTree(world.objects).open(path, os.O_RDONLY)
    assert caught.value.errno == (errno.EISDIR if path == "/" else errno.ENOENT)


def test_tree_reads_as_of_the_cut_and_tells_of_deletion(world: World) -> None:
    tree = DeviceTree(world.objects)
    with pytest.raises(OSError) as refused:
        tree.open("/HarddiskVolumeShadowCopy3", os.O_RDWR)
    assert refused.value.errno == errno.EROFS
    handle = tree.open("/HarddiskVolumeShadowCopy3", os.O_RDONLY)
    world.overwrite(0, 3 << 20)
    assert tree.read(handle, 0, SIZE + 99) == world.content
    assert tree.read(handle, SIZE, 10) == b""
    world.store.delete(COPY)
    with pytest.raises(OSError) as gone:
        tree.read(handle, 0, 10)
    assert gone.value.errno == errno.ESTALE
    tree.release(handle)
    with pytest.raises(OSError):
        tree.read(handle, 0, 1)


def test_damaged_description(world: World) -> None:
    Path(f"{world.objects}/3.json").write_bytes(b'{"device_number": "three"}')
    with pytest.raises(OSError) as caught:
        DeviceTree(world.objects).attributes("/HarddiskVolumeShadowCopy3")
    assert caught.value.errno == errno.EIO


class Mounted:
    """``shadowset-fuse`` as a child process."""

    def __init__(self, world: World, *options: str) -> None:
        self.path = f"{world.directory}/devices"
        self._objects = world.objects
        self._options = options
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "shadowset.fuse_mount.main", "--objects", self._objects, "--mount", self.path]
        self.process = subprocess.Popen([*command, *self._options])
        deadline = time.monotonic() + 20
        while not self.served():
            assert self.process.poll() is None and time.monotonic() < deadline, "shadowset-fuse did not mount"
            time.sleep(0.02)

    def served(self) -> bool:
        try:
            return bool(os.listdir(self.path))
        except OSError:
            return False

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        subprocess.run(["umount", "-l", self.path], stderr=subprocess.DEVNULL, check=False)


@pytest.fixture
def mounted(world: World) -> Iterator[Mounted]:
    if os.geteuid() or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    made = Mounted(world)
    yield made
    made.close()


@pytest.mark.vss(108)
def test_mounted_object_is_read_only_and_exact(world: World, mounted: Mounted) -> None:
    path = f"{mounted.path}/HarddiskVolumeShadowCopy3"
    status = os.stat(path)
    assert (status.st_size, status.st_mtime_ns) == (SIZE, 1_700_000_000_123_456_789)
    assert os.getxattr(path, "user.shadowset.original_volume") == b"data"
    assert "user.shadowset.snapshot_set_id" in os.listxattr(path)
    for attempt in (
        lambda: os.open(path, os.O_RDWR),
        lambda: os.truncate(path, 0),
        lambda: os.unlink(path),
        lambda: os.open(f"{mounted.path}/new", os.O_CREAT | os.O_WRONLY),
        lambda: os.chmod(path, 0o777),
        lambda: os.setxattr(path, "user.x", b"1"),
    ):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS
    world.overwrite(1 << 20, 4 << 20)
    assert hashlib.sha256(Path(path).read_bytes()).digest() == hashlib.sha256(world.content).digest()
    world.describe(4)
    assert len(os.listdir(mounted.path)) == 2
    os.unlink(f"{world.objects}/4.json")
    assert len(os.listdir(mounted.path)) == 1


def test_a_killed_server_leaves_a_mount_that_the_next_one_replaces(world: World, mounted: Mounted) -> None:
    mounted.process.kill()
    mounted.process.wait(10)
    mounted.start()
    assert Path(f"{mounted.path}/HarddiskVolumeShadowCopy3").read_bytes() == world.content


@pytest.mark.parametrize(("groups", "reads"), [("45678", True), ("45679,45680", False)])
def test_members_of_the_group_read_without_root(world: World, groups: str, reads: bool) -> None:
    if os.geteuid() or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    os.chmod(world.directory, 0o755)
    mounted = Mounted(world, "--group", "45678")
    try:
        path = f"{mounted.path}/HarddiskVolumeShadowCopy3"
        status = os.stat(path)
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 45678, 0o440)
        who = ["setpriv", "--reuid", "45001", "--regid", "45001", "--groups", groups, "--bounding-set", "-all"]
        done = subprocess.run([*who, "cat", path], capture_output=True, timeout=30, check=False)
        assert (done.returncode == 0, done.stdout == world.content) == (reads, reads)
        assert reads or b"Permission denied" in done.stderr
    finally:
        mounted.close()


def test_a_group_that_is_not_there(world: World) -> None:
    command = [
        sys.executable,
        "-m",
        "shadowset.fuse_mount.main",
        "--objects",
        world.objects,
        "--group",
        "no such group",
    ]
    command += ["--mount", f"{world.directory}/devices"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1 and "there is no group 'no such group'" in done.stderr
