"""Messages between requesters and the coordinator, over ``requester.sock``.

Each call carries a ``seq``; the coordinator answers with ``result`` or ``failure`` of the same ``seq``, and may send
``notice`` messages in between. A connection is a lease: when it closes, the session it carries is aborted and its
auto-release copies go. Calls have the names and the order rules of IVssBackupComponents, and out-of-order calls fail
with VSS_E_BAD_STATE. ``RESULTS`` names each call's result type.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shadowset.vss.components import BackupComponentsDocument, Failure
from shadowset.vss.enums import (
    BackupType,
    ComponentType,
    FileRestoreStatus,
    Level,
    ObjectType,
    ProviderType,
    RestoreType,
    RollForward,
    SnapshotState,
    WriterState,
)
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.wire import PROTOCOL_VERSION, Message

# ---- values ----


class WriterStatus(msgspec.Struct):
    """A writer in this session (GetWriterStatus), with what an administrator needs to find its process.

    ``freeze_timeout_ms`` is what the writer asked for, ``freeze_window_ms`` what the coordinator gives it.
    """

    writer_id: str
    instance_id: str
    name: str
    state: WriterState
    failure: Failure = msgspec.field(default_factory=Failure)
    instance_name: str = ""
    level: Level = Level.FRONT_END
    freeze_timeout_ms: int = 0
    pid: int = 0
    uid: int = 0
    executable: str = ""
    connected: bool = True
    freeze_window_ms: int = 0


class SnapshotProperties(msgspec.Struct):
    """VSS_SNAPSHOT_PROP, with the volume's name in Shadowset and the copy's generation in the shadow storage."""

    snapshot_id: str
    snapshot_set_id: str
    snapshots_count: int
    device_object: str
    original_volume: str
    originating_machine: str
    service_machine: str
    exposed_name: str
    exposed_path: str
    provider_id: str
    attributes: int
    created_ns: int
    status: SnapshotState
    size: int
    number: int
    device_number: int
    mount_points: list[str]
    priority: int = 128
    hold_until_ns: int = 0


class TimelineEntry(msgspec.Struct):
    """Who did what when: milliseconds since the set's ``do-snapshot-set`` began, on the monotonic clock."""

    actor: str
    phase: str
    start_ms: float
    end_ms: float
    code: int = 0
    message: str = ""


class VolumeTimes(msgspec.Struct):
    """What the cut cost one volume, in milliseconds."""

    volume: str
    drain_ms: float
    hold_ms: float
    waited: int
    frozen_ms: float
    cut_offset_ms: float


class SetRecord(msgspec.Struct):
    """A shadow copy set and how it was made; ``skew_ms`` is the time from its first to its last commit."""

    set_id: str
    session_id: str
    created_ns: int
    context: int
    status: SnapshotState
    skew_ms: float
    snapshots: list[SnapshotProperties]
    volumes: list[VolumeTimes]
    timeline: list[TimelineEntry]
    writers: list[WriterStatus]
    failure: Failure = msgspec.field(default_factory=Failure)


class VolumeInfo(msgspec.Struct):
    """A protected volume; ``device`` is the block device while attached, ``state`` is online, offline or failed."""

    name: str
    origin: str
    storage: str
    size: int
    chunk_size: int
    state: str
    device: str
    via: str
    mount_points: list[str]
    copies: int
    storage_used: int
    nbd_socket: str
    pid: int
    message: str = ""


class ProviderInfo(msgspec.Struct, frozen=True):
    """VSS_PROVIDER_PROP, with what the provider can do and how many shadow copies of it exist.

    ``version_id`` is a GUID of its own for each version, ``class_id`` one of the implementation; ``capabilities`` are
    bits of ProviderCapability.
    """

    provider_id: str
    name: str
    type: ProviderType
    version: str
    version_id: str
    class_id: str
    capabilities: int
    copies: int = 0


class StorageInfo(msgspec.Struct):
    """A volume's shadow storage (VSS_DIFF_AREA_PROP); sizes in bytes, ``max_size`` 0 is unlimited.

    ``policy`` is delete-oldest, refuse-new or protect-copies.
    """

    volume: str
    storage: str
    used: int
    available: int
    max_size: int
    policy: str
    warn_percent: int
    copies: int


class RevertStatus(msgspec.Struct):
    """A revert of a volume (QueryRevertStatus); ``done`` of ``total`` bytes.

    ``phase`` is preparing (nothing is changed yet), writing, stopped for ``reason``, or none when there is no revert.
    """

    volume: str
    phase: str = "none"
    snapshot_id: str = ""
    done: int = 0
    total: int = 0
    reason: str = ""


class DeleteResult(msgspec.Struct):
    """How many were deleted, and the first one that was not."""

    deleted: int
    not_deleted: str = ""
    message: str = ""


class EventRecord(msgspec.Struct):
    """One entry of the coordinator's event list."""

    id: int
    time_ns: int
    name: str
    message: str
    volume: str = ""
    set_id: str = ""


class ServiceInfo(msgspec.Struct):
    """The coordinator itself."""

    version: str
    protocol: int
    pid: int
    sessions: int
    writers: int
    volumes: int


# ---- calls ----


class Call(Message):
    """Base of all calls; ``seq`` ties the answer to it."""

    seq: int


class ServiceHello(Call, tag="hello"):
    """First call of a connection. Result: ServiceInfo."""

    client: str = ""
    protocol: int = PROTOCOL_VERSION


class InitializeForBackup(Call, tag="initialize-for-backup"):
    """Result: the session id."""


class InitializeForRestore(Call, tag="initialize-for-restore"):
    """Start a restore from a saved backup components document (XML). Result: the session id."""

    document: str


class SetContext(Call, tag="set-context"):
    """VSS_SNAPSHOT_CONTEXT with attribute modifiers. Once, before start-snapshot-set."""

    context: int


class SetBackupState(Call, tag="set-backup-state"):
    """Before prepare-for-backup."""

    select_components: bool
    bootable_system_state: bool
    backup_type: BackupType
    partial_files: bool = False


class SetRestoreState(Call, tag="set-restore-state"):
    """Before pre-restore."""

    restore_type: RestoreType


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


class StartSnapshotSet(Call, tag="start-snapshot-set"):
    """Result: the set id.

    One set is made at a time. ``wait_ms`` is how long to wait for this one's turn, in the order of the calls; 0 means
    VSS_E_SNAPSHOT_SET_IN_PROGRESS at once. A notice tells when the place changes; its ``total`` is how many are ahead.
    """

    wait_ms: int = 0


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


class PreRestore(Call, tag="pre-restore"):
    """Send pre-restore to the writers with selected components."""


class PostRestore(Call, tag="post-restore"):
    """Send post-restore to the writers with selected components."""


class Query(Call, tag="query"):
    """Result: list of SnapshotProperties; empty filters match all."""

    snapshot_id: str = ""
    set_id: str = ""
    volume: str = ""


class DeleteSnapshots(Call, tag="delete-snapshots"):
    """Result: DeleteResult."""

    object_id: str
    object_type: ObjectType = ObjectType.SNAPSHOT
    force: bool = False


class KeepSnapshot(Call, tag="keep-snapshot"):
    """Change what is not null: ``priority`` 0 to 255, the lowest goes first when the storage is full; until
    ``hold_until_ns`` the copy is not deleted and not lost for space, 0 ends its hold. Result: SnapshotProperties.

    Errors: VSS_E_OBJECT_NOT_FOUND, E_INVALIDARG, VSS_E_BAD_STATE for a copy that goes with its session.
    """

    snapshot_id: str
    priority: int | None = None
    hold_until_ns: int | None = None


class ExposeSnapshot(Call, tag="expose-snapshot"):
    """Mount a copy read-only; without ``path`` below the run-time directory. Result: the mount point."""

    snapshot_id: str
    path: str = ""


class UnexposeSnapshot(Call, tag="unexpose-snapshot"):
    """Unmount a copy."""

    snapshot_id: str


class RevertToSnapshot(Call, tag="revert-to-snapshot"):
    """Take a detached volume back to a persistent copy; sent again, a stopped revert goes on. Result: RevertStatus.

    It returns when the revert is under way. All shadow copies stay. Errors: VSS_E_VOLUME_IN_USE while attached,
    VSS_E_UNSUPPORTED_CONTEXT for an auto-release copy, VSS_E_REVERT_IN_PROGRESS, VSS_E_INSUFFICIENT_STORAGE.
    """

    snapshot_id: str


class QueryRevertStatus(Call, tag="query-revert-status"):
    """Result: RevertStatus. ``volume`` is a name, a device or a path on the volume."""

    volume: str


class GetSet(Call, tag="get-set"):
    """Result: SetRecord."""

    set_id: str


class ListWriters(Call, tag="list-writers"):
    """Registered writers with their last state. Result: list of WriterStatus."""


class ListProviders(Call, tag="list-providers"):
    """Registered providers. Result: list of ProviderInfo."""


class ListEvents(Call, tag="list-events"):
    """Result: list of EventRecord with an id over ``after``."""

    after: int = 0


class VolumeAdd(Call, tag="volume-add"):
    """Protect a block device or image file. Result: VolumeInfo."""

    name: str
    origin: str
    storage: str
    chunk_size: int = 16384


class VolumeAttach(Call, tag="volume-attach"):
    """Make a block device of the live volume. Result: VolumeInfo. ``via`` is auto, nbd or fuse."""

    name: str
    via: str = "auto"


class VolumeDetach(Call, tag="volume-detach"):
    """Take the block device away. Result: VolumeInfo. Errors: VSS_E_VOLUME_IN_USE while mounted."""

    name: str


class VolumeRemove(Call, tag="volume-remove"):
    """Stop protecting a volume; its copies go. Errors: VSS_E_VOLUME_IN_USE."""

    name: str
    force: bool = False


class VolumeList(Call, tag="volume-list"):
    """Result: list of VolumeInfo."""


class StorageList(Call, tag="storage-list"):
    """Result: list of StorageInfo of all volumes, or of the one that is named. Errors: a volume that is offline."""

    volume: str = ""


class StorageConfigure(Call, tag="storage-configure"):
    """Change what is not null (ChangeDiffAreaMaximumSize). Result: StorageInfo. Errors: E_INVALIDARG."""

    volume: str
    max_size: int | None = None
    policy: str | None = None
    warn_percent: int | None = None


class Cancel(Call, tag="cancel"):
    """Cancel the call with this number; that call then fails with VSS_S_ASYNC_CANCELLED."""

    target: int


# ---- answers ----


class Result(Message, tag="result"):
    """The call succeeded."""

    seq: int
    value: Any = None


class CallFailure(Message, tag="failure"):
    """The call failed; ``name`` is the symbolic name of ``code``."""

    seq: int
    code: int
    name: str
    message: str
    application_code: int = 0


class Notice(Message, tag="notice"):
    """Something worth showing while a call is under way."""

    seq: int
    text: str
    done: int = 0
    total: int = 0


ToCoordinator = (
    ServiceHello
    | InitializeForBackup
    | InitializeForRestore
    | SetContext
    | SetBackupState
    | SetRestoreState
    | EnableWriterClasses
    | DisableWriterClasses
    | DisableWriterInstances
    | GatherWriterMetadata
    | AddComponent
    | SetBackupOptions
    | SetPreviousBackupStamp
    | SetBackupSucceeded
    | SetSelectedForRestore
    | SetSelectedForRestoreEx
    | AddNewTarget
    | SetRangesFilePath
    | SetAuthoritativeRestore
    | SetRestoreName
    | SetRollForward
    | AddRestoreSubcomponent
    | SetRestoreOptions
    | SetAdditionalRestores
    | AddAlternativeLocationMapping
    | SetFileRestoreStatus
    | StartSnapshotSet
    | IsVolumeSupported
    | AddToSnapshotSet
    | PrepareForBackup
    | GatherWriterStatus
    | DoSnapshotSet
    | GetSnapshotProperties
    | BackupComplete
    | AbortBackup
    | GetDocument
    | SaveAsXml
    | PreRestore
    | PostRestore
    | Query
    | DeleteSnapshots
    | KeepSnapshot
    | ExposeSnapshot
    | UnexposeSnapshot
    | RevertToSnapshot
    | QueryRevertStatus
    | GetSet
    | ListWriters
    | ListProviders
    | ListEvents
    | VolumeAdd
    | VolumeAttach
    | VolumeDetach
    | VolumeRemove
    | VolumeList
    | StorageList
    | StorageConfigure
    | Cancel
)
FromCoordinator = Result | CallFailure | Notice

RESULTS: dict[type[Call], Any] = {
    ServiceHello: ServiceInfo,
    InitializeForBackup: str,
    InitializeForRestore: str,
    GatherWriterMetadata: list[WriterMetadata],
    StartSnapshotSet: str,
    IsVolumeSupported: bool,
    AddToSnapshotSet: str,
    GatherWriterStatus: list[WriterStatus],
    DoSnapshotSet: SetRecord,
    GetSnapshotProperties: SnapshotProperties,
    GetDocument: BackupComponentsDocument,
    SaveAsXml: str,
    Query: list[SnapshotProperties],
    DeleteSnapshots: DeleteResult,
    KeepSnapshot: SnapshotProperties,
    ExposeSnapshot: str,
    RevertToSnapshot: RevertStatus,
    QueryRevertStatus: RevertStatus,
    GetSet: SetRecord,
    ListWriters: list[WriterStatus],
    ListProviders: list[ProviderInfo],
    ListEvents: list[EventRecord],
    VolumeAdd: VolumeInfo,
    VolumeAttach: VolumeInfo,
    VolumeDetach: VolumeInfo,
    VolumeList: list[VolumeInfo],
    StorageList: list[StorageInfo],
    StorageConfigure: StorageInfo,
}
"""What ``Result.value`` is for each call; calls that are not here answer null."""
