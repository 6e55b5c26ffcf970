"""What a backup takes: components by VSS's rules, the volumes they need, the directories that are looked through."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from msgspec import structs

from shadowset.requester.backup.kinds import NEEDED, Kinds, Unsupported
from shadowset.requester.backup.mounts import Place, VolumeMap
from shadowset.requester.backup_components import ComponentKey
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import BackupType
from shadowset.vss.filespec import (
    candidate_file_sets,
    created_during_backup,
    required_file_sets,
    snapshot_required,
    source_directory,
)
from shadowset.vss.metadata import ComponentInfo, ExcludedFiles, FileSet, WriterMetadata
from shadowset.vss.selection import Dropped, DropReason, PlannedWriter, Selector, plan_backup

SEPARATOR = "\\"

HARMLESS = (DropReason.EXCLUDED, DropReason.NO_COMPONENTS)


@dataclass(frozen=True)
class Root:
    """A directory to look through for one file set, by its path on the live system and where that lies in a volume.

    ``place`` is None for files that are read live because they lie on no protected volume and need no shadow copy. A
    ``nested`` root is the mount point of another volume below the file set's own directory.
    """

    member: ComponentInfo
    files: FileSet
    directory: str
    place: Place | None
    nested: bool = False


@dataclass(frozen=True)
class PlannedComponent:
    """One component to be added explicitly, with the roots of its own file sets and those of its set's members.

    ``backup_type`` is FULL for one that is taken whole in a backup of another type; ``why`` then says so. ``volumes``
    are those that its files may lie on, also the files that its writer names only in the course of the backup.
    """

    writer: WriterMetadata
    info: ComponentInfo
    key: ComponentKey
    roots: tuple[Root, ...]
    members: tuple[ComponentInfo, ...] = ()
    backup_type: BackupType = BackupType.FULL
    why: str = ""
    volumes: frozenset[str] = frozenset()
    system_excluded: tuple[ExcludedFiles, ...] = ()

    @property
    def excluded(self) -> tuple[ExcludedFiles, ...]:
        """What is never taken, by its writer's word and the host's."""
        return self.writer.exclude_files + self.system_excluded

    @property
    def builds_on_base(self) -> bool:
        """Whether only what changed is taken."""
        return self.backup_type in NEEDED


@dataclass(frozen=True)
class JobPlan:
    """The components, the names of the volumes to cut, and what was left out and why."""

    components: tuple[PlannedComponent, ...]
    volumes: tuple[str, ...]
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True)
class Choice:
    """What the user asked for: None as ``wanted`` is everything; ``volumes`` are cut whether needed or not.

    ``base`` is the directory of the backup that this one builds on; ``options`` are handed to components' writers.
    """

    backup_type: BackupType = BackupType.COPY
    wanted: tuple[Selector, ...] | None = None
    excluded: tuple[Selector, ...] = ()
    volumes: tuple[str, ...] = ()
    base: str = ""
    unsupported: Unsupported = Unsupported.WHOLE
    options: tuple[tuple[Selector, str], ...] = ()


def parse_selector(text: str) -> Selector:
    """``WRITER``, ``WRITER:component`` or ``WRITER:path\\component``; ``/`` stands for ``\\`` too."""
    writer, _, path = text.partition(":")
    if not writer:
        raise VssError(Code.E_INVALIDARG, f"{text!r} names no writer; write WRITER:PATH")
    return Selector(writer, path.replace("/", SEPARATOR).strip(SEPARATOR))


def make_plan(
    writers: list[WriterMetadata], volume_map: VolumeMap, variables: Mapping[str, str], choice: Choice, kinds: Kinds
) -> JobPlan:
    """Decide what to back up. Errors: those of ``_make_plan``; VSS_E_NOT_SUPPORTED by the choice of ``unsupported``."""
    plan = _make_plan(writers, volume_map, variables, choice, kinds)
    unable = {(one.writer.instance_id, one.info.full_path): one for one in plan.components if one.why}
    if choice.unsupported is Unsupported.REFUSE:
        kinds.refuse([whole_text(one) for one in unable.values()])
    if choice.unsupported is not Unsupported.SKIP or not unable:
        return plan
    if len(unable) == len(plan.components):
        reasons = "; ".join(one.why for one in unable.values())
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is nothing to back up: {reasons}")
    left_out = tuple(Selector(instance, path) for instance, path in unable)
    plan = _make_plan(writers, volume_map, variables, replace(choice, excluded=choice.excluded + left_out), kinds)
    dropped = [
        structs.replace(one, cause=unable[one.instance_id, one.path].why)
        if (one.instance_id, one.path) in unable
        else one
        for one in plan.dropped
    ]
    return replace(plan, dropped=tuple(dropped))


def whole_text(component: PlannedComponent) -> str:
    """A component that does not build on the base, as a sentence."""
    return f"component {component.info.full_path} of writer {component.writer.name} is taken whole: {component.why}"


def _make_plan(
    writers: list[WriterMetadata], volume_map: VolumeMap, variables: Mapping[str, str], choice: Choice, kinds: Kinds
) -> JobPlan:
    """Errors: VSS_E_OBJECT_NOT_FOUND when what is asked for by name cannot be had, or nothing is left."""

    def where(files: FileSet) -> Collection[str]:
        return volumes_of(files, volume_map, variables)

    plan = plan_backup(
        writers,
        volume_map.names,
        where,
        backup_type=kinds.type_of,
        wanted=choice.wanted,
        excluded=choice.excluded,
        required=choice.wanted or (),
    )
    components = [
        _component(writer, info, volume_map, variables, kinds) for writer in plan.writers for info in writer.explicit
    ]
    if not components:
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, _nothing_left(plan.dropped))
    needed = {name for component in components for name in component.volumes}
    volumes = tuple(name for name in volume_map.names if name in needed or name in choice.volumes)
    for name in choice.volumes:
        if name not in volumes:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"volume {name!r} is not protected; add it or leave it out")
    return JobPlan(tuple(components), volumes, plan.dropped)


def leaving_out(plan: JobPlan, excluded: tuple[ExcludedFiles, ...]) -> JobPlan:
    """A plan that leaves these files out of all components too."""
    return replace(plan, components=tuple(replace(each, system_excluded=excluded) for each in plan.components))


def missing(dropped: tuple[Dropped, ...], wanted: tuple[Selector, ...] | None) -> list[Dropped]:
    """Those that the user asked for and did not exclude.

    A component wanted by its own name is none of them: without it there is no plan.
    """
    writers = None if wanted is None else [selector.writer for selector in wanted if not selector.path]
    return [one for one in dropped if one.reason not in HARMLESS and (writers is None or _is_of(one, writers))]


def _is_of(dropped: Dropped, writers: list[str]) -> bool:
    who = WriterMetadata(dropped.writer_id, dropped.instance_id, dropped.writer_name)
    return any(Selector(writer).names(who) for writer in writers)


def dropped_text(dropped: Dropped) -> str:
    """One component that is left out, as a sentence."""
    what = f"component {dropped.path} of writer {dropped.writer_name}" if dropped.path else dropped.writer_name
    return f"{what} is left out: {dropped.cause}"


def _nothing_left(dropped: tuple[Dropped, ...]) -> str:
    if not dropped:
        return (
            "there is nothing to back up: no application here says what it has ('shadowset writers'); "
            "start its writer, or back up plain files with 'shadowset run -- PROGRAM', or by a job whose target "
            "is restic or images"
        )
    reasons = "; ".join(dropped_text(one) for one in dropped[:3])
    return f"there is nothing to back up: {reasons}"


def _unprotected(path: str) -> str:
    return f"the unprotected file system of {path}"


def volumes_of(files: FileSet, volume_map: VolumeMap, variables: Mapping[str, str]) -> list[str]:
    """The protected volumes that a file set's files lie on, and words for each unprotected file system."""
    directory = source_directory(files, variables)
    place = volume_map.locate(directory)
    if place is None and not os.path.isdir(directory) and not created_during_backup(files.mask):
        return []
    names = [place.volume if place else _unprotected(directory)]
    for nested in volume_map.nested(directory) if files.recursive else ():
        inner = volume_map.locate(nested)
        names.append(inner.volume if inner else _unprotected(nested))
    return names


def _component(
    planned: PlannedWriter,
    info: ComponentInfo,
    volume_map: VolumeMap,
    variables: Mapping[str, str],
    kinds: Kinds,
) -> PlannedComponent:
    writer = planned.metadata
    members = [info]
    if info.selectable:
        members += [other for other in planned.implied if other.full_path.startswith(info.full_path + SEPARATOR)]
    # a member without files has nothing that could build on anything, and comes and goes
    why = next(filter(None, (kinds.reason(writer, each) for each in members if each is info or each.file_sets)), "")
    backup_type = BackupType.FULL if why else kinds.type_of(writer, info)

    def look_up(sets_of: Callable[[ComponentInfo, BackupType], tuple[FileSet, ...]]) -> list[Root]:
        return [
            root
            for member in members
            for files in sets_of(member, backup_type)
            for root in roots_of(member, files, volume_map, variables, snapshot_required(files.mask, backup_type))
        ]

    roots = look_up(required_file_sets)
    # A writer may name any file of its file sets after the cut, whether this backup type asks for it or not.
    reach = look_up(candidate_file_sets) if backup_type in NEEDED else roots
    volumes = frozenset(root.place.volume for root in reach if root.place)
    key = ComponentKey(writer.writer_id, writer.instance_id, info.type, info.logical_path, info.name)
    return PlannedComponent(writer, info, key, tuple(roots), tuple(members), backup_type, why, volumes)


def roots_of(
    member: ComponentInfo, files: FileSet, volume_map: VolumeMap, variables: Mapping[str, str], from_copy: bool = False
) -> list[Root]:
    """The directories to look through for a file set; only those on protected volumes, with ``from_copy``."""
    directory = source_directory(files, variables)
    roots = [Root(member, files, directory, volume_map.locate(directory))]
    for nested in volume_map.nested(directory) if files.recursive else ():
        # A copy shows an empty directory where another volume was mounted: that volume's own copy has the files.
        seen_as = f"{directory.rstrip('/')}/{os.path.relpath(nested, os.path.realpath(directory))}"
        roots.append(Root(member, files, seen_as, volume_map.locate(nested), nested=True))
    return [root for root in roots if root.place is not None or not from_copy]
