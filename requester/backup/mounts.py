"""Which protected volume a path lies on, and where below the volume's root."""

from __future__ import annotations

import os
from dataclasses import dataclass

from shadowset.vss.mountinfo import Mount, parse_mountinfo
from shadowset.vss.requester_protocol import VolumeInfo

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
    """Protected volumes laid over the mount table."""

    def __init__(self, volumes: list[VolumeInfo], mounts: list[Mount]) -> None:
        self._mounts: dict[str, Mount] = {}
        self._volumes: dict[str, str] = {}
        self.names = [volume.name for volume in volumes]
        for mount in mounts:
            self._mounts[mount.path] = mount
        for volume in volumes:
            for mount_point in volume.mount_points:
                self._volumes[mount_point] = volume.name
                self._mounts.setdefault(mount_point, Mount(0, "", "/", mount_point, "", ""))

    def locate(self, path: str) -> Place | None:
        """Where the absolute ``path`` lies (symbolic links followed); None when on no protected volume."""
        resolved = os.path.realpath(path)
        mount = self._mount_of(resolved)
        volume = self._volumes.get(mount.path) if mount else None
        if mount is None or volume is None:
            return None
        inside = os.path.relpath(resolved, mount.path)
        parts = [part for part in (mount.root.strip("/"), "" if inside == "." else inside) if part]
        return Place(volume, "/".join(parts))

    def nested(self, path: str) -> list[str]:
        """Mount points strictly below ``path``, on protected volumes or not."""
        resolved = os.path.realpath(path)
        return sorted(point for point in self._mounts if point != resolved and is_below(point, resolved))

    def _mount_of(self, resolved: str) -> Mount | None:
        directory = resolved
        while directory not in self._mounts:
            if directory == "/":
                return None
            directory = os.path.dirname(directory)
        return self._mounts[directory]
