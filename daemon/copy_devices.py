"""Shadow copies as read-only block devices, on request: by the kernel's nbd, else a loop device over the device object.

A device stays, whatever becomes of the coordinator, until it is taken away or its copy goes. Each has a directory below
the run-time directory, so that the next coordinator finds it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct

from shadowset.daemon.catalogue import VolumeRow
from shadowset.daemon.commands import Commands
from shadowset.daemon.loop_device import AUTO_CLEAR, INFO, open_loop
from shadowset.daemon.mounts import device_number, loop_backing, mounts_of
from shadowset.daemon.process import in_thread, run_command
from shadowset.daemon.readers import readers_of
from shadowset.daemon.served_copies import ServedCopies, Serving
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import DEVICE_PREFIX, Paths
from shadowset.vss.requester_protocol import SnapshotProperties

LOOP_SET_STATUS64, LOOP_GET_STATUS64 = 0x4C04, 0x4C05
FLAGS_AT = 52
SYS_NBD = "/sys/module/nbd"
WAYS = ("auto", "nbd", "loop")


class CopyDevices(ServedCopies):
    """Those that are there."""

    def __init__(self, paths: Paths, commands: Commands, timeout_ms: int) -> None:
        super().__init__(paths.copy_devices, commands, Serving(commands.export, "copy", via="nbd"))
        self._timeout_ms = timeout_ms

    async def attach(self, copy: SnapshotProperties, row: VolumeRow | None, sector_size: int, via: str) -> str:
        """The block device; the same one when there is one. Errors: VssError, and nothing is left behind."""
        if via not in WAYS:
            raise VssError(Code.E_INVALIDARG, f"{via[:20]!r} is no way to attach a copy; use one of {', '.join(WAYS)}")
        if os.path.isdir(copy.device_object):
            message = f"shadow copy {copy.snapshot_id} is a directory, {copy.device_object}, and no device"
            raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, message)
        present = self.device(copy.snapshot_id)
        if present and self._lives(copy, present):
            return present
        await self.drop(copy.snapshot_id)
        if via == "auto":
            via = "nbd" if row and os.path.isdir(SYS_NBD) else "loop"
        if via == "nbd" and row:
            return await self.open(row, copy.snapshot_id)
        if via == "nbd":
            message = f"shadow copy {copy.snapshot_id} is of no protected volume; attach it with the way 'loop'"
            raise VssError(Code.VSS_E_NOT_SUPPORTED, message)
        return await in_thread(lambda: self._loop(copy, sector_size))

    def _lives(self, copy: SnapshotProperties, device: str) -> bool:
        return self._find(copy.snapshot_id) is not None or _is_over(copy.device_object, device)

    def _loop(self, copy: SnapshotProperties, sector_size: int) -> str:
        """It clears itself until it is recorded."""
        descriptor, device = open_loop(copy.device_object, sector_size)
        try:
            links = f"{self._directory}/{copy.snapshot_id}/by-name"
            os.makedirs(links, mode=0o700)
            os.symlink(device, f"{links}/{self._name(copy.snapshot_id)}")
            status = bytearray(fcntl.ioctl(descriptor, LOOP_GET_STATUS64, bytes(INFO.size)))
            (flags,) = struct.unpack_from("=I", status, FLAGS_AT)
            struct.pack_into("=I", status, FLAGS_AT, flags & ~AUTO_CLEAR)
            fcntl.ioctl(descriptor, LOOP_SET_STATUS64, bytes(status))
        finally:
            os.close(descriptor)
        return device

    async def detach(self, copy: SnapshotProperties, force: bool = False) -> bool:
        """Take the device away, if there is one. Errors: VSS_E_VOLUME_IN_USE, unless ``force``."""
        device = self.device(copy.snapshot_id)
        if not device:
            return False
        users = [] if force else await in_thread(lambda: _users(device))
        if users:
            message = f"{device}, a shadow copy, is used by {', '.join(users[:5])}; wait for it, or end it"
            raise VssError(Code.VSS_E_VOLUME_IN_USE, message)
        await self.drop(copy.snapshot_id)
        return True

    async def keep_only(self, copies: list[SnapshotProperties]) -> None:
        """Take away the devices of all others."""
        known = {copy.snapshot_id for copy in copies}
        for snapshot_id in self._there():
            if snapshot_id not in known:
                await self.drop(snapshot_id)

    async def drop(self, snapshot_id: str) -> None:
        """See ``ServedCopies``. A loop device that somebody still has open goes with its last user."""
        device = self.device(snapshot_id)
        if not device.startswith("/dev/loop"):
            await super().drop(snapshot_id)
            return
        backing = os.path.basename(loop_backing(device_number(device)))
        if backing.startswith(DEVICE_PREFIX):
            await run_command(["losetup", "--detach", device], self._timeout_ms)
        shutil.rmtree(f"{self._directory}/{snapshot_id}", ignore_errors=True)


def _users(device: str) -> list[str]:
    return [f"the mount {mount.path}" for mount in mounts_of(device)] + readers_of(device)


def _is_over(device_object: str, device: str) -> bool:
    return loop_backing(device_number(device)) == os.path.realpath(device_object)
