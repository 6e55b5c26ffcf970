"""Who uses a block device: mount points, swap and holders, so that a refusal can name them."""

from __future__ import annotations

import errno
import glob
import os
import re

from shadowset.vss.codes import Code, VssError


def mounts(table: str, numbers: set[str], sources: set[str]) -> list[str]:
    """Mount points in the text of a mountinfo file whose device number or source is one of these. Pure."""
    found = []
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        source = after.split(" ")[1]
        if fields[2] in numbers or source in sources:
            found.append(_unescape(fields[4]))
    return found


def mounted_from(device: str) -> list[str]:
    """Where file systems on this device and its partitions are mounted, in the order in which they were."""
    block = f"/sys/block/{os.path.basename(device)}"
    nodes = [block, *(os.path.dirname(path) for path in glob.glob(f"{block}/*/partition"))]
    numbers = {_read(f"{node}/dev") for node in nodes}
    return mounts(_mountinfo(), numbers, {f"/dev/{os.path.basename(node)}" for node in nodes})


def mounted_at(path: str) -> bool:
    """Whether something is mounted at exactly this (real) path."""
    return any(_unescape(line.split(" ")[4]) == path for line in _mountinfo().splitlines())


def refuse_when_used(device: str, name: str, look_only: bool = False) -> None:
    """Errors: VssError with VSS_E_VOLUME_IN_USE that names the mount point or holder. A vanished device is unused.

    With ``look_only`` the device is not opened, which would wait while someone else's close waits for a dead server;
    then a use that no table shows goes unseen.
    """
    sentence = _known_use(device, name)
    if not sentence and not look_only and _taken(device, name):
        sentence = f"volume {name} ({device}) is in use, perhaps in another mount namespace: release it there first"
    if sentence:
        raise VssError(Code.VSS_E_VOLUME_IN_USE, sentence)


def _taken(device: str, name: str) -> bool:
    """Whether the kernel refuses to give the device to us alone."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        if error.errno not in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            raise VssError(Code.VSS_E_UNEXPECTED, f"cannot open {device} of volume {name}: {error.strerror}") from error
    return False


def _known_use(device: str, name: str) -> str:
    """A sentence about the use that the kernel's tables show, or ""."""
    points = mounted_from(device)
    if points:
        return f"volume {name} ({device}) is mounted on {', '.join(points)}: unmount it first"
    if any(line.split()[0] == device for line in _read("/proc/swaps").splitlines()[1:]):
        return f"volume {name} ({device}) is in use as swap: swapoff it first"
    block = f"/sys/block/{os.path.basename(device)}"
    holders = os.listdir(f"{block}/holders") if os.path.isdir(f"{block}/holders") else []
    if holders:
        return f"volume {name} ({device}) is held by {', '.join(holders)}: remove that first"
    return ""


def _mountinfo() -> str:
    return _read("/proc/self/mountinfo")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().strip()
    except OSError:
        return ""


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
