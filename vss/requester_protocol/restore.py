"""Calls of a session that restores: what is wanted, before and after the files are put back."""

from __future__ import annotations

from shadowset.vss.enums import FileRestoreStatus, RestoreType, RollForward
from shadowset.vss.requester_protocol.messages import Call
from shadowset.vss.requester_protocol.session import ComponentCall


class InitializeForRestore(Call, tag="initialize-for-restore"):
    """Start a restore from a saved backup components document (XML). Result: the session id."""

    document: str


class SetRestoreState(Call, tag="set-restore-state"):
    """Before pre-restore."""

    restore_type: RestoreType


class SetSelectedForRestore(ComponentCall, tag="set-selected-for-restore"):
    """Before pre-restore. The writer must run: VSS_E_OBJECT_NOT_FOUND."""

    selected: bool = True


class SetSelectedForRestoreEx(SetSelectedForRestore, tag="set-selected-for-restore-ex"):
    """As set-selected-for-restore, for another running instance of the writer's class to take the component over.

    Before pre-restore. All selected components of a writer go to one instance. Errors: VSS_E_OBJECT_NOT_FOUND,
    VSS_E_NOT_SUPPORTED without the writer's schema bit, VSS_E_OBJECT_ALREADY_EXISTS for an instance that is taken.
    """

    selected_instance: str = ""


class AddNewTarget(ComponentCall, tag="add-new-target"):
    """Restore the files of one file set elsewhere. Before pre-restore. A second one of the same set replaces it.

    Errors: VSS_E_NOT_SUPPORTED without the writer's schema bit, VSS_E_OBJECT_NOT_FOUND for no file set of the writer.
    """

    path: str
    filespec: str
    recursive: bool
    destination: str


class SetRangesFilePath(ComponentCall, tag="set-ranges-file-path"):
    """Where the ranges file of a partial file, counted from 0, lies now. Before pre-restore."""

    partial_file: int
    ranges_file: str


class SetAuthoritativeRestore(ComponentCall, tag="set-authoritative-restore"):
    """Before pre-restore. Errors: VSS_E_NOT_SUPPORTED without the writer's schema bit."""

    authoritative: bool


class SetRestoreName(ComponentCall, tag="set-restore-name"):
    """The name that the component is to have. Before pre-restore. Errors: VSS_E_NOT_SUPPORTED as above."""

    restore_name: str


class SetRollForward(ComponentCall, tag="set-roll-forward"):
    """How far to roll forward; a point goes with PARTIAL. Before pre-restore. Errors: VSS_E_NOT_SUPPORTED as above."""

    roll_forward: RollForward
    point: str = ""


class AddRestoreSubcomponent(ComponentCall, tag="add-restore-subcomponent"):
    """Restore one member of a selected component set. Before pre-restore."""

    sub_logical_path: str
    sub_name: str


class SetRestoreOptions(ComponentCall, tag="set-restore-options"):
    """After gather-writer-metadata, before pre-restore; once per component in a session."""

    options: str


class SetAdditionalRestores(ComponentCall, tag="set-additional-restores"):
    """More restores will follow. After gather-writer-metadata, before pre-restore."""

    additional: bool


class AddAlternativeLocationMapping(ComponentCall, tag="add-alternative-location-mapping"):
    """Files of this set were put elsewhere. Before post-restore."""

    path: str
    filespec: str
    recursive: bool
    destination: str


class SetFileRestoreStatus(ComponentCall, tag="set-file-restore-status"):
    """How the restore of the files went. Before post-restore."""

    status: FileRestoreStatus


class PreRestore(Call, tag="pre-restore"):
    """Send pre-restore to the writers with selected components."""


class PostRestore(Call, tag="post-restore"):
    """Send post-restore to the writers with selected components."""
