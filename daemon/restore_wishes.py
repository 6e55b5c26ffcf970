"""What a requester wishes of a restore beyond bringing the files back, pure: kept only where the writer supports it."""

from __future__ import annotations

from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component, WriterComponents
from shadowset.vss.enums import BackupSchema, RollForward
from shadowset.vss.metadata import LocationMapping, WriterMetadata
from shadowset.vss.selection import find_file_set

_NEEDED: dict[type[rp.ComponentCall], BackupSchema] = {
    rp.AddNewTarget: BackupSchema.WRITER_SUPPORTS_NEW_TARGET,
    rp.SetAuthoritativeRestore: BackupSchema.AUTHORITATIVE_RESTORE,
    rp.SetRestoreName: BackupSchema.RESTORE_RENAME,
    rp.SetRollForward: BackupSchema.ROLLFORWARD_RESTORE,
    rp.SetSelectedForRestoreEx: BackupSchema.WRITER_SUPPORTS_RESTORE_WITH_MOVE,
}


def require_supported(entry: WriterComponents, call: rp.ComponentCall) -> None:
    """Errors: VSS_E_NOT_SUPPORTED when the writer's backup schema, as it was at the backup, lacks the bit."""
    bit = _NEEDED.get(type(call))
    if bit is not None and not entry.backup_schema & bit:
        raise VssError(
            Code.VSS_E_NOT_SUPPORTED,
            f"writer {entry.name or entry.writer_id} has no {bit.name} in its backup schema; restore without it",
        )


def require_file_set(metadata: WriterMetadata, component: Component, call: rp.AddNewTarget) -> None:
    """Errors: VSS_E_OBJECT_NOT_FOUND for no file set of the component; E_INVALIDARG for a relative destination."""
    find_file_set(metadata, component.full_path, call.path, call.filespec, call.recursive)
    _require_absolute(call.destination, "new target")


def apply_wish(component: Component, call: rp.ComponentCall) -> None:
    """Carry out a call. Errors: E_INVALIDARG; VSS_E_OBJECT_NOT_FOUND for a partial file that is not there."""
    match call:
        case rp.AddNewTarget():
            target = LocationMapping(call.path, call.filespec, call.recursive, call.destination)
            component.new_targets = [each for each in component.new_targets if not _same_files(each, target)]
            component.new_targets.append(target)
        case rp.SetAuthoritativeRestore():
            component.authoritative_restore = call.authoritative
        case rp.SetRestoreName():
            component.restore_name = call.restore_name
        case rp.SetRollForward():
            _roll_forward(component, call)
        case rp.SetRangesFilePath():
            _ranges_file(component, call)


def _same_files(one: LocationMapping, other: LocationMapping) -> bool:
    return (one.path, one.filespec, one.recursive) == (other.path, other.filespec, other.recursive)


def _roll_forward(component: Component, call: rp.SetRollForward) -> None:
    if bool(call.point) != (call.roll_forward == RollForward.PARTIAL):
        raise VssError(
            Code.E_INVALIDARG,
            f"component {component.full_path!r}: a point to roll forward to goes with PARTIAL and with nothing else",
        )
    component.roll_forward = call.roll_forward
    component.roll_forward_point = call.point


def _ranges_file(component: Component, call: rp.SetRangesFilePath) -> None:
    _require_absolute(call.ranges_file, "ranges file")
    if not 0 <= call.partial_file < len(component.partial_files):
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            f"component {component.full_path!r} has {len(component.partial_files)} partial files, "
            f"counted from 0, and none with number {call.partial_file}",
        )
    component.partial_files[call.partial_file].ranges = call.ranges_file


def _require_absolute(path: str, what: str) -> None:
    if not path.startswith("/"):
        raise VssError(Code.E_INVALIDARG, f"the {what} {path[:60]!r} is no absolute path; begin it with /")
