"""Mounted btrfs file systems: which subvolume a path means, where it is mounted, and a private mount of the whole.

Snapshots lie at the top of their file system, which is seldom mounted itself, so each file system that has some gets a
mount of its own below the provider's run-time directory. It goes when nobody else has the file system mounted.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from uuid import UUID

from shadowset.btrfs_provider import calls
from shadowset.vss.codes import Code, VssError
from shadowset.vss.mountinfo import Mount, parse_mountinfo

PREFIX = "btrfs:"
STORE = ".shadowset"
"""Directory at the top of a file system that holds its snapshots."""


@dataclass(frozen=True)
class Subvolume:
    """A subvolume by its file system and its path from the top of that: ``/`` is the top itself."""

    filesystem: UUID
    path: str

    @property
    def name(self) -> str:
        """As the volume is named everywhere; stays the same wherever it is mounted."""
        return f"{PREFIX}{self.filesystem}:{self.path}"


def parse_name(name: str) -> Subvolume | None:
    """The subvolume with this name; None when it is not one of ours."""
    text, separator, path = name.removeprefix(PREFIX).partition(":")
    try:
        return Subvolume(UUID(text), path) if name.startswith(PREFIX) and separator and path[:1] == "/" else None
    except ValueError:
        return None


def read_mounts() -> list[Mount]:
    """All mounts that this process sees."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def _is_no_volume(mount: Mount) -> bool:
    """Nobody's volume: a snapshot of ours, or another kind of file system."""
    return mount.fs_type != "btrfs" or mount.root.startswith(f"/{STORE}/")


def filesystem_of(path: str) -> UUID | None:
    """The UUID of the btrfs file system at a path; None for another one, or one that cannot be asked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return calls.filesystem_id(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)


class FileSystems:
    """The file systems that hold snapshots of ours. ``trees`` is where those are shown."""

    def __init__(self, runtime: str, state: str, trees: str) -> None:
        self._runtime = runtime
        self._trees = trees
        self._list = f"{state}/filesystems.json"

    def mounts(self, filesystem: UUID) -> list[Mount]:
        """Where others have it mounted."""
        others = [mount for mount in read_mounts() if not mount.path.startswith(f"{self._runtime}/")]
        return [mount for mount in others if not _is_no_volume(mount) and filesystem_of(mount.path) == filesystem]

    def subvolume_at(self, path: str) -> Subvolume | None:
        """The subvolume that a path lies in; None when that is not on btrfs."""
        real = os.path.realpath(path)
        root = real if os.path.isdir(real) else os.path.dirname(real)
        above = [mount for mount in read_mounts() if _inside(root, mount.path)]
        mount = max(reversed(above), key=lambda each: len(each.path), default=None)
        filesystem = filesystem_of(root)
        if mount is None or filesystem is None or _is_no_volume(mount):
            return None
        while not _is_root(root) and root != mount.path:
            root = os.path.dirname(root)
        if not _is_root(root):
            return None
        inside = os.path.normpath(mount.root + root[len(mount.path.rstrip("/")) :])
        return Subvolume(filesystem, "/" + inside.lstrip("/"))

    def places(self, subvolume: Subvolume) -> list[str]:
        """Where a subvolume can be seen: at mounts of it, or below mounts of what holds it."""
        found = []
        for mount in self.mounts(subvolume.filesystem):
            if _inside(subvolume.path, mount.root):
                rest = subvolume.path[len(mount.root.rstrip("/")) :]
                place = os.path.normpath(mount.path + rest)
                if _is_root(place) and filesystem_of(place) == subvolume.filesystem:
                    found.append(place)
        return sorted(set(found), key=lambda place: (len(place), place))

    # ---- the private mounts ----

    def top(self, filesystem: UUID) -> str:
        """Where the whole file system is mounted for us. Errors: VSS_E_VOLUME_NOT_SUPPORTED when it is away."""
        place = f"{self._runtime}/{filesystem}"
        others = self.mounts(filesystem)
        if not others:
            self._let_go(filesystem)
            raise VssError(
                Code.VSS_E_VOLUME_NOT_SUPPORTED,
                f"the btrfs file system {filesystem} is not mounted; mount it to have its copies",
            )
        read_only = all(is_read_only(mount.path) for mount in others)
        os.makedirs(place, mode=0o700, exist_ok=True)
        if filesystem_of(place) == filesystem:
            if read_only == is_read_only(place):
                return place
            calls.unmount(place)
        try:
            calls.mount_top(others[0].source, place, read_only)
        except OSError as error:
            raise VssError(
                Code.VSS_E_VOLUME_NOT_SUPPORTED,
                f"the top of the btrfs file system on {others[0].source} cannot be mounted: {error.strerror}",
            ) from None
        return place

    def _let_go(self, filesystem: UUID) -> None:
        """Whoever unmounted the file system expects its devices to be free."""
        for mount in self.shown():
            if filesystem_of(mount.path) == filesystem:
                calls.unmount(mount.path)
        calls.unmount(f"{self._runtime}/{filesystem}")

    def shown(self) -> list[Mount]:
        """Our snapshots where everybody sees them."""
        mounts = [mount for mount in read_mounts() if mount.path.startswith(f"{self._trees}/")]
        return [mount for mount in mounts if mount.root.startswith(f"/{STORE}/")]

    def known(self) -> list[UUID]:
        """File systems that have had snapshots of ours."""
        try:
            with open(self._list, encoding="utf-8") as file:
                return [UUID(text) for text in json.load(file)]
        except FileNotFoundError:
            return []

    def remember(self, filesystem: UUID) -> None:
        """From now on it is one of them."""
        known = self.known()
        if filesystem not in known:
            with open(f"{self._list}.new", "w", encoding="utf-8") as file:
                json.dump([str(each) for each in [*known, filesystem]], file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(f"{self._list}.new", self._list)


def _inside(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def is_read_only(path: str) -> bool:
    """The mount, or its file system."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _is_root(path: str) -> bool:
    try:
        return os.stat(path).st_ino == calls.ROOT_INODE
    except OSError:
        return False
