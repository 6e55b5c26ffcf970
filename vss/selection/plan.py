"""The plan of a whole backup: which components go in, and why each of the others does not.

The order is vshadow's. Components are dropped that the user excludes or that have files on volumes outside the set;
with a dropped member goes every component that would include it; with a dropped mandatory component goes its writer;
then the topmost remaining components are added. What cannot have its dependencies is dropped too. Each step can cause
another, so they are repeated until nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import StrEnum

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import BackupType
from shadowset.vss.filespec import candidate_file_sets, snapshot_required
from shadowset.vss.metadata import ComponentInfo, FileSet, WriterMetadata
from shadowset.vss.selection.dependencies import (
    ComponentKey,
    DependencyTarget,
    UnmetDependency,
    guid_key,
    remote_dependencies,
    unmet_dependencies,
)
from shadowset.vss.selection.rules import (
    SEPARATOR,
    ComponentTree,
    explicit_components,
    implied_components,
    mandatory_components,
)

VolumesOf = Callable[[FileSet], Collection[str]]
TypeOf = Callable[[WriterMetadata, ComponentInfo], BackupType]


class DropReason(StrEnum):
    """Why a component is not in the backup."""

    EXCLUDED = "excluded"
    OUTSIDE_VOLUMES = "outside-volumes"
    INCLUDES_DROPPED = "includes-dropped"
    NOT_REACHABLE = "not-reachable"
    MANDATORY_DROPPED = "mandatory-dropped"
    DEPENDENCY = "dependency"
    NO_COMPONENTS = "no-components"


class Selector(msgspec.Struct, frozen=True):
    """What a user names: a writer by name, class id or instance id, and a component's full path, empty for them all."""

    writer: str
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Selector:
        """``WRITER`` or ``WRITER:\\path\\component``, as vshadow takes them."""
        writer, _, path = text.partition(f":{SEPARATOR}")
        return cls(writer, path)

    def __str__(self) -> str:
        return f"{self.writer}:{SEPARATOR}{self.path}" if self.path else self.writer

    def names(self, metadata: WriterMetadata) -> bool:
        """Whether the writer is meant; a name counts in any case, as in VSS's tools."""
        ids = (guid_key(metadata.writer_id), guid_key(metadata.instance_id))
        return self.writer.casefold() == metadata.name.casefold() or guid_key(self.writer) in ids


class Dropped(msgspec.Struct, frozen=True):
    """A component that is left out; ``path`` is empty when its writer has none. ``cause`` is a sentence."""

    writer_id: str
    instance_id: str
    writer_name: str
    path: str
    reason: DropReason
    cause: str


class PlannedWriter(msgspec.Struct, frozen=True):
    """What AddComponent is called for, and what comes along."""

    metadata: WriterMetadata
    explicit: tuple[ComponentInfo, ...]
    implied: tuple[ComponentInfo, ...]


class BackupPlan(msgspec.Struct, frozen=True):
    """Writers that take part, components of the wanted writers that do not, and what other hosts must back up."""

    writers: tuple[PlannedWriter, ...]
    dropped: tuple[Dropped, ...]
    remote: tuple[tuple[ComponentKey, DependencyTarget], ...]


class _Draft:
    """One writer while the plan is made. ``wanted`` None means everything."""

    def __init__(self, metadata: WriterMetadata, wanted: set[str] | None) -> None:
        self.metadata = metadata
        self.tree = ComponentTree(metadata)
        self.wanted = wanted
        self.dropped: dict[str, Dropped] = {}

    def drop(self, path: str, reason: DropReason, cause: str) -> None:
        who = self.metadata
        if path not in self.dropped:
            self.dropped[path] = Dropped(who.writer_id, who.instance_id, who.name, path, reason, cause)

    def settle(self) -> None:
        """Drop what cannot stay because of what is dropped."""
        for path in list(self.dropped):
            for ancestor in self.tree.selectable_ancestors(self.tree.by_path[path]):
                cause = f"it includes {path!r}, which is dropped"
                self.drop(ancestor.full_path, DropReason.INCLUDES_DROPPED, cause)
        missing = next((c for c in mandatory_components(self.metadata) if c.full_path in self.dropped), None)
        for component in self.metadata.components:
            if missing:
                cause = f"its writer cannot be backed up without {missing.full_path!r}, which is dropped"
                self.drop(component.full_path, DropReason.MANDATORY_DROPPED, cause)
            else:
                self._drop_unreachable(component)

    def _drop_unreachable(self, component: ComponentInfo) -> None:
        ancestors = list(self.tree.selectable_ancestors(component))
        if not component.selectable and ancestors and all(a.full_path in self.dropped for a in ancestors):
            cause = f"it comes only with {ancestors[-1].full_path!r}, which is dropped"
            self.drop(component.full_path, DropReason.NOT_REACHABLE, cause)

    def explicit(self) -> tuple[ComponentInfo, ...]:
        """The topmost remaining components, or those wanted and the mandatory ones."""
        remaining = [c for c in self.metadata.components if c.full_path not in self.dropped]
        selectable = {c.full_path for c in remaining if c.selectable}
        if self.wanted is not None:
            selectable &= self.wanted
        topmost = [p for p in selectable if not self.tree.including(self.tree.by_path[p], selectable)]
        if not remaining or (self.wanted is not None and not self._takes_part(topmost)):
            return ()
        return explicit_components(self.metadata, topmost)

    def _takes_part(self, topmost: list[str]) -> bool:
        mandatory = {c.full_path for c in mandatory_components(self.metadata)}
        return bool(topmost) or bool(mandatory & (self.wanted or set()))

    def selected(self) -> set[ComponentKey]:
        explicit = self.explicit()
        implied = implied_components(self.metadata, [c.full_path for c in explicit])
        writer_id = guid_key(self.metadata.writer_id)
        return {ComponentKey(writer_id, c.full_path) for c in (*explicit, *implied)}

    def can_add(self, path: str) -> bool:
        """Want a component that another one depends on; false when it cannot be had or is wanted already."""
        component = self.tree.by_path.get(path)
        if component is None or path in self.dropped or self.wanted is None:
            return False
        candidates = [component, *self.tree.selectable_ancestors(component)]
        for candidate in candidates:
            addable = candidate.selectable or self.tree.stands_alone(candidate)
            if addable and candidate.full_path not in self.dropped:
                new = candidate.full_path not in self.wanted
                self.wanted.add(candidate.full_path)
                return new
        return False


def plan_backup(
    writers: Sequence[WriterMetadata],
    volumes: Collection[str],
    volumes_of: VolumesOf,
    *,
    backup_type: BackupType | TypeOf = BackupType.FULL,
    wanted: Collection[Selector] | None = None,
    excluded: Collection[Selector] = (),
    required: Collection[Selector] = (),
) -> BackupPlan:
    """Decide what a backup of these volumes takes.

    ``volumes_of`` names the volumes on which the files of a file set lie (their alternate place, when they have one);
    none at all means that there are no such files. Only file sets that this backup type must read from the shadow copy
    bind a component to the set; the type may differ by component. ``wanted`` limits the backup to these components, and
    what they depend on; None takes everything that can be had. Errors: VSS_E_OBJECT_NOT_FOUND when a selector
    names nothing or a required component is not in the plan, E_INVALIDARG when a wanted component only comes with
    another one.
    """
    for selector in (*excluded, *required, *(wanted or ())):
        _check_named(writers, selector)
    drafts = [_Draft(metadata, _wanted_of(metadata, wanted)) for metadata in writers]
    type_of = backup_type if callable(backup_type) else lambda metadata, component: backup_type
    for draft in drafts:
        _drop_directly(draft, volumes, volumes_of, type_of, excluded)
        draft.settle()
    while _meet_dependencies(drafts):
        pass
    plan = _plan(drafts)
    for selector in required:
        _check_required(plan, drafts, selector)
    return plan


def _check_named(writers: Sequence[WriterMetadata], selector: Selector) -> None:
    named = [metadata for metadata in writers if selector.names(metadata)]
    if not named:
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no writer {selector.writer!r}; list the writers")
    if selector.path and not any(selector.path in ComponentTree(metadata).by_path for metadata in named):
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            f"writer {selector.writer!r} has no component {selector.path!r}; list its components",
        )


def _wanted_of(metadata: WriterMetadata, wanted: Collection[Selector] | None) -> set[str] | None:
    if wanted is None:
        return None
    mine = [selector for selector in wanted if selector.names(metadata)]
    if any(not selector.path for selector in mine):
        return {c.full_path for c in metadata.components}
    paths = {selector.path for selector in mine if selector.path in ComponentTree(metadata).by_path}
    explicit_components(metadata, paths)
    return paths


def _drop_directly(
    draft: _Draft,
    volumes: Collection[str],
    volumes_of: VolumesOf,
    type_of: TypeOf,
    excluded: Collection[Selector],
) -> None:
    if not draft.metadata.components:
        return
    paths = {selector.path for selector in excluded if selector.names(draft.metadata)}
    for component in draft.metadata.components:
        if component.full_path in paths or "" in paths:
            draft.drop(component.full_path, DropReason.EXCLUDED, "it was excluded by request")
        outside = _outside(component, volumes, volumes_of, type_of(draft.metadata, component))
        if outside:
            draft.drop(component.full_path, DropReason.OUTSIDE_VOLUMES, outside)


def _outside(component: ComponentInfo, volumes: Collection[str], volumes_of: VolumesOf, backup_type: BackupType) -> str:
    for files in candidate_file_sets(component, backup_type):
        if snapshot_required(files.mask, backup_type):
            for volume in volumes_of(files):
                if volume not in volumes:
                    return f"its files {files.path}/{files.filespec} lie on {volume}, which is not in the set"
    return ""


def _meet_dependencies(drafts: Sequence[_Draft]) -> bool:
    """Want or drop what the dependencies ask for; whether anything changed."""
    selected = set().union(*(draft.selected() for draft in drafts))
    changed = False
    for unmet in unmet_dependencies([draft.metadata for draft in drafts], selected):
        candidates = [d for d in drafts if guid_key(d.metadata.writer_id) == unmet.target.writer_id]
        if any(draft.can_add(unmet.target.path) for draft in candidates):
            changed = True
        else:
            changed |= _drop_dependent(drafts, unmet)
    return changed


def _drop_dependent(drafts: Sequence[_Draft], unmet: UnmetDependency) -> bool:
    changed = False
    cause = f"it depends on {unmet.target.path!r} of writer {unmet.target.writer_id}, which is not in the backup"
    for draft in drafts:
        path = unmet.dependent.path
        mine = guid_key(draft.metadata.writer_id) == unmet.dependent.writer_id and path in draft.tree.by_path
        if mine and path not in draft.dropped:
            draft.drop(path, DropReason.DEPENDENCY, cause)
            draft.settle()
            changed = True
    return changed


def _plan(drafts: Sequence[_Draft]) -> BackupPlan:
    planned = []
    dropped: list[Dropped] = []
    selected: set[ComponentKey] = set()
    for draft in drafts:
        explicit = draft.explicit()
        if explicit:
            implied = implied_components(draft.metadata, [c.full_path for c in explicit])
            planned.append(PlannedWriter(draft.metadata, explicit, implied))
        if not draft.metadata.components:
            draft.drop("", DropReason.NO_COMPONENTS, "the writer has no components")
        if draft.wanted is None or draft.wanted:
            dropped += draft.dropped.values()
        selected |= draft.selected()
    remote = remote_dependencies([draft.metadata for draft in drafts], selected)
    return BackupPlan(tuple(planned), tuple(dropped), tuple(remote))


def _check_required(plan: BackupPlan, drafts: Sequence[_Draft], selector: Selector) -> None:
    for writer in plan.writers:
        paths = {component.full_path for component in (*writer.explicit, *writer.implied)}
        if selector.names(writer.metadata) and (not selector.path or selector.path in paths):
            return
    dropped = [d for draft in drafts if selector.names(draft.metadata) for d in draft.dropped.values()]
    why = next((d.cause for d in dropped if selector.path in ("", d.path)), "it is not among the wanted components")
    raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{selector} must be in the backup and is not: {why}")
