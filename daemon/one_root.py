"""All copies of a set below one directory, at the paths that their volumes had when the set was cut.

Each copy is mounted where a single one would be, and bound from there to each of its places. Where no copy covers
the directory itself, or a directory on the way to a place, an empty read-only memory file system does. What is mounted
stands in the catalogue before it is mounted, so that another coordinator finds all of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from shadowset.daemon.catalogue import Catalogue
from shadowset.daemon.expose import check_empty
from shadowset.daemon.mounts import read_mounts
from shadowset.daemon.process import run_command
from shadowset.vss.codes import Code, VssError
from shadowset.vss.requester_protocol import SnapshotProperties

OPTIONS = "ro,nosuid,nodev"
FILLER = "shadowset"
"""The source, as the mount table shows it, of the memory file systems."""


class Tree(msgspec.Struct):
    """One that is mounted at ``root``: its mount points, outer ones first, and the copies that were mounted for it."""

    root: str
    points: list[str] = []
    exposed: list[str] = []


@dataclass(frozen=True)
class Part:
    """A place of a volume: its path then, the copy, and which directory of the copy was there."""

    path: str
    snapshot_id: str
    inside: str


def parts_of(copies: Iterable[SnapshotProperties]) -> list[Part]:
    """Outer ones before inner ones. Errors: VSS_E_OBJECT_NOT_FOUND when nothing was mounted."""
    found = {}
    for copy in copies:
        roots = copy.mount_roots or ["/"] * len(copy.mount_points)
        for path, inside in zip(copy.mount_points, roots, strict=False):
            found[path] = Part(path, copy.snapshot_id, inside)
    if not found:
        message = "no volume of this set was mounted when it was cut, so they have no paths; mount single copies"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
    return [found[path] for path in sorted(found)]


class Trees:
    """The trees of all sets, as the catalogue has them."""

    def __init__(self, catalogue: Catalogue, timeout_ms: int) -> None:
        self._catalogue = catalogue
        self._timeout_ms = timeout_ms

    def of(self, set_id: str) -> Tree | None:
        """The tree of a set."""
        stored = self._catalogue.setting(_key(set_id))
        return msgspec.json.decode(stored, type=Tree) if stored else None

    def check_root(self, set_id: str, root: str) -> str:
        """The directory by its real path. Errors: E_INVALIDARG, VSS_E_OBJECT_ALREADY_EXISTS."""
        tree = self.of(set_id)
        if tree:
            message = f"the copies of this set are mounted at {tree.root} already; unmount them first"
            raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"{message} ('shadowset umount {tree.root}')")
        if not os.path.isabs(root) or not os.path.isdir(root):
            raise VssError(
                Code.E_INVALIDARG, f"there is no directory {root}; make it, or give another one by its absolute path"
            )
        real = os.path.realpath(root)
        check_empty(real)
        return real

    async def mount(self, set_id: str, tree: Tree, parts: list[Part], places: dict[str, str]) -> dict[str, str]:
        """Bind the copies from their ``places``; which copy is where. Errors: VssError, and nothing is left behind."""
        found: dict[str, str] = {}
        try:
            if parts[0].path != "/":
                await self._fill(set_id, tree, tree.root)
            for part in parts:
                source = _below(places[part.snapshot_id], part.inside)
                if not os.path.isdir(source):
                    continue  # a single file was mounted there
                target = _below(tree.root, part.path)
                await self._make(set_id, tree, target)
                await self._mount(set_id, tree, target, "--bind", "-o", OPTIONS, source)
                found[target] = part.snapshot_id
            for point in _fillers(tree):
                await self._run("mount", "-o", f"remount,{OPTIONS}", point)
        except BaseException:
            await self.unmount(set_id, lazy=True)
            raise
        return found

    async def _make(self, set_id: str, tree: Tree, target: str) -> None:
        """See to it that the directory is there."""
        if os.path.isdir(target) and os.path.realpath(target) == target:
            return
        above = os.path.dirname(target)
        while not os.path.isdir(above):
            above = os.path.dirname(above)
        if os.path.realpath(above) != above or os.path.lexists(target):
            message = f"{target} is no directory in the copy, so nothing can be mounted there"
            raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, message)
        if os.statvfs(above).f_flag & os.ST_RDONLY:
            if os.listdir(above):
                message = f"{target} is not in the copy, so nothing can be mounted there"
                raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, message)
            await self._fill(set_id, tree, above)  # here was a file system that is not in the set
        os.makedirs(target)

    async def _fill(self, set_id: str, tree: Tree, place: str) -> None:
        await self._mount(set_id, tree, place, "-t", "tmpfs", "-o", "mode=755,size=1m,nosuid,nodev", FILLER)

    async def _mount(self, set_id: str, tree: Tree, place: str, *arguments: str) -> None:
        """Private, or else what is mounted inside would be mounted inside the place it is bound from too."""
        tree.points.append(place)
        self.store(set_id, tree)
        await self._run("mount", "--make-private", *arguments, place)

    async def unmount(self, set_id: str, lazy: bool = False) -> Tree | None:
        """Take a tree away; what it was. Errors: VSS_E_VOLUME_IN_USE, with the rest of it left to be unmounted."""
        tree = self.of(set_id)
        if tree is None:
            return None
        options = ["--lazy"] if lazy else []
        while tree.points:
            point = tree.points[-1]
            if is_ours(point):
                status, _, complaint = await run_command(["umount", *options, point], self._timeout_ms)
                if status:
                    self.store(set_id, tree)
                    cause = complaint.removeprefix("umount: ").removeprefix(f"{point}: ").rstrip(".")
                    message = f"{point} cannot be unmounted: {cause}; end what uses it and try again"
                    raise VssError(Code.VSS_E_VOLUME_IN_USE, message)
            tree.points.pop()
        self.store(set_id, tree)
        return tree

    def prune(self, set_id: str) -> None:
        """After a restart: forget what is not mounted."""
        tree = self.of(set_id)
        if tree:
            tree.points = [point for point in tree.points if is_ours(point)]
            self.store(set_id, tree)

    def store(self, set_id: str, tree: Tree) -> None:
        """Before anything is mounted, and after it is unmounted."""
        self._catalogue.set_setting(_key(set_id), msgspec.json.encode(tree).decode() if tree.points else "")

    async def _run(self, *command: str) -> None:
        status, _, complaint = await run_command(command, self._timeout_ms)
        if status:
            raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, f"the copies cannot be mounted: {complaint}")


def is_ours(point: str) -> bool:
    """Whether something is mounted there that can be ours."""
    there = [mount for mount in read_mounts() if mount.path == point]
    return bool(there) and (there[-1].fs_type != "tmpfs" or there[-1].source == FILLER)


def _fillers(tree: Tree) -> Iterator[str]:
    mine = set(tree.points)
    return (mount.path for mount in read_mounts() if mount.path in mine and mount.source == FILLER)


def _below(top: str, path: str) -> str:
    return f"{top.rstrip('/')}/{path.strip('/')}".rstrip("/") or "/"


def _key(set_id: str) -> str:
    return f"tree:{set_id}"
