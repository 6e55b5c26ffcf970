"""Faults of a Backup Components Document, each as one sentence that says what to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from shadowset.vss.codes import Code, VssError, describe
from shadowset.vss.components import (
    BackupComponentsDocument,
    Component,
    DirectedTarget,
    PartialFile,
    WriterComponents,
)
from shadowset.vss.enums import BackupSchema, BackupType, RestoreTarget, RollForward
from shadowset.vss.ranges import names_ranges_file, parse_ranges
from shadowset.vss.selection.dependencies import guid_key
from shadowset.vss.validate import is_guid, name_faults, path_faults, pattern_faults, unknown_bits

FAILURE_CODES = (
    Code.S_OK,
    Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT,
    Code.VSS_E_WRITERERROR_OUTOFRESOURCES,
    Code.VSS_E_WRITERERROR_TIMEOUT,
    Code.VSS_E_WRITERERROR_RETRYABLE,
    Code.VSS_E_WRITERERROR_NONRETRYABLE,
)


def validate_components(document: BackupComponentsDocument) -> list[str]:
    """One sentence for each fault; an empty list when the document can be restored from."""
    return [*_whole(document), *(fault for writer in document.writers for fault in _writer(writer))]


def _whole(document: BackupComponentsDocument) -> Iterator[str]:
    if document.backup_type == BackupType.UNDEFINED:
        yield "the kind of backup is undefined; say full, copy, incremental, differential, log or other"
    for what, guid in (("shadow copy set", document.snapshot_set_id), ("session", document.session_id)):
        if guid and not is_guid(guid):
            yield f"the id {guid!r} of the {what} is not a GUID; take the one that the coordinator gave"
    if not document.select_components and any(writer.components for writer in document.writers):
        yield "it lists components, and is of a backup by volumes; leave them out or choose a backup by components"
    instances = Counter((guid_key(writer.writer_id), guid_key(writer.instance_id)) for writer in document.writers)
    for (writer_id, instance_id), count in instances.items():
        if count > 1:
            yield f"instance {instance_id!r} of writer {writer_id!r} is there {count} times; put all into one element"


def _writer(writer: WriterComponents) -> Iterator[str]:
    if not is_guid(writer.writer_id):
        yield f"the writer id {writer.writer_id!r} is not a GUID; take the one in the writer's metadata"
    if not is_guid(writer.instance_id):
        yield f"the instance id {writer.instance_id!r} is not a GUID; take the one in the writer's metadata"
    if unknown_bits(writer.backup_schema, BackupSchema):
        yield f"the backup schema {writer.backup_schema:#x} has bits that VSS does not know; clear them"
    for (path, name), count in Counter((c.logical_path, c.name) for c in writer.components).items():
        if count > 1:
            yield f"component {name!r} with logical path {path!r} is there {count} times; keep one of them"
    for component in writer.components:
        yield from _component(writer, component)


def _component(writer: WriterComponents, component: Component) -> Iterator[str]:
    what = f"component {component.full_path!r}"
    yield from name_faults(what, component.logical_path, component.name)
    if component.failure.code not in FAILURE_CODES:
        yield f"{what} failed with {describe(component.failure.code)}, which is none of the six codes for a component"
    for partial in component.partial_files:
        yield from _partial_file(f"the partial file {partial.path!r} {partial.filename!r} of {what}", partial)
    partial_names = {(partial.path, partial.filename) for partial in component.partial_files}
    for files in component.differenced_files:
        place = f"the differenced files {files.path!r} {files.filespec!r} of {what}"
        yield from path_faults(place, "path", files.path)
        yield from pattern_faults(place, files.filespec)
        if files.last_modified_ns < 0:
            yield f"{place} have a time before 1970; give 0 where the requester is to judge"
        if (files.path, files.filespec) in partial_names:
            yield f"{place} are partial files as well; keep one of the two"
    yield from _restore(writer, component, what)


def _partial_file(what: str, partial: PartialFile) -> Iterator[str]:
    yield from path_faults(what, "path", partial.path)
    yield from _file_name(what, partial.filename)
    if not names_ranges_file(partial.ranges):
        yield from _ranges(what, partial.ranges)


def _file_name(what: str, name: str) -> Iterator[str]:
    if not name or "/" in name:
        yield f"{what} has {name!r} as the name of a file; give one name and put directories into the path"


def _ranges(what: str, text: str) -> Iterator[str]:
    try:
        parse_ranges(text)
    except VssError as error:
        yield f"{what} has bad ranges: {error.message}"


def _restore(writer: WriterComponents, component: Component, what: str) -> Iterator[str]:
    if component.restore_subcomponents and not component.selected_for_restore:
        yield f"{what} has members to restore and is not selected for restore itself; select it"
    if component.new_targets and not writer.backup_schema & BackupSchema.WRITER_SUPPORTS_NEW_TARGET:
        yield f"{what} has a new target, which its writer does not support; restore to the original place"
    for present, bit, wish in (
        (component.authoritative_restore, BackupSchema.AUTHORITATIVE_RESTORE, "an authoritative restore"),
        (component.restore_name, BackupSchema.RESTORE_RENAME, "a new name"),
        (component.roll_forward, BackupSchema.ROLLFORWARD_RESTORE, "a roll-forward"),
        (component.selected_instance, BackupSchema.WRITER_SUPPORTS_RESTORE_WITH_MOVE, "another instance"),
    ):
        if present and not writer.backup_schema & bit:
            yield f"{what} is to be restored with {wish}, which its writer does not support; take the wish out"
    if bool(component.roll_forward_point) != (component.roll_forward == RollForward.PARTIAL):
        yield f"{what} has a point to roll forward to without PARTIAL, or PARTIAL without a point; give both or none"
    if component.selected_instance and not is_guid(component.selected_instance):
        yield f"{what} is selected for instance {component.selected_instance!r}, which is no GUID; take a running one's"
    for mapping in component.new_targets + component.alternate_location_mappings:
        place = f"the mapping of {mapping.path!r} {mapping.filespec!r} of {what}"
        yield from path_faults(place, "path", mapping.path)
        yield from pattern_faults(place, mapping.filespec)
        yield from path_faults(place, "new path", mapping.alternate_path)
    if component.restore_target == RestoreTarget.DIRECTED and not component.directed_targets:
        yield f"{what} has the restore target DIRECTED and no directed target; add them or choose another target"
    for target in component.directed_targets:
        yield from _directed(what, target)


def _directed(what: str, target: DirectedTarget) -> Iterator[str]:
    place = f"the directed target {target.source_path!r} {target.source_filename!r} of {what}"
    yield from path_faults(place, "source path", target.source_path)
    yield from path_faults(place, "destination path", target.destination_path)
    yield from _file_name(place, target.source_filename)
    yield from _file_name(place, target.destination_filename)
    faults = [*_ranges(place, target.source_ranges), *_ranges(place, target.destination_ranges)]
    yield from faults
    if not faults:
        taken, given = (
            [each.length for each in parse_ranges(text)] for text in (target.source_ranges, target.destination_ranges)
        )
        if taken != given:
            yield f"{place} moves ranges of {taken} bytes to ranges of {given} bytes; make them equally long in pairs"
