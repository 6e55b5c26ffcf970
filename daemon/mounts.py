"""What is mounted, from /proc/self/mountinfo and /sys: the file systems on a device, the device below a path."""

from __future__ import annotations

import os
import stat

from shadowset.vss.mountinfo import Mount, parse_mountinfo


def read_mounts() -> list[Mount]:
    """The mounts that this process sees."""
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def device_number(path: str) -> str:
    """``major:minor`` of a block device node, or "" when the path is none."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    if not stat.S_ISBLK(status.st_mode):
        return ""
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def device_identity(node: str) -> str:
    """What a loop or nbd device serves, as the kernel names it; "" for none, since numbers are given again."""
    base = f"/sys/block/{os.path.basename(os.path.realpath(node))}"
    for name in ("loop/backing_file", "backend"):
        try:
            with open(f"{base}/{name}", errors="surrogateescape") as file:
                return file.read().strip()
        except OSError:
            continue
    return ""


def loop_backing(number: str) -> str:
    """The path behind the loop device ``major:minor`` as the kernel names it now; "" for none."""
    return _line(f"/sys/dev/block/{number}/loop/backing_file")


def device_family(number: str) -> set[str]:
    """A device, its partitions, and whatever the kernel has stacked on them (dm, md)."""
    family: set[str] = set()
    waiting = [number] if number else []
    while waiting:
        current = waiting.pop()
        if current in family:
            continue
        family.add(current)
        base = f"/sys/dev/block/{current}"
        waiting += _numbers_below(base, "partition") + _numbers_below(f"{base}/holders", "dev")
    return family


def _numbers_below(base: str, mark: str) -> list[str]:
    try:
        names = os.listdir(base)
    except OSError:
        return []
    numbers = []
    for name in names:
        if os.path.exists(f"{base}/{name}/{mark}"):
            try:
                with open(f"{base}/{name}/dev") as file:
                    numbers.append(file.read().strip())
            except OSError:
                pass
    return numbers


def mounts_of(device: str, mounts: list[Mount] | None = None) -> list[Mount]:
    """Mounts of the file systems on a device node or on anything stacked on it.

    A file system with a device number of its own (btrfs) is found by the device it names as its source.
    """
    family = device_family(device_number(device)) if device else set()
    if not family:
        return []
    table = read_mounts() if mounts is None else mounts
    return [mount for mount in table if mount.device in family or _source_number(mount) in family]


def _source_number(mount: Mount) -> str:
    return device_number(mount.source) if mount.device.startswith("0:") and mount.source.startswith("/dev/") else ""


def mount_of_path(path: str, mounts: list[Mount] | None = None) -> Mount | None:
    """The mount that a path lies on: the deepest one above it, the last of those stacked in one place."""
    real = os.path.realpath(path)
    found = None
    for mount in read_mounts() if mounts is None else mounts:
        above = mount.path.rstrip("/")
        if (real == mount.path or real.startswith(above + "/")) and (
            found is None or len(mount.path) >= len(found.path)
        ):
            found = mount
    return found


def device_of_path(path: str, mounts: list[Mount] | None = None) -> str:
    """``major:minor`` of the device below a path's file system."""
    mount = mount_of_path(path, mounts)
    return (_source_number(mount) or mount.device) if mount else ""


def devices_below(path: str) -> set[str]:
    """``major:minor`` of all devices that hold an image file or block device, itself included.

    Followed down through partitions, stacked devices (dm, md) and the backing files of loop devices.
    """
    below: set[str] = set()
    waiting = [device_number(path) or device_of_path(path)]
    while waiting:
        current = waiting.pop()
        if not current or current in below:
            continue
        below.add(current)
        base = os.path.realpath(f"/sys/dev/block/{current}")
        waiting += _numbers_below(f"{base}/slaves", "dev")
        if os.path.exists(f"{base}/partition"):
            waiting.append(_line(f"{os.path.dirname(base)}/dev"))
        backing = loop_backing(current)
        if backing:
            waiting.append(device_of_path(backing))
    return below


def _line(path: str) -> str:
    try:
        with open(path, errors="surrogateescape") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""
