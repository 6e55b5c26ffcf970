"""The Backup Components Document as a value: what was chosen, how it went, and what was left in it."""

from __future__ import annotations

import msgspec

from shadowset.vss.enums import BackupType, ComponentType, FileRestoreStatus, RestoreTarget, RestoreType, RollForward
from shadowset.vss.metadata import LocationMapping


class PartialFile(msgspec.Struct):
    """Ranges of a file to back up: ``offset:length,…`` (decimal or 0x hexadecimal) or the path of a ranges file."""

    path: str
    filename: str
    ranges: str
    metadata: str = ""


class DifferencedFile(msgspec.Struct):
    """Files to back up when changed since a time in Unix nanoseconds; 0 leaves the judgement to the requester.

    ``lsn`` is the writer's own mark of the same instant, for requesters that understand it.
    """

    path: str
    filespec: str
    recursive: bool = False
    last_modified_ns: int = 0
    lsn: str = ""


class DirectedTarget(msgspec.Struct):
    """Ranges of a backed-up file that go to ranges of another file."""

    source_path: str
    source_filename: str
    source_ranges: str
    destination_path: str
    destination_filename: str
    destination_ranges: str


class RestoreSubcomponent(msgspec.Struct):
    """A member of a component set that is to be restored by itself."""

    logical_path: str
    name: str


class Failure(msgspec.Struct):
    """A code, the application's own code and a sentence."""

    code: int = 0
    application_code: int = 0
    message: str = ""


class Component(msgspec.Struct):
    """One explicitly included component.

    ``roll_forward_point`` is in the writer's own words and counts with PARTIAL only; ``selected_instance`` is the
    instance of the writer that takes the component in place of the one that was backed up.
    """

    type: ComponentType
    logical_path: str
    name: str
    backup_succeeded: bool = False
    backup_options: str = ""
    backup_metadata: str = ""
    backup_stamp: str = ""
    previous_backup_stamp: str = ""
    partial_files: list[PartialFile] = []
    differenced_files: list[DifferencedFile] = []
    failure: Failure = msgspec.field(default_factory=Failure)
    prepare_for_backup_failure_message: str = ""
    post_snapshot_failure_message: str = ""
    selected_for_restore: bool = False
    restore_subcomponents: list[RestoreSubcomponent] = []
    restore_options: str = ""
    restore_metadata: str = ""
    additional_restores: bool = False
    new_targets: list[LocationMapping] = []
    alternate_location_mappings: list[LocationMapping] = []
    restore_target: RestoreTarget = RestoreTarget.UNDEFINED
    directed_targets: list[DirectedTarget] = []
    pre_restore_failure_message: str = ""
    post_restore_failure_message: str = ""
    file_restore_status: FileRestoreStatus = FileRestoreStatus.UNDEFINED
    authoritative_restore: bool = False
    restore_name: str = ""
    roll_forward: RollForward = RollForward.UNDEFINED
    roll_forward_point: str = ""
    selected_instance: str = ""

    @property
    def full_path(self) -> str:
        """Logical path and name joined: the identity of the component within its writer."""
        return f"{self.logical_path}\\{self.name}" if self.logical_path else self.name


class WriterComponents(msgspec.Struct):
    """The components of one writer instance."""

    writer_id: str
    instance_id: str
    name: str = ""
    instance_name: str = ""
    backup_schema: int = 0
    components: list[Component] = []

    @property
    def selected_instance(self) -> str:
        """The instance that its selected components were moved to (SetSelectedForRestoreEx), or an empty string."""
        chosen = [each.selected_instance for each in self.components if each.selected_for_restore]
        return next(filter(None, chosen), "")

    def component(self, logical_path: str, name: str) -> Component | None:
        """The component with this identity, or None."""
        for component in self.components:
            if component.logical_path == logical_path and component.name == name:
                return component
        return None


class BackupComponentsDocument(msgspec.Struct):
    """The whole document."""

    select_components: bool = True
    bootable_system_state: bool = False
    backup_type: BackupType = BackupType.COPY
    partial_files: bool = False
    restore_type: RestoreType = RestoreType.UNDEFINED
    snapshot_set_id: str = ""
    session_id: str = ""
    writers: list[WriterComponents] = []

    def writer(self, writer_id: str, instance_id: str = "") -> WriterComponents | None:
        """The writer with this class id (and instance id, when given), or None."""
        for writer in self.writers:
            if writer.writer_id == writer_id and instance_id in ("", writer.instance_id):
                return writer
        return None
