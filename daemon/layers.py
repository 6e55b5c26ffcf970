"""The copies of a set while writers may still write into them: between pre-final-commit and the record of the set.

A provider gives a writable layer over each copy that needs one; here it is mounted where its writers find it, files
that are not wanted in the copy are deleted, and then it is unmounted and sealed. Nobody else can see the copy so far.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from shadowset.daemon.affected import inside, volume_of
from shadowset.daemon.cast import Participant
from shadowset.daemon.config import read_toml
from shadowset.daemon.cut import PlannedSnapshot
from shadowset.daemon.house import House, together
from shadowset.daemon.mounts import device_number
from shadowset.daemon.process import in_thread, run_command, within
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import WriterComponents
from shadowset.vss.enums import Attribute, ComponentFlag
from shadowset.vss.filespec import expand, name_matches, normalise
from shadowset.vss.metadata import ExcludedFiles
from shadowset.vss.paths import Paths
from shadowset.vss.system_list import listed_files

OPTIONS = {"xfs": "rw,nosuid,nodev,nouuid"}
COMMON = "rw,nosuid,nodev"
BUSY_S = 5.0


@dataclass(frozen=True)
class Wish:
    """A place whose volume needs a layer; "" stands for all volumes. ``excluded`` goes from the copy."""

    who: str
    path: str = ""
    excluded: ExcludedFiles | None = None


def wishes(
    participant: Participant, chosen: WriterComponents | None, context: int, variables: Mapping[str, str]
) -> list[Wish]:
    """What a writer wants to happen in the copies: recovery of its chosen components, and files deleted."""
    who = participant.writer.link.label()
    rollback = bool(context & Attribute.ROLLBACK_RECOVERY)
    flag = ComponentFlag.APP_ROLLBACK_RECOVERY if rollback else ComponentFlag.BACKUP_RECOVERY
    names = None if chosen is None else {each.full_path for each in chosen.components}
    found = []
    for component in participant.metadata.components:
        if component.flags & flag and (names is None or component.full_path in names):
            found += [Wish(who, _expanded(files.path, variables)) for files in component.file_sets] or [Wish(who)]
    return found + [
        Wish(who, _expanded(files.path, variables), files) for files in participant.metadata.exclude_from_snapshot
    ]


def host_wishes(paths: Paths, participants: Iterable[Participant], variables: Mapping[str, str]) -> list[Wish]:
    """What the host's own list wants deleted in the copies (VSS's FilesNotToSnapshot). Errors: E_INVALIDARG."""
    path = paths.not_to_snapshot
    entries = read_toml(path) if os.path.lexists(path) else {}
    names = {each.metadata.name for each in participants}
    listed = listed_files(path, entries, names)
    return [Wish(path, _expanded(files.path, variables), files) for files in listed]


def _expanded(path: str, variables: Mapping[str, str]) -> str:
    """The path, or "" when nobody can tell where it is."""
    try:
        return normalise(expand(path, variables))
    except VssError:
        return ""


class Layers:
    """The layers of one set."""

    def __init__(self, house: House, snapshots: list[PlannedSnapshot]) -> None:
        self._house = house
        self._snapshots = snapshots
        self._open: dict[str, PlannedSnapshot] = {}
        self._mounted: set[str] = set()

    def place(self, snapshot_id: str) -> str:
        """Where a copy can be written to now, or ""."""
        return self._path(snapshot_id) if snapshot_id in self._mounted else ""

    def was_open(self, snapshot_id: str) -> bool:
        """Whether this copy had a layer."""
        return snapshot_id in self._open

    def _path(self, snapshot_id: str) -> str:
        return f"{self._house.paths.layers}/{snapshot_id}"

    async def open(self, wanted: list[Wish]) -> None:
        """Open those that are wanted. Errors: VSS_E_AUTORECOVERY_FAILED."""
        chosen = [each for each in self._snapshots if self._is_wanted(each, wanted)]
        await together(*(self._open_one(each) for each in chosen))

    def _is_wanted(self, each: PlannedSnapshot, wanted: list[Wish]) -> bool:
        if not each.facts.mount_points:
            return False
        return any(not wish.path or volume_of(wish.path, self._snapshots) is each for wish in wanted)

    async def _open_one(self, each: PlannedSnapshot) -> None:
        limit = self._house.limits.provider_ms
        sentence = f"the writable layer over the copy of volume {each.volume} did not open within {limit} ms"
        self._open[each.snapshot_id] = each
        try:
            work = each.provider.open_layer(each.volume, each.snapshot_id)
            source = await within(limit, work, Code.VSS_E_AUTORECOVERY_FAILED, sentence)
            await self._mount(source, self._path(each.snapshot_id))
        except VssError as error:
            raise _failed(each, "be opened to its writers", error) from None
        self._mounted.add(each.snapshot_id)

    async def _mount(self, source: str, place: str) -> None:
        os.makedirs(place, exist_ok=True)
        if device_number(source):
            kind = await self._run("blkid", "-p", "-o", "value", "-s", "TYPE", source)
            await self._run("mount", "-t", kind, "-o", OPTIONS.get(kind, COMMON), source, place)
        else:
            await self._run("mount", "--bind", "-o", COMMON, source, place)

    async def _run(self, *command: str) -> str:
        status, output, complaint = await run_command(command, self._house.limits.command_ms)
        if status:
            raise VssError(Code.VSS_E_AUTORECOVERY_FAILED, f"{command[0]}: {complaint or 'failed'}")
        return output

    async def exclude(self, wanted: list[Wish], variables: Mapping[str, str]) -> list[str]:
        """Delete what is not wanted in the copies; a sentence for each wish that was not granted in full."""
        return [
            f"{wish.who} wants {wish.excluded.path}/{wish.excluded.filespec} left out of the copy: {trouble}"
            for wish in wanted
            if wish.excluded
            for trouble in await self._exclude(wish.excluded, variables)
        ]

    async def _exclude(self, files: ExcludedFiles, variables: Mapping[str, str]) -> list[str]:
        try:
            path = normalise(expand(files.path, variables))
        except VssError as error:
            return [error.message]
        each = volume_of(path, self._snapshots)
        if each is None:
            return []  # not on a volume of the set, so not in any copy
        place = self.place(each.snapshot_id)
        if not place:
            return [f"the copy of volume {each.volume} has no layer"]
        below = inside(path, each)
        return await in_thread(lambda: list(delete_files(place, below, files.filespec, files.recursive)))

    async def seal(self) -> None:
        """What was written is part of the copies now, for ever. Errors: VSS_E_AUTORECOVERY_FAILED."""
        await together(*(self._seal_one(each) for each in self._open.values()))

    async def _seal_one(self, each: PlannedSnapshot) -> None:
        try:
            await self._unmount(self._path(each.snapshot_id))
            self._mounted.discard(each.snapshot_id)
            limit = self._house.limits.provider_ms
            sentence = f"sealing the copy took longer than {limit} ms"
            work = each.provider.seal(each.volume, each.snapshot_id)
            await within(limit, work, Code.VSS_E_AUTORECOVERY_FAILED, sentence)
        except VssError as error:
            raise _failed(each, "be sealed", error) from None

    async def _unmount(self, place: str) -> None:
        end = time.monotonic() + BUSY_S
        while True:
            status, _, complaint = await run_command(["umount", place], self._house.limits.command_ms)
            if status == 0:
                os.rmdir(place)
                return
            if time.monotonic() > end:
                sentence = f"a writer still has something open there after post-snapshot ({complaint})"
                raise VssError(Code.VSS_E_AUTORECOVERY_FAILED, sentence)
            await asyncio.sleep(0.1)

    async def drop(self) -> None:
        """The set does not come to be: nothing stays mounted. The provider is told with ``abort``."""
        for snapshot_id in self._open:
            await clear(self._path(snapshot_id), self._house.limits.command_ms)
        self._mounted.clear()


async def clear(place: str, timeout_ms: int) -> None:
    """Take a layer's mount away, whoever uses it."""
    await run_command(["umount", "--lazy", place], timeout_ms)
    try:
        os.rmdir(place)
    except OSError:
        pass


async def clear_all(paths: Paths, timeout_ms: int) -> None:
    """After a crash."""
    try:
        names = os.listdir(paths.layers)
    except FileNotFoundError:
        return
    for name in names:
        await clear(f"{paths.layers}/{name}", timeout_ms)


def _failed(each: PlannedSnapshot, what: str, error: VssError) -> VssError:
    sentence = f"the copy of volume {each.volume} cannot {what}: {error.message}"
    return VssError(Code.VSS_E_AUTORECOVERY_FAILED, sentence)


def delete_files(place: str, below: str, filespec: str, recursive: bool) -> Iterator[str]:
    """Delete files below ``place``/``below`` by pattern; a sentence for each that stays. No link is followed."""
    try:
        directory = _open_directory(place, below)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        for _, directories, files, here in os.fwalk(".", dir_fd=directory, follow_symlinks=False):
            for name in files:
                if name_matches(filespec, name):
                    try:
                        os.unlink(name, dir_fd=here)
                    except OSError as error:
                        yield f"{name}: {error.strerror}"
            if not recursive:
                directories.clear()
    finally:
        os.close(directory)


def _open_directory(place: str, below: str) -> int:
    """Step by step: a link in the copy must not lead out of it."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    current = os.open(place, flags)
    for part in below.split("/"):
        if part not in ("", "."):
            try:
                deeper = os.open(part, flags | os.O_NOFOLLOW, dir_fd=current)
            finally:
                os.close(current)
            current = deeper
    return current
