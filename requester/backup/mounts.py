"""Which volume a path lies on, and where below the volume's root."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from shadowset.vss.mountinfo import Mount, parse_mountinfo
from shadowset.vss.requester_protocol import SupportedVolume, VolumeInfo

MOUNTINFO = "/proc/self/mountinfo"


@dataclass(frozen=True)
class Place:
    """A path as seen by its volume: ``relative`` to the root of the volume's file system, "" for the root itself."""

    volume: str
    relative: str


def read_mounts() -> list[Mount]:
    """The mounts that this process sees; a later one hides an earlier one on the same directory."""
    with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def is_below(path: str, directory: str) -> bool:
    """Whether ``path`` is ``directory`` or lies in it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


class VolumeMap:
    """Protected volumes, and others that can be copied as they are, laid over the mount table."""

    def __init__(self, volumes: list[VolumeInfo], mounts: list[Mount], others: Sequence[SupportedVolume] = ()) -> None:
        self._mounts: dict[str, Mount] = {}
        self._volumes: dict[str, str] = {}
        self._whole: set[str] = set()
        self.names = [volume.name for volume in volumes] + [volume.name for volume in others]
        self.not_held = frozenset(volume.name for volume in others if not volume.holds)
        for mount in mounts:
            self._mounts[mount.path] = mount
        for volume in volumes:
            self._add(volume.name, volume.mount_points)
        for other in others:
            self._add(other.name, other.mount_points)
            self._whole.update(other.mount_points)

    def _add(self, name: str, mount_points: list[str]) -> None:
        for mount_point in mount_points:
            self._volumes[mount_point] = name
            self._mounts.setdefault(mount_point, Mount(0, "", "/", mount_point, "", ""))

    def locate(self, path: str) -> Place | None:
        """Where the absolute ``path`` lies (symbolic links followed); None when it is on no volume.

        A subvolume that is no mount of its own is on none: the copy of what holds it has an empty directory there.
        """
        resolved = os.path.realpath(path)
        mount = self._mount_of(resolved)
        volume = self._volumes.get(mount.path) if mount else None
        if mount is None or volume is None:
            return None
        whole = mount.path in self._whole
        if whole and _device(resolved) != _device(mount.path):
            return None
        inside = os.path.relpath(resolved, mount.path)
        root = "" if whole else mount.root.strip("/")
        return Place(volume, "/".join(part for part in (root, "" if inside == "." else inside) if part))

    def nested(self, path: str) -> list[str]:
        """Mount points strictly below ``path``, on a volume or not."""
        resolved = os.path.realpath(path)
        return sorted(point for point in self._mounts if point != resolved and is_below(point, resolved))

    def _mount_of(self, resolved: str) -> Mount | None:
        directory = resolved
        while directory not in self._mounts:
            if directory == "/":
                return None
            directory = os.path.dirname(directory)
        return self._mounts[directory]


def _device(path: str) -> int:
    """The device number of the nearest thing that is there."""
    while True:
        try:
            return os.stat(path).st_dev
        except (FileNotFoundError, NotADirectoryError):
            path = os.path.dirname(path)
