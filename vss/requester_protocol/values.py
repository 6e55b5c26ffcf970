"""What answers carry: writers, shadow copies and their sets, volumes, providers, storage, events."""

from __future__ import annotations

import msgspec

from shadowset.vss.components import Failure
from shadowset.vss.enums import Level, ProviderType, SnapshotState, WriterState


class WriterStatus(msgspec.Struct):
    """A writer in this session (GetWriterStatus), with what an administrator needs to find its process.

    ``freeze_timeout_ms`` is what the writer asked for, ``freeze_window_ms`` what the coordinator gives it.
    ``components`` is how many it told of when it was last asked, -1 when it was not asked yet; ``last_frozen_ms`` is
    how long it was frozen the last time, 0 for never. Both since the coordinator started.
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
    components: int = -1
    last_frozen_ms: float = 0.0


class SnapshotProperties(msgspec.Struct):
    """VSS_SNAPSHOT_PROP, with the volume's name in Shadowset and the copy's generation in the shadow storage.

    ``writer_ids`` are the classes of the writers that had files on the volume and took part in the session.
    ``mount_roots`` says which directory of the volume's file system was at each of the ``mount_points``; its root, when
    it says nothing.
    """

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
    writer_ids: list[str] = []
    mount_roots: list[str] = []


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
    """A protected volume; ``device`` is the block device while attached, ``state`` is online, offline or failed.

    It is failed as well while its provider is there but the device is dead; ``message`` says what to do. ``version`` is
    that of the code that serves; ``restarts`` counts since the coordinator started, and ``last_end`` says why the last.
    """

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
    version: str = ""
    restarts: int = 0
    last_end: str = ""


class VolumeHandover(msgspec.Struct):
    """The process and version that serve a volume now, the version before, and how long requests waited for it, and for
    another bridge where its device is a FUSE file."""

    name: str
    pid: int
    version: str
    before: str
    stall_ms: float
    device_stall_ms: float = 0.0


class SupportedVolume(msgspec.Struct):
    """A volume that its provider copies as it is mounted; each mount point shows all of it.

    A set takes one volume at the most that does not hold writes.
    """

    name: str
    provider_id: str
    mount_points: list[str]
    holds: bool = True


class ProviderInfo(msgspec.Struct, frozen=True):
    """VSS_PROVIDER_PROP, with what the provider can do and how many shadow copies of it exist.

    ``version_id`` is a GUID of its own for each version, ``class_id`` one of the implementation; ``capabilities`` are
    bits of ProviderCapability. ``lacks`` names what its copies or volumes cannot do that those of the built-in provider
    can: hold, device-object, changed-blocks, revert, priority, auto-recovery.
    """

    provider_id: str
    name: str
    type: ProviderType
    version: str
    version_id: str
    class_id: str
    capabilities: int
    copies: int = 0
    lacks: list[str] = []


class StorageInfo(msgspec.Struct):
    """A volume's shadow storage (VSS_DIFF_AREA_PROP); sizes in bytes, ``max_size`` 0 is unlimited.

    ``policy`` is delete-oldest, refuse-new or protect-copies. ``writes_refused`` is why writes to the volume fail for
    the sake of the copies, "" when they do not.
    """

    volume: str
    storage: str
    used: int
    available: int
    max_size: int
    policy: str
    warn_percent: int
    copies: int
    writes_refused: str = ""


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


class StorageMoveStatus(msgspec.Struct):
    """A move of a volume's shadow storage to the directory ``storage`` (QueryMigrationStatus).

    ``done`` of ``total`` bytes are there. ``phase`` is copying, switching, cleaning, stopped for ``reason`` (the
    storage is where it was), or none: then ``storage`` is where it is.
    """

    volume: str
    phase: str
    storage: str
    done: int = 0
    total: int = 0
    reason: str = ""


class ImportedCopy(msgspec.Struct):
    """A copy that was imported, and the backup components document (XML) that came with it, "" for none."""

    copy: SnapshotProperties
    document: str = ""


class DeleteResult(msgspec.Struct):
    """How many were deleted, and the first one that was not.

    Until ``recoverable_until_ns`` those that were can be taken back; 0 where they cannot.
    """

    deleted: int
    not_deleted: str = ""
    message: str = ""
    recoverable_until_ns: int = 0


class EventRecord(msgspec.Struct):
    """One entry of the coordinator's event list; ``actor`` is who caused it, where a call did."""

    id: int
    time_ns: int
    name: str
    message: str
    volume: str = ""
    set_id: str = ""
    actor: str = ""


class DeletedCopy(msgspec.Struct):
    """A deleted shadow copy that can be taken back for ``left_ms`` of time in which the coordinator runs."""

    copy: SnapshotProperties
    left_ms: int
    deleted_ns: int
    actor: str


class ServiceInfo(msgspec.Struct):
    """The coordinator itself; for ``deletion_grace_ms`` deleted copies can be taken back and keep their room.

    ``devices_pid`` is the process that serves the device objects, 0 while there is none.
    """

    version: str
    protocol: int
    pid: int
    sessions: int
    writers: int
    volumes: int
    deletion_grace_ms: int = 0
    devices_pid: int = 0
