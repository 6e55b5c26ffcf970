"""Calls that need no session: shadow copies, writers, providers, volumes and their shadow storage."""

from __future__ import annotations

from shadowset.vss.enums import ObjectType
from shadowset.vss.requester_protocol.messages import Call


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


class ListDeleted(Call, tag="list-deleted"):
    """Result: list of DeletedCopy, of one volume or of all."""

    volume: str = ""


class UndeleteSnapshot(Call, tag="undelete-snapshot"):
    """Take a deleted copy back. Result: SnapshotProperties. Errors: VSS_E_OBJECT_NOT_FOUND when it is too late."""

    snapshot_id: str


class KeepSnapshot(Call, tag="keep-snapshot"):
    """Change what is not null: ``priority`` 0 to 255, the lowest goes first when the storage is full; until
    ``hold_until_ns`` the copy is not deleted and not lost for space, 0 ends its hold. Result: SnapshotProperties.

    Errors: VSS_E_OBJECT_NOT_FOUND, E_INVALIDARG, VSS_E_BAD_STATE for a copy that goes with its session.
    """

    snapshot_id: str
    priority: int | None = None
    hold_until_ns: int | None = None


class QuerySnapshotDelta(Call, tag="query-snapshot-delta"):
    """What changed since a copy, until another one of its volume or until now (""), a piece from ``offset`` on.

    Result: ChangedRanges. Ask again from its ``end`` until that is its ``size``. Errors: VSS_E_OBJECT_NOT_FOUND when a
    copy is not there or was lost meanwhile, VSS_E_NOT_SUPPORTED when its provider does not know, E_INVALIDARG.
    """

    snapshot_id: str
    until: str = ""
    offset: int = 0


class ExposeSnapshot(Call, tag="expose-snapshot"):
    """Mount a copy read-only; without ``path`` below the run-time directory. Result: the mount point."""

    snapshot_id: str
    path: str = ""


class UnexposeSnapshot(Call, tag="unexpose-snapshot"):
    """Unmount a copy."""

    snapshot_id: str


class ExposeSet(Call, tag="expose-set"):
    """Mount all copies of a set below the empty directory ``root``, at the paths of their volumes when it was cut.

    Result: dict, mount point to snapshot id, outer ones first. Errors: VSS_E_OBJECT_NOT_FOUND, also when none of its
    volumes was mounted then; VSS_E_OBJECT_ALREADY_EXISTS, E_INVALIDARG, VSS_E_VOLUME_NOT_SUPPORTED.
    """

    set_id: str
    root: str


class UnexposeSet(Call, tag="unexpose-set"):
    """Unmount all of that; ``where`` is the set or the directory. Errors: VSS_E_BAD_STATE, VSS_E_VOLUME_IN_USE."""

    where: str


class AttachSnapshot(Call, tag="attach-snapshot"):
    """Make a read-only block device of a copy. Result: the device, the same one when there is one already.

    ``via`` is nbd, loop, or auto: nbd where the kernel has it. Errors: VSS_E_NOT_SUPPORTED,
    VSS_E_VOLUME_NOT_SUPPORTED for a copy that is a directory.
    """

    snapshot_id: str
    via: str = "auto"


class DetachSnapshot(Call, tag="detach-snapshot"):
    """Take it away. Errors: VSS_E_BAD_STATE when there is none, VSS_E_VOLUME_IN_USE while it is mounted."""

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


class SetWriterWindow(Call, tag="set-writer-window"):
    """From now on a class of writers may be frozen for so many milliseconds, whatever they say; 0: as configured.

    It holds until the coordinator ends. Result: WriterStatus of each writer of the class. Errors: E_INVALIDARG.
    """

    writer_id: str
    window_ms: int


class ListProviders(Call, tag="list-providers"):
    """Registered providers. Result: list of ProviderInfo."""


class ImportSnapshot(Call, tag="import-snapshot"):
    """Take in a copy that another host has exported into a file, named by its absolute path. Result: ImportedCopy.

    Errors: VSS_E_OBJECT_ALREADY_EXISTS, VSS_E_OBJECT_NOT_FOUND for the file or for the copy that it builds on,
    E_INVALIDARG for a file that is none of ours, VSS_E_INSUFFICIENT_STORAGE.
    """

    path: str


class RegisterProvider(Call, tag="register-provider"):
    """Take in the provider that an installed package offers by this name. Result: ProviderInfo.

    Errors: VSS_E_OBJECT_NOT_FOUND, VSS_E_PROVIDER_ALREADY_REGISTERED, VSS_E_UNEXPECTED_PROVIDER_ERROR.
    """

    name: str


class UnregisterProvider(Call, tag="unregister-provider"):
    """Leave a provider out until it is registered again.

    Errors: VSS_E_PROVIDER_NOT_REGISTERED, VSS_E_PROVIDER_IN_USE while it has shadow copies,
    VSS_E_SNAPSHOT_SET_IN_PROGRESS.
    """

    provider_id: str


class ListEvents(Call, tag="list-events"):
    """Result: list of EventRecord with an id over ``after``."""

    after: int = 0


class VolumeAdd(Call, tag="volume-add"):
    """Protect a block device or image file. Result: VolumeInfo.

    ``chunk_size`` and ``max_copies`` are for a new shadow storage; one that is there keeps its own.
    """

    name: str
    origin: str
    storage: str
    chunk_size: int = 16384
    max_copies: int = 512


class VolumeAttach(Call, tag="volume-attach"):
    """Make a block device of the live volume. Result: VolumeInfo. ``via`` is auto, nbd or fuse."""

    name: str
    via: str = "auto"


class VolumeDetach(Call, tag="volume-detach"):
    """Take the block device away. Result: VolumeInfo. Errors: VSS_E_VOLUME_IN_USE while mounted."""

    name: str


class VolumeResize(Call, tag="volume-resize"):
    """The origin was enlarged: the volume and its device take in what it has gained. Result: VolumeInfo.

    Errors: VSS_E_VOLUME_NOT_SUPPORTED when the origin is smaller than before, VSS_E_REVERT_IN_PROGRESS, VSS_E_BAD_STATE
    while writes are held for a shadow copy.
    """

    name: str


class VolumeHandOver(Call, tag="volume-hand-over"):
    """A new process of the installed code goes on serving, with the clients of the old one. Result: VolumeHandover.

    When it fails the old one goes on. Errors: VSS_E_SNAPSHOT_SET_IN_PROGRESS, VSS_E_BAD_STATE while writes are held,
    VSS_E_UNEXPECTED_PROVIDER_ERROR.
    """

    name: str


class VolumeRemove(Call, tag="volume-remove"):
    """Stop protecting a volume; its copies go. Errors: VSS_E_VOLUME_IN_USE."""

    name: str
    force: bool = False


class VolumeList(Call, tag="volume-list"):
    """Result: list of VolumeInfo."""


class QueryVolumesSupported(Call, tag="query-volumes-supported"):
    """Mounted volumes that need no protection first, since another provider can copy them as they are.

    Result: list of SupportedVolume; protected volumes are not among them.
    """


class StorageList(Call, tag="storage-list"):
    """Result: list of StorageInfo of all volumes, or of the one that is named. Errors: a volume that is offline."""

    volume: str = ""


class StorageMove(Call, tag="storage-move"):
    """Move a volume's shadow storage to another directory, while all goes on (MigrateDiffAreas). StorageMoveStatus.

    ``storage`` is empty or is made. A move that was interrupted goes on by itself. Errors: E_INVALIDARG,
    VSS_E_OBJECT_NOT_FOUND, VSS_E_OBJECT_ALREADY_EXISTS, VSS_E_MAXIMUM_DIFFAREA_ASSOCIATIONS_REACHED for a directory of
    another storage, VSS_E_INSUFFICIENT_STORAGE, VSS_E_BAD_STATE while a move is under way, VSS_E_REVERT_IN_PROGRESS.
    """

    volume: str
    storage: str


class QueryStorageMove(Call, tag="query-storage-move"):
    """Result: StorageMoveStatus."""

    volume: str


class CancelStorageMove(Call, tag="cancel-storage-move"):
    """Give up a move; its status tells when it has ended. Errors: VSS_E_BAD_STATE when none is under way."""

    volume: str


class StorageConfigure(Call, tag="storage-configure"):
    """Change what is not null (ChangeDiffAreaMaximumSize). Result: StorageInfo. Errors: E_INVALIDARG."""

    volume: str
    max_size: int | None = None
    policy: str | None = None
    warn_percent: int | None = None
