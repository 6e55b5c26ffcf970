"""Operations on the backup components document of a session, pure."""

from __future__ import annotations

from copy import copy

from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument, Component, RestoreSubcomponent, WriterComponents
from shadowset.vss.enums import ComponentType, RestoreType
from shadowset.vss.metadata import LocationMapping, WriterMetadata
from shadowset.vss.selection import check_explicit

_WRITER_FIELDS = (
    "backup_metadata",
    "backup_stamp",
    "partial_files",
    "differenced_files",
    "failure",
    "prepare_for_backup_failure_message",
    "post_snapshot_failure_message",
    "restore_metadata",
    "restore_target",
    "directed_targets",
    "pre_restore_failure_message",
    "post_restore_failure_message",
)
"""What a writer may change in its components; the rest belongs to the requester."""


_OF_ONE_RESTORE = (
    "selected_for_restore",
    "selected_instance",
    "restore_subcomponents",
    "restore_metadata",
    "restore_target",
    "additional_restores",
    "new_targets",
    "directed_targets",
    "alternate_location_mappings",
    "pre_restore_failure_message",
    "post_restore_failure_message",
    "file_restore_status",
    "authoritative_restore",
    "restore_name",
    "roll_forward",
    "roll_forward_point",
)
"""What an earlier restore with the same document chose, met or left; its options are kept, and may be replaced."""


def before_restore(document: BackupComponentsDocument) -> BackupComponentsDocument:
    """The document for a restore that has chosen nothing yet, not even its type: UNDEFINED stands for BY_COPY."""
    fresh = Component(ComponentType.UNDEFINED, "", "")
    document.restore_type = RestoreType.UNDEFINED
    for component in (each for writer in document.writers for each in writer.components):
        for field in _OF_ONE_RESTORE:
            setattr(component, field, copy(getattr(fresh, field)))
    return document


def add_component(document: BackupComponentsDocument, metadata: WriterMetadata, call: rp.AddComponent) -> None:
    """Include a component. Errors: those of ``check_explicit``, E_INVALIDARG for a wrong type."""
    writer = document.writer(metadata.writer_id, metadata.instance_id)
    explicit = [component.full_path for component in writer.components] if writer else []
    path = f"{call.logical_path}\\{call.name}" if call.logical_path else call.name
    info = check_explicit(metadata, path, explicit)
    if call.type not in (info.type, ComponentType.UNDEFINED):
        raise VssError(
            Code.E_INVALIDARG,
            f"component {path!r} of writer {metadata.name!r} is a {info.type.name}, not a {call.type.name}",
        )
    if writer is None:
        writer = WriterComponents(
            metadata.writer_id,
            metadata.instance_id,
            metadata.name,
            metadata.instance_name,
            metadata.backup_schema,
        )
        document.writers.append(writer)
    writer.components.append(Component(info.type, info.logical_path, info.name))


def find_component(document: BackupComponentsDocument, call: rp.ComponentCall) -> Component:
    """The component a call is about. Errors: VSS_E_OBJECT_NOT_FOUND."""
    writer = document.writer(call.writer_id, call.instance_id)
    component = writer.component(call.logical_path, call.name) if writer else None
    if component is None:
        path = f"{call.logical_path}\\{call.name}" if call.logical_path else call.name
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            f"component {path!r} of writer {call.writer_id} is not in the backup components document; "
            f"only components added explicitly are",
        )
    return component


def merge_reply(writer: WriterComponents, changed: list[Component]) -> list[str]:
    """Take over what a writer changed in its components; returns the full paths of those that are not its own."""
    foreign = []
    for theirs in changed:
        ours = writer.component(theirs.logical_path, theirs.name)
        if ours is None:
            foreign.append(theirs.full_path)
            continue
        for field in _WRITER_FIELDS:
            setattr(ours, field, getattr(theirs, field))
    return foreign


def apply_component_call(component: Component, call: rp.ComponentCall) -> None:
    """Carry out a call that sets something of a component. Errors: VSS_E_BAD_STATE."""
    match call:
        case rp.SetBackupOptions():
            component.backup_options = call.options
        case rp.SetPreviousBackupStamp():
            component.previous_backup_stamp = call.stamp
        case rp.SetBackupSucceeded():
            component.backup_succeeded = call.succeeded
        case rp.SetSelectedForRestore():
            component.selected_for_restore = call.selected
        case rp.SetRestoreOptions():
            component.restore_options = call.options
        case rp.SetAdditionalRestores():
            component.additional_restores = call.additional
        case rp.SetFileRestoreStatus():
            component.file_restore_status = call.status
        case rp.AddRestoreSubcomponent():
            _add_subcomponent(component, call)
        case rp.AddAlternativeLocationMapping():
            component.alternate_location_mappings.append(
                LocationMapping(call.path, call.filespec, call.recursive, call.destination)
            )


def _add_subcomponent(component: Component, call: rp.AddRestoreSubcomponent) -> None:
    if not component.selected_for_restore:
        raise VssError(
            Code.VSS_E_BAD_STATE,
            f"component {component.full_path!r} must be selected for restore before one of its members is",
        )
    component.restore_subcomponents.append(RestoreSubcomponent(call.sub_logical_path, call.sub_name))
