"""Mounting a shadow copy read-only: device object → read-only loop device → file system.

The loop device is told to clear itself as soon as it is mounted, so unmounting is all that is needed to undo
everything, also after a crash, and a lazy unmount frees it when its last reader has gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import time

from shadowset.daemon.limits import Limits
from shadowset.daemon.mounts import device_number, read_mounts
from shadowset.daemon.process import run_command
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths

BLKSSZGET = 0x1268
DEVICE_WAIT_S = 10.0
COMMON = "ro,nosuid,nodev"
OPTIONS = {
    "ext2": COMMON,
    "ext3": f"{COMMON},noload",
    "ext4": f"{COMMON},noload",
    "xfs": f"{COMMON},norecovery,nouuid",
    "btrfs": f"{COMMON},rescue=nologreplay",
}
"""What keeps each file system from writing to the copy; others get the common options."""


def logical_sector_size(origin: str) -> int:
    """That of the origin, which the copy's device must have too; 512 for image files."""
    if not device_number(origin):
        return 512
    try:
        descriptor = os.open(origin, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 512
    try:
        answer = fcntl.ioctl(descriptor, BLKSSZGET, b"\0" * 4)
        return int(struct.unpack("i", answer)[0])
    finally:
        os.close(descriptor)


def is_mount_point(path: str) -> bool:
    """By the mount table, which does not ask the file system."""
    return any(mount.path == path for mount in read_mounts())


class Exposer:
    """Mounts and unmounts copies; every command is bounded in time."""

    def __init__(self, paths: Paths, limits: Limits) -> None:
        self._paths = paths
        self._limits = limits

    def place(self, snapshot_id: str, path: str) -> str:
        """The mount point: the one asked for, or one below the run-time directory. Errors: VssError."""
        if not path:
            place = f"{self._paths.mounts}/{snapshot_id}"
            os.makedirs(place, exist_ok=True)
            return place
        if not os.path.isabs(path) or not os.path.isdir(path):
            raise VssError(Code.E_INVALIDARG, f"{path} is not an existing directory given by its absolute path")
        place = os.path.realpath(path)
        if is_mount_point(place) or os.listdir(place):
            raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"{path} is in use; give an empty directory")
        return place

    async def mount(self, device_object: str, place: str, sector_size: int) -> None:
        """Mount a device object or bind a directory. Errors: VssError, and nothing is left behind."""
        await self._wait_for(device_object)
        if os.path.isdir(device_object):
            await self._run("mount", "--bind", "-o", COMMON, device_object, place)
            return
        loop = await self._run(
            "losetup", "--find", "--show", "--read-only", f"--sector-size={sector_size}", device_object
        )
        try:
            kind = await self._run("blkid", "-p", "-o", "value", "-s", "TYPE", loop)
            await self._run("mount", "-t", kind, "-o", OPTIONS.get(kind, COMMON), loop, place)
        finally:
            await run_command(["losetup", "--detach", loop], self._limits.command_ms)

    async def unmount(self, place: str, lazy: bool) -> None:
        """Unmount what is mounted there, if anything. Errors: VSS_E_VOLUME_IN_USE."""
        if is_mount_point(place):
            options = ["--lazy"] if lazy else []
            status, _, complaint = await run_command(["umount", *options, place], self._limits.command_ms)
            if status != 0:
                raise VssError(Code.VSS_E_VOLUME_IN_USE, f"the copy at {place} cannot be unmounted: {complaint}")
        if place.startswith(f"{self._paths.mounts}/"):
            try:
                os.rmdir(place)
            except OSError:
                pass

    async def _wait_for(self, device_object: str) -> None:
        end = time.monotonic() + DEVICE_WAIT_S
        while not os.path.exists(device_object):
            if time.monotonic() > end:
                raise VssError(
                    Code.VSS_E_OBJECT_NOT_FOUND,
                    f"the device object {device_object} does not appear; is shadowset-fuse running?",
                )
            await asyncio.sleep(0.05)

    async def _run(self, *command: str) -> str:
        status, output, complaint = await run_command(command, self._limits.command_ms)
        if status != 0 or (command[0] in ("losetup", "blkid") and not output):
            reason = complaint or "no file system was recognised"
            raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, f"the copy cannot be mounted: {command[0]}: {reason}")
        return output
