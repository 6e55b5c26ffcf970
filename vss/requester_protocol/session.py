"""Calls of a session that makes shadow copies: IVssBackupComponents in the order of a backup."""

from __future__ import annotations

from shadowset.vss.enums import BackupType, ComponentType
from shadowset.vss.requester_protocol.messages import Call


class InitializeForBackup(Call, tag="initialize-for-backup"):
    """Result: the session id."""


class SetContext(Call, tag="set-context"):
    """VSS_SNAPSHOT_CONTEXT with attribute modifiers. Once, before start-snapshot-set."""

    context: int


class SetBackupState(Call, tag="set-backup-state"):
    """Before prepare-for-backup."""

    select_components: bool
    bootable_system_state: bool
    backup_type: BackupType
    partial_files: bool = False


class EnableWriterClasses(Call, tag="enable-writer-classes"):
    """Only these classes take part. Before gather-writer-metadata."""

    writer_ids: list[str]


class DisableWriterClasses(Call, tag="disable-writer-classes"):
    """These classes take no part. Before gather-writer-metadata."""

    writer_ids: list[str]


class DisableWriterInstances(Call, tag="disable-writer-instances"):
    """These instances take no part. Before gather-writer-metadata."""

    instance_ids: list[str]


class GatherWriterMetadata(Call, tag="gather-writer-metadata"):
    """Identify all writers. Once. Result: list of WriterMetadata."""


class ComponentCall(Call):
    """Base of calls about one component of one writer."""

    writer_id: str
    instance_id: str
    type: ComponentType
    logical_path: str
    name: str


class AddComponent(ComponentCall, tag="add-component"):
    """Include a component explicitly. After gather-writer-metadata, before start-snapshot-set."""


class SetBackupOptions(ComponentCall, tag="set-backup-options"):
    """Before prepare-for-backup."""

    options: str


class SetPreviousBackupStamp(ComponentCall, tag="set-previous-backup-stamp"):
    """Before prepare-for-backup or pre-restore."""

    stamp: str


class SetBackupSucceeded(ComponentCall, tag="set-backup-succeeded"):
    """After do-snapshot-set, before backup-complete."""

    succeeded: bool


class StartSnapshotSet(Call, tag="start-snapshot-set"):
    """Result: the set id.

    A set whose ``volumes`` (names, devices or paths) are named here is made beside others that share no volume and no
    writer with it; one without is made alone. ``wait_ms`` is how long to wait for this one's turn, in the order of the
    calls; 0 means VSS_E_SNAPSHOT_SET_IN_PROGRESS at once. A notice tells when the place changes; its ``total`` is how
    many are ahead.
    """

    wait_ms: int = 0
    volumes: list[str] = []


class IsVolumeSupported(Call, tag="is-volume-supported"):
    """Result: bool. ``volume`` is a name, a device or a path on the volume."""

    volume: str
    provider_id: str = ""


class AddToSnapshotSet(Call, tag="add-to-snapshot-set"):
    """``volume`` is a name, a device or a path on the volume. Result: the snapshot id."""

    volume: str
    provider_id: str = ""


class PrepareForBackup(Call, tag="prepare-for-backup"):
    """Send prepare-backup to the writers. After set-backup-state and start-snapshot-set."""


class GatherWriterStatus(Call, tag="gather-writer-status"):
    """Result: list of WriterStatus as they stand in this session."""


class DoSnapshotSet(Call, tag="do-snapshot-set"):
    """Make the set. Result: SetRecord."""


class GetSnapshotProperties(Call, tag="get-snapshot-properties"):
    """Result: SnapshotProperties."""

    snapshot_id: str


class BackupComplete(Call, tag="backup-complete"):
    """Send backup-complete to the writers."""


class AbortBackup(Call, tag="abort-backup"):
    """Give up; harmless after do-snapshot-set has returned."""


class GetDocument(Call, tag="get-document"):
    """Result: BackupComponentsDocument. Never before prepare-for-backup."""


class SaveAsXml(Call, tag="save-as-xml"):
    """Result: the backup components document as XML text. Never before prepare-for-backup."""
