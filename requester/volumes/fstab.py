"""The line for /etc/fstab that attaches a volume at boot and mounts what is on it."""

from __future__ import annotations

import os

from shadowset.requester.backup.mounts import read_mounts
from shadowset.requester.break_copy import probe
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import VolumeInfo


def escape(field: str) -> str:
    """As fstab(5) wants spaces and their like."""
    return "".join(f"\\{ord(each):03o}" if each in " \t\n\\#" else each for each in field)


def fstab_line(volume: VolumeInfo, place: str = "", options: str = "defaults", kind: str = "") -> str:
    """The line, of six fields. Errors: VssError when place or type of its file system cannot be known."""
    if not place and not volume.mount_points:
        message = f"volume {volume.name} is mounted nowhere; say where it is to be mounted"
        raise VssError(Code.E_INVALIDARG, message)
    place = os.path.abspath(place or volume.mount_points[0])
    kind = kind or type_on(volume)
    source = Paths.from_environment(os.environ).by_name(volume.name)
    wanted = f"{options},x-systemd.requires=shadowset-attach@{volume.name}.service"
    return "\t".join([source, escape(place), kind, wanted, "0", "0"])


def type_on(volume: VolumeInfo) -> str:
    """The type of the file system on its device. Errors: VSS_E_BAD_STATE, VSS_E_OBJECT_NOT_FOUND."""
    if not volume.device:
        raise VssError(Code.VSS_E_BAD_STATE, f"volume {volume.name} is not attached; attach it first")
    mounted = [mount.fs_type for mount in read_mounts() if mount.path in volume.mount_points]
    return mounted[0] if mounted else file_system(volume.device)


def file_system(device: str) -> str:
    """What blkid finds. Errors: VSS_E_OBJECT_NOT_FOUND when it finds no file system, VSS_E_UNEXPECTED."""
    found = probe(device, "TYPE")
    if not found:
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no file system on {device}; make one first")
    return found
