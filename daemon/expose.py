"""Mounting a shadow copy read-only: device object → read-only loop device → file system.

The loop device clears itself with its last user, so unmounting is all that is needed to undo everything, also after a
crash, and a lazy unmount frees it when its last reader has gone.

A file system that was frozen for the cut needs nothing that is only in its log. Any other may have a log to replay:
without it the newest files would be missing, though they were synced. So the copy is mounted as it is only where the
kernel finds its log clean; else the log is replayed in private changes over the copy, which go with the mount.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import time

from shadowset.daemon.catalogue import VolumeRow
from shadowset.daemon.limits import Limits
from shadowset.daemon.loop_device import open_loop
from shadowset.daemon.mounts import device_number, loop_backing, read_mounts
from shadowset.daemon.process import in_thread, run_command
from shadowset.daemon.scratch import ScratchCopies
from shadowset.vss.codes import Code, VssError
from shadowset.vss.mountinfo import Mount
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import SnapshotProperties

BLKSSZGET = 0x1268
DEVICE_WAIT_S = 10.0
COMMON = "ro,nosuid,nodev"
OPTIONS = {"xfs": f"{COMMON},nouuid"}
FROZEN_OPTIONS = {"xfs": f"{COMMON},nouuid,norecovery"}
"""XFS leaves its log marked when it is frozen, with nothing in it that is not in its place as well."""
LOGLESS_OPTIONS = {**FROZEN_OPTIONS, "ext3": f"{COMMON},noload", "ext4": f"{COMMON},noload"}
LOGLESS_OPTIONS["btrfs"] = f"{COMMON},rescue=nologreplay"
"""For copies over which nothing can be changed: those of other hosts."""
WITH_LOG = ("ext3", "ext4", "xfs", "btrfs")
BTRFS_LOG_ROOT = (0x10000 + 96, 8)


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


def check_empty(directory: str) -> None:
    """Errors: VSS_E_OBJECT_ALREADY_EXISTS when something is mounted there, or lies in it."""
    if is_mount_point(directory):
        raise _occupied(f"something is mounted at {directory} already")
    if os.listdir(directory):
        raise _occupied(f"directory {directory} is not empty")


def _occupied(what: str) -> VssError:
    return VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"{what}; give an empty directory")


def is_dead(copy: SnapshotProperties, mount: Mount | None) -> bool:
    """Whether a mount of this copy reads from a device object whose server has died: the kernel has lost its path."""
    directory, name = os.path.split(copy.device_object)
    backing = loop_backing(mount.device) if mount else ""
    return os.path.basename(backing) == name and backing != f"{os.path.realpath(directory)}/{name}"


def is_mounted(copy: SnapshotProperties, mounts: list[Mount]) -> bool:
    """Whether the copy can be what is mounted where it was exposed: somebody may have unmounted it by hand."""
    there = [mount for mount in mounts if mount.path == copy.exposed_name]
    if not there or there[-1].fs_type == "tmpfs":
        return False
    backing = loop_backing(there[-1].device)
    name = os.path.basename(backing)
    objects = os.path.realpath(os.path.dirname(copy.device_object))
    return os.path.dirname(backing) != objects or name == os.path.basename(copy.device_object)


class Exposer:
    """Mounts and unmounts copies; every command is bounded in time."""

    def __init__(self, paths: Paths, limits: Limits, scratch: ScratchCopies) -> None:
        self._paths = paths
        self._limits = limits
        self._scratch = scratch

    def place(self, snapshot_id: str, path: str) -> str:
        """The mount point: the one asked for, or one below the run-time directory. Errors: VssError."""
        if not path:
            place = f"{self._paths.mounts}/{snapshot_id}"
            os.makedirs(place, exist_ok=True)
            return place
        if not os.path.isabs(path) or not os.path.isdir(path):
            raise VssError(
                Code.E_INVALIDARG, f"there is no directory {path}; make it, or give another one by its absolute path"
            )
        place = os.path.realpath(path)
        check_empty(place)
        return place

    async def mount(self, copy: SnapshotProperties, place: str, row: VolumeRow | None) -> None:
        """Mount a copy; ``row`` is its volume, when that is a protected one. Errors: VssError; nothing is left then."""
        source = copy.device_object
        await self._wait_for(source)
        if os.path.isdir(source):
            await self._run("mount", "--bind", "-o", COMMON, source, place)
            return
        sector_size = logical_sector_size(row.origin) if row else 512
        descriptor, loop = await in_thread(lambda: open_loop(source, sector_size))
        try:
            kind = await self._run("blkid", "-p", "-o", "value", "-s", "TYPE", loop)
            frozen = FROZEN_OPTIONS.get(kind) if copy.mount_points else None
            refusal = await self._try(kind, frozen or OPTIONS.get(kind, COMMON), loop, place)
            if refusal and row is None and kind in LOGLESS_OPTIONS:
                refusal = await self._try(kind, LOGLESS_OPTIONS[kind], loop, place)
        finally:
            await in_thread(lambda: os.close(descriptor))
        if refusal and row and kind in WITH_LOG:
            try:
                await self._scratch.mount(row, copy.snapshot_id, lambda device: self._change(kind, device, place))
            except VssError as error:
                raise _failed(f"{refusal}; nor can its log be replayed: {error.message}") from None
        elif refusal:
            raise _failed(refusal)

    async def _change(self, kind: str, device: str, place: str) -> None:
        """Let the kernel replay the log; on a device that takes writes it does so for a read-only mount too."""
        if kind == "btrfs":
            await self._renumber(device)
        refusal = await self._try(kind, OPTIONS.get(kind, COMMON), device, place)
        if refusal:
            raise _failed(refusal)

    async def _renumber(self, device: str) -> None:
        """Before Linux 6.7, btrfs mounts no second file system with the UUID of one that is mounted."""
        uuid = await self._run("blkid", "-p", "-o", "value", "-s", "UUID", device)
        if not os.path.isdir(f"/sys/fs/btrfs/{uuid}") or os.path.exists("/sys/fs/btrfs/features/temp_fsid"):
            return
        if await in_thread(lambda: _btrfs_has_log(device)):
            raise _failed(f"its UUID {uuid} is mounted; unmount the live file system, or use Linux 6.7 or later")
        await self._run("btrfstune", "-m", device)

    async def _try(self, kind: str, options: str, device: str, place: str) -> str:
        """Mount; returns why not, or ""."""
        command = ["mount", "-t", kind, "-o", options, device, place]
        status, _, complaint = await run_command(command, self._limits.command_ms)
        return f"mount: {complaint or 'failed'}" if status else ""

    async def unmount(self, place: str, lazy: bool) -> None:
        """Unmount what is mounted there, if anything. Errors: VSS_E_VOLUME_IN_USE."""
        if is_mount_point(place):
            options = ["--lazy"] if lazy else []
            status, _, complaint = await run_command(["umount", *options, place], self._limits.command_ms)
            if status != 0:
                cause = complaint.removeprefix("umount: ").removeprefix(f"{place}: ").rstrip(".")
                message = f"the copy at {place} cannot be unmounted: {cause}; end what uses it and try again"
                raise VssError(Code.VSS_E_VOLUME_IN_USE, message)
            await self._scratch.release()
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
                    f"the device object {device_object} does not appear; 'shadowset doctor' says whether "
                    f"shadowset-fuse, which shows it, is running",
                )
            await asyncio.sleep(0.05)

    async def _run(self, *command: str) -> str:
        status, output, complaint = await run_command(command, self._limits.command_ms)
        if status != 0 or (command[0] == "blkid" and not output):
            raise _failed(f"{command[0]}: {complaint or 'no file system was recognised'}")
        return output


def _failed(reason: str) -> VssError:
    return VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, f"the copy cannot be mounted: {reason}")


def _btrfs_has_log(device: str) -> bool:
    """Whether the superblock names a tree of what was synced since the last commit."""
    offset, length = BTRFS_LOG_ROOT
    with open(device, "rb") as file:
        return any(os.pread(file.fileno(), length, offset))
