"""Mounting and unmounting a file system with the options that it has, and who is in the way."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from shadowset.requester.backup.mounts import MOUNTINFO, read_mounts
from shadowset.requester.volumes.holders import holders_of, sentence
from shadowset.vss.codes import Code, VssError
from shadowset.vss.mountinfo import Mount

_BY_THE_KERNEL = ("seclabel", "relatime")


@dataclass(frozen=True)
class Mounted:
    """A file system's one mount: where, its type, and the options to mount it so again."""

    path: str
    fs_type: str
    options: str


def mounted(device: str) -> Mounted | None:
    """How the file system of a block device is mounted. Errors: VSS_E_VOLUME_IN_USE for several mounts, or parts."""
    mounts = mounts_of(device)
    if not mounts:
        return None
    if len(mounts) > 1 or mounts[0].root != "/":
        places = ", ".join(each.path for each in mounts)
        message = f"{device} is mounted at {places}; leave one mount of the whole file system and try again"
        raise VssError(Code.VSS_E_VOLUME_IN_USE, message)
    return Mounted(mounts[0].path, mounts[0].fs_type, options_of(mounts[0]))


def mounts_of(device: str) -> list[Mount]:
    """All mounts of a block device, by number, or by name where the file system has a number of its own."""
    number = os.stat(device).st_rdev
    text = f"{os.major(number)}:{os.minor(number)}"
    return [each for each in read_mounts() if each.device == text or _is_source(each, number)]


def _is_source(mount: Mount, number: int) -> bool:
    if not (mount.device.startswith("0:") and mount.source.startswith("/dev/")):
        return False
    try:
        return os.stat(mount.source).st_rdev == number
    except OSError:
        return False


def options_of(mount: Mount) -> str:
    """Options of mount and file system, as the kernel lists them."""
    with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
        line = next(line for line in file if line.split(" ", 1)[0] == str(mount.mount_id))
    before, _, after = line.rstrip("\n").partition(" - ")
    words = [*before.split(" ")[5].split(","), *after.split(" ")[2].split(",")]
    return ",".join(dict.fromkeys(word for word in words if word not in _BY_THE_KERNEL))


def refuse_when_used(device: str, place: Mounted) -> None:
    """Errors: VSS_E_VOLUME_IN_USE naming processes, or what is mounted below."""
    below = [each.path for each in read_mounts() if each.path.startswith(place.path.rstrip("/") + "/")]
    if below:
        message = f"{', '.join(below)} is mounted below {place.path}; unmount that first"
        raise VssError(Code.VSS_E_VOLUME_IN_USE, message)
    users = holders_of(os.stat(place.path).st_dev)
    if users:
        message = f"{place.path} ({device}) is used by {sentence(users)}; stop them first"
        raise VssError(Code.VSS_E_VOLUME_IN_USE, message)


def mount(source: str, place: Mounted) -> None:
    """Errors: VSS_E_UNEXPECTED with mount's own sentence."""
    _run("mount", "-t", place.fs_type, "-o", place.options, source, place.path)


def unmount(device: str, place: Mounted) -> None:
    """Errors: VSS_E_VOLUME_IN_USE naming who uses it, VSS_E_UNEXPECTED."""
    try:
        _run("umount", place.path)
    except VssError:
        refuse_when_used(device, place)
        raise


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    except OSError as error:
        raise VssError(Code.VSS_E_UNEXPECTED, f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        message = (done.stderr.strip() or done.stdout.strip() or "failed").splitlines()[0]
        raise VssError(Code.VSS_E_UNEXPECTED, message)
