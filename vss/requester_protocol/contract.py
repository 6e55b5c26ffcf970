"""Which messages go which way, and what each call answers."""

from __future__ import annotations

from typing import Any

from shadowset.vss.components import BackupComponentsDocument
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.provider_protocol import ChangedRanges
from shadowset.vss.requester_protocol.administration import (
    AttachSnapshot,
    CancelStorageMove,
    DeleteSnapshots,
    DetachSnapshot,
    ExposeSet,
    ExposeSnapshot,
    GetSet,
    ImportSnapshot,
    KeepSnapshot,
    ListDeleted,
    ListEvents,
    ListProviders,
    ListWriters,
    Query,
    QueryRevertStatus,
    QuerySnapshotDelta,
    QueryStorageMove,
    QueryVolumesSupported,
    RegisterProvider,
    RevertToSnapshot,
    SetWriterWindow,
    StorageConfigure,
    StorageList,
    StorageMove,
    UndeleteSnapshot,
    UnexposeSet,
    UnexposeSnapshot,
    UnregisterProvider,
    VolumeAdd,
    VolumeAttach,
    VolumeDetach,
    VolumeHandOver,
    VolumeList,
    VolumeRemove,
    VolumeResize,
)
from shadowset.vss.requester_protocol.messages import Call, CallFailure, Cancel, Notice, Result, ServiceHello
from shadowset.vss.requester_protocol.restore import (
    AddAlternativeLocationMapping,
    AddNewTarget,
    AddRestoreSubcomponent,
    InitializeForRestore,
    PostRestore,
    PreRestore,
    SetAdditionalRestores,
    SetAuthoritativeRestore,
    SetFileRestoreStatus,
    SetRangesFilePath,
    SetRestoreName,
    SetRestoreOptions,
    SetRestoreState,
    SetRollForward,
    SetSelectedForRestore,
    SetSelectedForRestoreEx,
)
from shadowset.vss.requester_protocol.session import (
    AbortBackup,
    AddComponent,
    AddToSnapshotSet,
    BackupComplete,
    DisableWriterClasses,
    DisableWriterInstances,
    DoSnapshotSet,
    EnableWriterClasses,
    GatherWriterMetadata,
    GatherWriterStatus,
    GetDocument,
    GetSnapshotProperties,
    InitializeForBackup,
    IsVolumeSupported,
    PrepareForBackup,
    SaveAsXml,
    SetBackupOptions,
    SetBackupState,
    SetBackupSucceeded,
    SetContext,
    SetPreviousBackupStamp,
    StartSnapshotSet,
)
from shadowset.vss.requester_protocol.values import (
    DeletedCopy,
    DeleteResult,
    EventRecord,
    ImportedCopy,
    ProviderInfo,
    RevertStatus,
    ServiceInfo,
    SetRecord,
    SnapshotProperties,
    StorageInfo,
    StorageMoveStatus,
    SupportedVolume,
    VolumeHandover,
    VolumeInfo,
    WriterStatus,
)

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
    | QuerySnapshotDelta
    | ExposeSnapshot
    | UnexposeSnapshot
    | ExposeSet
    | UnexposeSet
    | AttachSnapshot
    | DetachSnapshot
    | RevertToSnapshot
    | QueryRevertStatus
    | GetSet
    | ListWriters
    | SetWriterWindow
    | ListProviders
    | ImportSnapshot
    | RegisterProvider
    | UnregisterProvider
    | ListDeleted
    | UndeleteSnapshot
    | ListEvents
    | VolumeAdd
    | VolumeAttach
    | VolumeDetach
    | VolumeRemove
    | VolumeResize
    | VolumeHandOver
    | VolumeList
    | QueryVolumesSupported
    | StorageList
    | StorageConfigure
    | StorageMove
    | QueryStorageMove
    | CancelStorageMove
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
    QuerySnapshotDelta: ChangedRanges,
    ExposeSnapshot: str,
    ExposeSet: dict[str, str],
    AttachSnapshot: str,
    RevertToSnapshot: RevertStatus,
    QueryRevertStatus: RevertStatus,
    GetSet: SetRecord,
    ListWriters: list[WriterStatus],
    SetWriterWindow: list[WriterStatus],
    ListProviders: list[ProviderInfo],
    ImportSnapshot: ImportedCopy,
    RegisterProvider: ProviderInfo,
    ListDeleted: list[DeletedCopy],
    UndeleteSnapshot: SnapshotProperties,
    ListEvents: list[EventRecord],
    VolumeAdd: VolumeInfo,
    VolumeAttach: VolumeInfo,
    VolumeDetach: VolumeInfo,
    VolumeResize: VolumeInfo,
    VolumeHandOver: VolumeHandover,
    VolumeList: list[VolumeInfo],
    QueryVolumesSupported: list[SupportedVolume],
    StorageList: list[StorageInfo],
    StorageConfigure: StorageInfo,
    StorageMove: StorageMoveStatus,
    QueryStorageMove: StorageMoveStatus,
}
"""What ``Result.value`` is for each call; calls that are not here answer null."""
