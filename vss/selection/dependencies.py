"""Dependencies between components of different writers: both or neither, in no particular order.

A target is found by class id, logical path and name, which are unique over all instances of a class. A target on
another host (``\\\\host\\`` before the logical path or before the name) is the requester's to back up there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from shadowset.vss.codes import Code, VssError
from shadowset.vss.metadata import Dependency, WriterMetadata
from shadowset.vss.selection.rules import SEPARATOR, ComponentTree

REMOTE_PREFIX = SEPARATOR * 2


def guid_key(guid: str) -> str:
    """A GUID as it is compared: without braces and without case."""
    return guid.strip("{}").lower()


class ComponentKey(NamedTuple):
    """A component among all writers of a host: class id, in the form of ``guid_key``, and full path."""

    writer_id: str
    path: str


class DependencyTarget(NamedTuple):
    """What a dependency points at; ``host`` is empty for this host."""

    host: str
    key: ComponentKey


class UnmetDependency(NamedTuple):
    """A selected component whose target is not selected; ``exists`` says whether the target could be."""

    dependent: ComponentKey
    target: ComponentKey
    exists: bool


def dependency_target(dependency: Dependency) -> DependencyTarget:
    """A dependency with its host taken apart from its path. A logical path of ``\\`` is the root, as an empty one."""
    hosts, parts = zip(*map(_split_host, (dependency.logical_path, dependency.component_name)), strict=True)
    path = SEPARATOR.join(part.strip(SEPARATOR) for part in parts if part.strip(SEPARATOR))
    return DependencyTarget(hosts[0] or hosts[1], ComponentKey(guid_key(dependency.writer_id), path))


def _split_host(text: str) -> tuple[str, str]:
    if not text.startswith(REMOTE_PREFIX):
        return "", text
    host, _, rest = text[len(REMOTE_PREFIX) :].partition(SEPARATOR)
    return host, rest


def all_keys(writers: Sequence[WriterMetadata]) -> dict[ComponentKey, tuple[Dependency, ...]]:
    """Every component of every writer with what it depends on."""
    return {
        ComponentKey(guid_key(writer.writer_id), component.full_path): component.dependencies
        for writer in writers
        for component in writer.components
    }


def unmet_dependencies(writers: Sequence[WriterMetadata], selected: Collection[ComponentKey]) -> list[UnmetDependency]:
    """Local dependencies of the selected components (explicit and implied) whose targets are not selected."""
    keys = all_keys(writers)
    chosen = set(selected)
    unmet = []
    for key, dependencies in keys.items():
        for target in map(dependency_target, dependencies if key in chosen else ()):
            if not target.host and target.key not in chosen:
                unmet.append(UnmetDependency(key, target.key, target.key in keys))
    return unmet


def remote_dependencies(
    writers: Sequence[WriterMetadata], selected: Collection[ComponentKey]
) -> list[tuple[ComponentKey, DependencyTarget]]:
    """What must be backed up on other hosts together with the selected components."""
    chosen = set(selected)
    return [
        (key, target)
        for key, dependencies in all_keys(writers).items()
        if key in chosen
        for target in map(dependency_target, dependencies)
        if target.host
    ]


def check_dependencies(writers: Sequence[WriterMetadata], selected: Collection[ComponentKey]) -> None:
    """Refuse a selection that takes a component without what it depends on.

    Errors: VSS_E_OBJECT_NOT_FOUND when a target is not there at all, E_INVALIDARG when it only was not selected.
    """
    for unmet in unmet_dependencies(writers, selected):
        dependent, target = unmet.dependent.path, unmet.target
        what = f"component {dependent!r} depends on component {target.path!r} of writer {target.writer_id}"
        if unmet.exists:
            raise VssError(Code.E_INVALIDARG, f"{what}, which is not selected; select both or neither")
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{what}, which is not here; start its writer or leave both out")


def check_cycles(writers: Sequence[WriterMetadata]) -> None:
    """Refuse components that depend on each other in a circle, also by way of the sets they belong to.

    Errors: E_INVALIDARG, naming the circle.
    """
    circle = find_cycle(_edges(writers))
    if circle:
        names = " → ".join(f"{key.path!r}" for key in [*circle, circle[0]])
        raise VssError(Code.E_INVALIDARG, f"components depend on each other in a circle: {names}; break it in a writer")


def _edges(writers: Sequence[WriterMetadata]) -> dict[ComponentKey, list[ComponentKey]]:
    """Targets on this host, and from each component set to its members: who takes the set takes their dependencies."""
    edges: dict[ComponentKey, list[ComponentKey]] = {
        key: [target.key for target in map(dependency_target, dependencies) if not target.host]
        for key, dependencies in all_keys(writers).items()
    }
    for writer in writers:
        tree = ComponentTree(writer)
        for component in writer.components:
            ancestor = next(tree.selectable_ancestors(component), None)
            if ancestor:
                writer_id = guid_key(writer.writer_id)
                edges[ComponentKey(writer_id, ancestor.full_path)].append(ComponentKey(writer_id, component.full_path))
    return edges


def find_cycle(edges: Mapping[ComponentKey, Sequence[ComponentKey]]) -> list[ComponentKey]:
    """The keys of one circle in order, or an empty list. Without recursion, since depth is the writers' choice."""
    finished: set[ComponentKey] = set()
    for start in edges:
        path: dict[ComponentKey, Iterator[ComponentKey]] = {}
        key: ComponentKey | None = start if start not in finished else None
        while key is not None or path:
            if key is not None:
                path[key] = iter(edges.get(key, ()))
            last = next(reversed(path))
            key = next((k for k in path[last] if k not in finished), None)
            if key is None:
                finished.add(last)
                del path[last]
            elif key in path:
                circle = list(path)
                return circle[circle.index(key) :]
    return []
