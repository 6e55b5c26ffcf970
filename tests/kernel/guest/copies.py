"""Inside the guest: shadow copies as /dev/nbdN, and their file systems mounted beside the live ones."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import msgspec

from shadowset.daemon.catalogue import VolumeRow
from shadowset.daemon.commands import Commands
from shadowset.daemon.copy_devices import CopyDevices
from shadowset.daemon.expose import Exposer
from shadowset.daemon.limits import Limits
from shadowset.daemon.scratch import ScratchCopies
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss.codes import VssError
from shadowset.vss.enums import SnapshotState
from shadowset.vss.objects import DeviceObject
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import SnapshotProperties

PATHS = Paths("/run/shadowset", "/mnt/state", "/mnt/config")
COPY = str(UUID(int=42))
FIFREEZE, FITHAW, BLKROGET = 0xC0045877, 0xC0045878, 0x125E
SIZES = {"ext4": 32 << 20, "btrfs": 128 << 20}


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.strip()


def step(text: str) -> None:
    print(f"{time.monotonic():8.2f} {text}", flush=True)


class Volume:
    """A file system on an image that is mounted at /mnt/live, and one copy that was cut while it was frozen."""

    def __init__(self, kind: str) -> None:
        self.kind, self.size = kind, SIZES[kind]
        self.row = VolumeRow(kind, f"/mnt/{kind}.img", f"/mnt/{kind}-storage", 16384)
        with open(self.row.origin, "wb") as file:
            file.truncate(self.size)
        run(f"mkfs.{kind}", "-q", self.row.origin)
        self.loop = run("losetup", "--find", "--show", self.row.origin)
        run("mount", self.loop, "/mnt/live")
        Path("/mnt/live/file").write_text("as it was")
        self.store = self._cut()
        self._describe()

    def _cut(self) -> ShadowStore:
        """What is written later goes past the storage, so old data is kept before: all of it."""
        live = os.open("/mnt/live", os.O_RDONLY)
        fcntl.ioctl(live, FIFREEZE, 0)
        os.sync()
        self.origin = os.open(self.row.origin, os.O_RDWR)
        store = ShadowStore(self.row.storage, self.origin, self.size)
        store.commit(UUID(COPY), UUID(int=7), time.time_ns(), False)
        store.prepare_write([(0, self.size)])
        fcntl.ioctl(live, FITHAW, 0)
        os.close(live)
        Path("/mnt/live/file").write_text("changed")
        os.sync()
        return store

    def _describe(self) -> None:
        os.makedirs(PATHS.objects, exist_ok=True)
        value = DeviceObject(
            device_number=1, snapshot_id=COPY, snapshot_set_id=COPY, copy_id=COPY, volume=self.kind,
            storage=self.row.storage, origin=self.row.origin, size=self.size, created_ns=1, attributes=0,
            originating_machine="guest",
        )  # fmt: skip
        Path(f"{PATHS.objects}/1.json").write_bytes(msgspec.json.encode(value))

    @property
    def copy(self) -> SnapshotProperties:
        return SnapshotProperties(
            snapshot_id=COPY, snapshot_set_id=COPY, snapshots_count=1, device_object=PATHS.device(1),
            original_volume=self.kind, originating_machine="", service_machine="", exposed_name="", exposed_path="",
            provider_id="", attributes=0, created_ns=1, status=SnapshotState.CREATED, size=self.size, number=1,
            device_number=1, mount_points=["/mnt/live"],
        )  # fmt: skip

    def close(self) -> None:
        run("umount", "/mnt/live")
        run("losetup", "--detach", self.loop)
        self.store.close()
        os.close(self.origin)


async def check_device(volume: Volume) -> None:
    devices = CopyDevices(PATHS, Commands(), 60_000)
    device = await devices.attach(volume.copy, volume.row, 512, "auto")
    step(f"{volume.kind}: attached as {device}")
    assert device == "/dev/nbd0" == await devices.attach(volume.copy, volume.row, 512, "auto")
    with open(device, "rb") as file, open(PATHS.device(1), "rb") as other:
        assert int.from_bytes(fcntl.ioctl(file, BLKROGET, bytes(4)), sys.byteorder) == 1
        while piece := file.read(1 << 20):
            assert piece == other.read(1 << 20)
        try:
            await devices.detach(volume.copy)
        except VssError as error:
            assert "is used by process" in error.message, error
        else:
            raise AssertionError("a device that is read was taken away")
    try:
        with open(device, "r+b", buffering=0) as file:  # opening is allowed to root
            file.write(bytes(4096))
    except OSError as error:
        step(f"{device} is not written to: {error.strerror}")
    else:
        raise AssertionError("a copy can be written to")
    run("mount", "-o", "ro", device, "/mnt/copy")
    assert Path("/mnt/copy/file").read_text() == "as it was"
    run("umount", "/mnt/copy")
    assert await devices.detach(volume.copy) and not await devices.detach(volume.copy)
    assert os.listdir(PATHS.copy_devices) == []


async def check_mount(volume: Volume) -> None:
    scratch = ScratchCopies(PATHS, Commands())
    exposer = Exposer(PATHS, Limits(), scratch)
    await exposer.mount(volume.copy, "/mnt/copy", volume.row)
    source = run("findmnt", "-no", "SOURCE", "/mnt/copy")
    step(f"{volume.kind}: mounted from {source}, beside the live one")
    assert Path("/mnt/copy/file").read_text() == "as it was"
    assert Path("/mnt/live/file").read_text() == "changed"
    assert source.startswith("/dev/nbd" if volume.kind == "btrfs" else "/dev/loop")
    await exposer.unmount("/mnt/copy", lazy=False)
    assert not os.path.isdir(PATHS.scratch) or os.listdir(PATHS.scratch) == []


async def main() -> None:
    for directory in (PATHS.state, PATHS.objects, "/mnt/live", "/mnt/copy"):
        os.makedirs(directory, exist_ok=True)
    command = [sys.executable, "-m", "shadowset.fuse_mount.main", "--objects", PATHS.objects, "--mount", PATHS.devices]
    server = subprocess.Popen(command)
    try:
        for kind in SIZES:
            volume = Volume(kind)
            await check_mount(volume)
            if kind == "ext4":
                await check_device(volume)
            volume.close()
    finally:
        server.terminate()
        server.wait()
    print("all is well")


asyncio.run(main())
