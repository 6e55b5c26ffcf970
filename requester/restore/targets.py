"""Where the files of one component go. New targets go before directed targets, these before the restore target, that
before the restore method with its alternate location mappings; the original place comes last.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shadowset.requester.backup.manifest import (
    DIRECTORY,
    FILE_KINDS,
    PARENT,
    RANGES_FILE,
    REGULAR,
    SYMLINK,
    ManifestFile,
)
from shadowset.requester.restore.choose import RestoreItem
from shadowset.requester.restore.place import Placement
from shadowset.requester.restore.puts import Put, directed_spans, put_at
from shadowset.requester.restore.stale import parents, stale_files
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import BackupType, RestoreMethodType, RestoreTarget
from shadowset.vss.filespec import FileSelection, PathIndex, mapped_path, normalise, required_file_sets
from shadowset.vss.metadata import LocationMapping

Method = RestoreMethodType
STOPS_SERVICE = (Method.STOP_RESTORE_START, Method.RESTORE_STOP_START)
AT_REBOOT = (Method.RESTORE_AT_REBOOT, Method.RESTORE_AT_REBOOT_IF_CANNOT_REPLACE)
REFUSED = (Method.UNDEFINED, Method.CUSTOM)


@dataclass
class Way:
    """Where the files of an item go, and how.

    ``moved`` says that some of them do not go to their own places, ``mappings`` which alternate ones were used.
    """

    puts: list[Put]
    mappings: list[LocationMapping] = field(default_factory=list)
    moved: bool = False
    at_reboot: bool = False


def refuse_methods(items: list[RestoreItem]) -> None:
    """Refuse what a writer wants done that no requester can do for it. Errors: VSS_E_NOT_SUPPORTED."""
    for item in items:
        method = item.metadata.restore_method
        if method.method in REFUSED:
            how = f"; its documentation is at {method.user_procedure}" if method.user_procedure else ""
            raise VssError(
                Code.VSS_E_NOT_SUPPORTED,
                f"writer {item.metadata.name} wants its components restored by {method.method.name}, its own way{how}; "
                "restore the files with --to DIR and put them in place by it",
            )
        if method.method in AT_REBOOT and not item.component.whole:
            raise VssError(
                Code.VSS_E_NOT_SUPPORTED,
                f"writer {item.metadata.name} wants its components restored by {method.method.name}, which cannot be "
                "done with a chain of backups; restore the files with --to DIR and put them in place by hand",
            )


def find_way(
    item: RestoreItem,
    component: Component | None,
    variables: Mapping[str, str],
    mapped_before: bool | None = None,
    check: bool = True,
) -> Way:
    """The way of an item's files. ``component`` is what its writer left in the document in PreRestore.

    ``mapped_before`` tells where an earlier backup of its chain went: then there is no choice between its own and
    alternate places. Without ``check`` what lies at its own places is not looked at. Errors: VssError when there is no
    place for them; OSError.
    """
    files = [file for file in item.files if file.kind != RANGES_FILE]
    moved, rest = _by_new_targets(files, component, variables)
    directed, rest = _by_directed_targets(rest, component)
    moved += directed
    if moved:
        moved += _directories(files, component.new_targets if component else (), variables)
        rest = _without_empty_directories(rest)
    if not check:
        return Way([*moved, *(put_at(file, file.path) for file in rest)], moved=bool(moved))
    Placement(item.link.directory, moved).require_replaceable()
    way = _rest(item, rest, component, variables, mapped_before)
    return Way([*moved, *way.puts], way.mappings, bool(moved) or bool(way.mappings), way.at_reboot)


def _by_new_targets(
    files: list[ManifestFile], component: Component | None, variables: Mapping[str, str]
) -> tuple[list[Put], list[ManifestFile]]:
    index = PathIndex(component.new_targets if component else (), variables)
    puts, rest = [], []
    for file in files:
        target = index.find(file.path) if file.kind not in (DIRECTORY, PARENT) else None
        if target is None:
            rest.append(file)
        else:
            puts.append(put_at(file, mapped_path(target, file.path, variables)))
    return puts, rest


def _directories(
    files: list[ManifestFile], mappings: Iterable[LocationMapping], variables: Mapping[str, str]
) -> list[Put]:
    """The directories of file sets that go elsewhere as trees: empty ones go too, and those made are as they were."""
    index = PathIndex(mappings, variables)
    puts = []
    for file in files:
        inside = f"{file.path}/*"
        mapping = index.find(inside) if file.kind in (DIRECTORY, PARENT) else None
        if mapping is not None and mapping.recursive:
            puts.append(Put(file, os.path.dirname(mapped_path(mapping, inside, variables)), own=False))
    return puts


def _without_empty_directories(files: list[ManifestFile]) -> list[ManifestFile]:
    """Without directories whose files have all gone elsewhere."""
    needed = {directory for file in files if file.kind not in (DIRECTORY, PARENT) for directory in parents(file.path)}
    return [file for file in files if file.kind not in (DIRECTORY, PARENT) or file.path in needed]


def _by_directed_targets(
    files: list[ManifestFile], component: Component | None
) -> tuple[list[Put], list[ManifestFile]]:
    """Errors: VSS_E_OBJECT_NOT_FOUND for a source that is not in the backup, E_INVALIDARG for wrong ranges."""
    if component is None or component.restore_target != RestoreTarget.DIRECTED:
        return [], files
    by_path = {file.path: file for file in files if file.kind in FILE_KINDS}
    puts, used = [], set()
    for target in component.directed_targets:
        source = normalise(f"{target.source_path}/{target.source_filename}")
        if source not in by_path:
            raise VssError(
                Code.VSS_E_OBJECT_NOT_FOUND, f"its writer directs {source} elsewhere, which is not in the backup"
            )
        used.add(source)
        if by_path[source].kind != REGULAR:
            continue  # an earlier backup of the chain has brought it there
        spans = directed_spans(by_path[source], target.source_ranges, target.destination_ranges)
        destination = normalise(f"{target.destination_path}/{target.destination_filename}")
        puts.append(Put(by_path[source], destination, spans, own=False))
    return puts, [file for file in files if file.path not in used]


def _rest(
    item: RestoreItem,
    files: list[ManifestFile],
    component: Component | None,
    variables: Mapping[str, str],
    mapped_before: bool | None,
) -> Way:
    original = Placement(item.link.directory, [put_at(file, file.path) for file in files])
    own = Way([put_at(file, file.path) for file in files])
    target = component.restore_target if component else RestoreTarget.UNDEFINED
    if target == RestoreTarget.ALTERNATE:
        return _mapped(item, files, "the writer asks for it", variables)
    if target == RestoreTarget.ORIGINAL_LOCATION or mapped_before is False:
        original.require_replaceable()
        return own
    if mapped_before:
        return _mapped(item, files, "the backup that it builds on went there", variables)
    return _by_method(item, files, own, original, variables)


def _by_method(
    item: RestoreItem, files: list[ManifestFile], own: Way, original: Placement, variables: Mapping[str, str]
) -> Way:
    method = item.metadata.restore_method.method
    if method == Method.RESTORE_AT_REBOOT:
        return Way(own.puts, at_reboot=True)
    if method == Method.RESTORE_TO_ALTERNATE_LOCATION:
        return _mapped(item, files, "its writer's restore method asks for it", variables)
    if method == Method.RESTORE_IF_NOT_THERE and (there := original.existing()):
        return _mapped(item, files, f"{there} is there, and its writer wants nothing replaced", variables)
    try:
        original.require_replaceable()
    except VssError as error:
        if method == Method.RESTORE_AT_REBOOT_IF_CANNOT_REPLACE:
            return Way(own.puts, at_reboot=True)
        return _mapped(item, files, error.message, variables)
    return own


def _mapped(item: RestoreItem, files: list[ManifestFile], why: str, variables: Mapping[str, str]) -> Way:
    index = PathIndex(item.metadata.alternate_location_mappings, variables)
    way = Way([])
    for file in files:
        if file.kind in (DIRECTORY, PARENT):
            continue
        mapping = index.find(file.path)
        if mapping is None:
            raise VssError(
                Code.VSS_E_BAD_STATE,
                f"component {item.path} must go to another place ({why}), and there is none for {file.path}; "
                "restore the files with --to DIR",
            )
        way.puts.append(put_at(file, mapped_path(mapping, file.path, variables)))
        way.mappings += [mapping] if mapping not in way.mappings else []
    way.puts += _directories(files, way.mappings, variables)
    Placement(item.link.directory, way.puts).require_replaceable()
    return way


def stale_of(item: RestoreItem, way: Way, variables: Mapping[str, str]) -> list[str]:
    """What has to go: for a component that is whole in the backup all else in its file sets, for one that builds on
    another backup what went since then. Nothing where files did not go to their own places. Errors: OSError.

    Only file sets count that a backup of this type had to take, or files it never looked at would go.
    """
    if way.moved:
        return []
    if not item.component.whole:
        paths = {file.path for file in item.files}
        gone = [path for path in item.component.gone if path not in paths and os.path.lexists(path)]
        mine = FileSelection(item.file_sets, (), variables)
        return [path for path in gone if item.member is None or mine.file_set(path) is not None]
    kind = BackupType.FULL if item.component.why else item.link.backup_type
    file_sets = [files for info in item.infos for files in required_file_sets(info, kind)]
    kept = [file.path for file in item.link.manifest.files if file.kind in (REGULAR, SYMLINK)]
    excluded = (*item.metadata.exclude_files, *item.link.manifest.excluded)
    return stale_files(file_sets, excluded, kept, variables)
