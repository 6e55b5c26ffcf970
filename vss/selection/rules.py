"""The rules of selection within one writer.

An *ancestor* of a component is one whose full path is a leading part of the component's logical path; path elements in
between need not exist as components. A *selectable* ancestor defines a component set: whoever takes it takes all that
is beneath. Components without one stand by themselves and are added explicitly, the non-selectable ones always.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import ComponentFlag, UsageType, WriterRestore
from shadowset.vss.metadata import ComponentInfo, FileSet, WriterMetadata

SEPARATOR = "\\"


class ComponentTree:
    """A writer's components by full path, to walk from a component to its ancestors."""

    def __init__(self, metadata: WriterMetadata) -> None:
        self.metadata = metadata
        self.by_path = {component.full_path: component for component in metadata.components}

    def at(self, path: str) -> ComponentInfo:
        """The component with a full path. Errors: VSS_E_OBJECT_NOT_FOUND."""
        try:
            return self.by_path[path]
        except KeyError:
            raise VssError(
                Code.VSS_E_OBJECT_NOT_FOUND,
                f"writer {self.metadata.name!r} has no component {path!r}; list its components",
            ) from None

    def selectable_ancestors(self, component: ComponentInfo) -> Iterator[ComponentInfo]:
        """Nearest first."""
        path = component.logical_path
        while path:
            ancestor = self.by_path.get(path)
            if ancestor is not None and ancestor.selectable:
                yield ancestor
            path = path.rpartition(SEPARATOR)[0]

    def stands_alone(self, component: ComponentInfo) -> bool:
        """Whether no component set contains it."""
        return next(self.selectable_ancestors(component), None) is None

    def including(self, component: ComponentInfo, explicit: Collection[str]) -> ComponentInfo | None:
        """The nearest selectable ancestor among the explicit components."""
        return next((a for a in self.selectable_ancestors(component) if a.full_path in explicit), None)


def component_at(metadata: WriterMetadata, path: str) -> ComponentInfo:
    """The component with a full path. Errors: VSS_E_OBJECT_NOT_FOUND."""
    return ComponentTree(metadata).at(path)


def selectable_ancestor(metadata: WriterMetadata, path: str) -> ComponentInfo | None:
    """The nearest selectable ancestor of a component: the one that defines the innermost set it belongs to.

    Errors: VSS_E_OBJECT_NOT_FOUND.
    """
    tree = ComponentTree(metadata)
    return next(tree.selectable_ancestors(tree.at(path)), None)


def component_set(metadata: WriterMetadata, path: str) -> tuple[ComponentInfo, ...]:
    """All members of the set that a component defines, without itself; empty when it defines none.

    Errors: VSS_E_OBJECT_NOT_FOUND.
    """
    tree = ComponentTree(metadata)
    tree.at(path)
    return tuple(c for c in metadata.components if tree.including(c, (path,)))


def mandatory_components(metadata: WriterMetadata) -> tuple[ComponentInfo, ...]:
    """What must be added explicitly whenever anything of this writer is backed up."""
    tree = ComponentTree(metadata)
    return tuple(c for c in metadata.components if not c.selectable and tree.stands_alone(c))


def topmost_selectable(metadata: WriterMetadata) -> tuple[ComponentInfo, ...]:
    """The choice that, with the mandatory components, takes everything the writer has."""
    tree = ComponentTree(metadata)
    return tuple(c for c in metadata.components if c.selectable and tree.stands_alone(c))


def check_explicit(metadata: WriterMetadata, path: str, explicit: Collection[str] = ()) -> ComponentInfo:
    """The component, when it may be added explicitly beside those that already are (``explicit``, full paths).

    Errors: VSS_E_OBJECT_NOT_FOUND when the writer has no such component, VSS_E_OBJECT_ALREADY_EXISTS when it was added
    before, E_INVALIDARG when a component set brings it or when it would bring one that was added before.
    """
    tree = ComponentTree(metadata)
    component = tree.at(path)
    _check_place(tree, component, explicit)
    if path in explicit:
        raise VssError(
            Code.VSS_E_OBJECT_ALREADY_EXISTS, f"component {path!r} of writer {metadata.name!r} is already included"
        )
    if component.selectable:
        for other in explicit:
            if other.startswith(path + SEPARATOR):
                raise _conflict(metadata, path, other)
    return component


def _check_place(tree: ComponentTree, component: ComponentInfo, explicit: Collection[str]) -> None:
    ancestor = tree.including(component, explicit)
    if ancestor:
        raise _conflict(tree.metadata, ancestor.full_path, component.full_path)
    ancestor = next(tree.selectable_ancestors(component), None)
    if ancestor and not component.selectable:
        raise VssError(
            Code.E_INVALIDARG,
            f"component {component.full_path!r} of writer {tree.metadata.name!r} is not selectable; it comes with "
            f"{ancestor.full_path!r}, so add that one",
        )


def _conflict(metadata: WriterMetadata, ancestor: str, member: str) -> VssError:
    return VssError(
        Code.E_INVALIDARG,
        f"component {member!r} of writer {metadata.name!r} comes with {ancestor!r} and must not be added beside it; "
        "add only one of them",
    )


def explicit_components(metadata: WriterMetadata, wanted: Collection[str]) -> tuple[ComponentInfo, ...]:
    """What AddComponent must be called for when these components (full paths) are to be backed up.

    The mandatory components are always among them: with nothing wanted the writer takes part with these alone, and
    whoever leaves the writer out adds nothing at all. In the order of the metadata.
    Errors: VSS_E_OBJECT_NOT_FOUND, and E_INVALIDARG where a wanted component comes with another one.
    """
    tree = ComponentTree(metadata)
    chosen = set(wanted)
    for path in wanted:
        _check_place(tree, tree.at(path), chosen)
    chosen |= {component.full_path for component in mandatory_components(metadata)}
    return tuple(c for c in metadata.components if c.full_path in chosen)


def implied_components(metadata: WriterMetadata, explicit: Collection[str]) -> tuple[ComponentInfo, ...]:
    """What comes along with the explicit components (full paths) without being added. In the metadata's order."""
    tree = ComponentTree(metadata)
    chosen = set(explicit)
    return tuple(c for c in metadata.components if c.full_path not in chosen and tree.including(c, chosen))


def defining_component(metadata: WriterMetadata, path: str, explicit: Collection[str]) -> ComponentInfo:
    """The explicit component that answers for another one: itself, or the nearest explicit ancestor that includes it.

    Success, options, stamps, targets and failure messages of the whole set are stored there.
    Errors: VSS_E_OBJECT_NOT_FOUND when the component is not in the backup.
    """
    tree = ComponentTree(metadata)
    component = tree.at(path)
    found = component if path in explicit else tree.including(component, explicit)
    if found is None:
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND, f"component {path!r} of writer {metadata.name!r} is not in this backup"
        )
    return found


def find_file_set(
    metadata: WriterMetadata, defining: str, directory: str, filespec: str, recursive: bool
) -> tuple[ComponentInfo, FileSet]:
    """The file set, and the member it belongs to, that a mapping or target stored at a defining component means.

    Errors: VSS_E_OBJECT_NOT_FOUND when no member of the set has exactly this path, pattern and recursion.
    """
    for member in (component_at(metadata, defining), *component_set(metadata, defining)):
        for files in member.file_sets:
            if (files.path, files.filespec, files.recursive) == (directory, filespec, recursive):
                return member, files
    raise VssError(
        Code.VSS_E_OBJECT_NOT_FOUND,
        f"component {defining!r} of writer {metadata.name!r} has no file set with path {directory!r}, "
        f"pattern {filespec!r} and recursive={recursive}; name one exactly as its writer does",
    )


# ---- restore ----


class RestoreSelection(msgspec.Struct, frozen=True):
    """SetSelectedForRestore is called for ``defining``, then AddRestoreSubcomponent for ``member`` if there is one."""

    defining: ComponentInfo
    member: ComponentInfo | None = None


def restore_selection(metadata: WriterMetadata, explicit: Collection[str], path: str) -> RestoreSelection:
    """How one component is selected for restore, by the *stored* metadata and the backup's explicit components.

    Errors: VSS_E_OBJECT_NOT_FOUND when it is not in the backup, E_INVALIDARG when it came along with another one and is
    not selectable for restore by itself.
    """
    defining = defining_component(metadata, path, explicit)
    if defining.full_path == path:
        return RestoreSelection(defining)
    member = component_at(metadata, path)
    if not member.selectable_for_restore:
        raise VssError(
            Code.E_INVALIDARG,
            f"component {path!r} of writer {metadata.name!r} cannot be restored by itself; restore "
            f"{defining.full_path!r}, which brings it",
        )
    return RestoreSelection(defining, member)


def wants_restore_events(metadata: WriterMetadata) -> bool:
    """Whether components of this writer may be selected for restore at all."""
    return metadata.restore_method.writer_restore != WriterRestore.NEVER


# ---- system state ----


def system_state_components(metadata: WriterMetadata) -> tuple[ComponentInfo, ...]:
    """What of this writer belongs to the system state, which is backed up and restored as a whole."""
    if metadata.usage not in (UsageType.BOOTABLESYSTEMSTATE, UsageType.SYSTEMSERVICE):
        return ()
    return tuple(c for c in metadata.components if not c.flags & ComponentFlag.NOT_SYSTEM_STATE)


def missing_system_state(metadata: WriterMetadata, explicit: Collection[str]) -> tuple[ComponentInfo, ...]:
    """System-state components that a selection leaves out: any of them makes a system-state backup incomplete."""
    tree = ComponentTree(metadata)
    chosen = set(explicit)
    return tuple(
        c for c in system_state_components(metadata) if c.full_path not in chosen and tree.including(c, chosen) is None
    )
