"""The enumerations of vss.h, vswriter.h and vsbackup.h, with their published values."""

from __future__ import annotations

from enum import IntEnum, IntFlag, StrEnum


class Level(IntEnum):
    """VSS_APPLICATION_LEVEL: freeze goes FRONT_END, BACK_END, SYSTEM; thaw the other way round."""

    SYSTEM = 1
    BACK_END = 2
    FRONT_END = 3


FREEZE_ORDER = (Level.FRONT_END, Level.BACK_END, Level.SYSTEM)


class WriterEvent(StrEnum):
    """The events that the coordinator sends to a writer, by their names on the wire."""

    IDENTIFY = "identify"
    PREPARE_BACKUP = "prepare-backup"
    PREPARE_SNAPSHOT = "prepare-snapshot"
    FREEZE = "freeze"
    THAW = "thaw"
    POST_SNAPSHOT = "post-snapshot"
    ABORT = "abort"
    BACKUP_COMPLETE = "backup-complete"
    BACKUP_SHUTDOWN = "backup-shutdown"
    PRE_RESTORE = "pre-restore"
    POST_RESTORE = "post-restore"


class WriterState(IntEnum):
    """VSS_WRITER_STATE."""

    UNKNOWN = 0
    STABLE = 1
    WAITING_FOR_FREEZE = 2
    WAITING_FOR_THAW = 3
    WAITING_FOR_POST_SNAPSHOT = 4
    WAITING_FOR_BACKUP_COMPLETE = 5
    FAILED_AT_IDENTIFY = 6
    FAILED_AT_PREPARE_BACKUP = 7
    FAILED_AT_PREPARE_SNAPSHOT = 8
    FAILED_AT_FREEZE = 9
    FAILED_AT_THAW = 10
    FAILED_AT_POST_SNAPSHOT = 11
    FAILED_AT_BACKUP_COMPLETE = 12
    FAILED_AT_PRE_RESTORE = 13
    FAILED_AT_POST_RESTORE = 14
    FAILED_AT_BACKUPSHUTDOWN = 15


class SnapshotState(IntEnum):
    """VSS_SNAPSHOT_STATE."""

    UNKNOWN = 0
    PREPARING = 1
    PROCESSING_PREPARE = 2
    PREPARED = 3
    PROCESSING_PRECOMMIT = 4
    PRECOMMITTED = 5
    PROCESSING_COMMIT = 6
    COMMITTED = 7
    PROCESSING_POSTCOMMIT = 8
    PROCESSING_PREFINALCOMMIT = 9
    PREFINALCOMMITTED = 10
    PROCESSING_POSTFINALCOMMIT = 11
    CREATED = 12
    ABORTED = 13
    DELETED = 14
    POSTCOMMITTED = 15


class Attribute(IntFlag):
    """VSS_VOLUME_SNAPSHOT_ATTRIBUTES."""

    PERSISTENT = 0x1
    NO_AUTORECOVERY = 0x2
    CLIENT_ACCESSIBLE = 0x4
    NO_AUTO_RELEASE = 0x8
    NO_WRITERS = 0x10
    TRANSPORTABLE = 0x20
    NOT_SURFACED = 0x40
    NOT_TRANSACTED = 0x80
    HARDWARE_ASSISTED = 0x10000
    DIFFERENTIAL = 0x20000
    PLEX = 0x40000
    IMPORTED = 0x80000
    EXPOSED_LOCALLY = 0x100000
    EXPOSED_REMOTELY = 0x200000
    AUTORECOVER = 0x400000
    ROLLBACK_RECOVERY = 0x800000
    DELAYED_POSTSNAPSHOT = 0x1000000
    TXF_RECOVERY = 0x2000000
    FILE_SHARE = 0x4000000


class Context(IntEnum):
    """VSS_SNAPSHOT_CONTEXT: each is a set of attributes."""

    BACKUP = 0x00
    APP_ROLLBACK = 0x09
    CLIENT_ACCESSIBLE_WRITERS = 0x0D
    FILE_SHARE_BACKUP = 0x10
    NAS_ROLLBACK = 0x19
    CLIENT_ACCESSIBLE = 0x1D
    ALL = 0xFFFFFFFF


class BackupType(IntEnum):
    """VSS_BACKUP_TYPE."""

    UNDEFINED = 0
    FULL = 1
    INCREMENTAL = 2
    DIFFERENTIAL = 3
    LOG = 4
    COPY = 5
    OTHER = 6


class RestoreType(IntEnum):
    """VSS_RESTORE_TYPE."""

    UNDEFINED = 0
    BY_COPY = 1
    IMPORT = 2
    OTHER = 3


class ComponentType(IntEnum):
    """VSS_COMPONENT_TYPE."""

    UNDEFINED = 0
    DATABASE = 1
    FILEGROUP = 2


class ComponentFlag(IntFlag):
    """VSS_COMPONENT_FLAGS."""

    BACKUP_RECOVERY = 1
    APP_ROLLBACK_RECOVERY = 2
    NOT_SYSTEM_STATE = 4


class UsageType(IntEnum):
    """VSS_USAGE_TYPE."""

    UNDEFINED = 0
    BOOTABLESYSTEMSTATE = 1
    SYSTEMSERVICE = 2
    USERDATA = 3
    OTHER = 4


class SourceType(IntEnum):
    """VSS_SOURCE_TYPE."""

    UNDEFINED = 0
    TRANSACTEDDB = 1
    NONTRANSACTEDDB = 2
    OTHER = 3


class RestoreMethodType(IntEnum):
    """VSS_RESTOREMETHOD_ENUM."""

    UNDEFINED = 0
    RESTORE_IF_NOT_THERE = 1
    RESTORE_IF_CAN_REPLACE = 2
    STOP_RESTORE_START = 3
    RESTORE_TO_ALTERNATE_LOCATION = 4
    RESTORE_AT_REBOOT = 5
    RESTORE_AT_REBOOT_IF_CANNOT_REPLACE = 6
    CUSTOM = 7
    RESTORE_STOP_START = 8


class WriterRestore(IntEnum):
    """VSS_WRITERRESTORE_ENUM."""

    UNDEFINED = 0
    NEVER = 1
    IF_REPLACE_FAILS = 2
    ALWAYS = 3


class RestoreTarget(IntEnum):
    """VSS_RESTORE_TARGET."""

    UNDEFINED = 0
    ORIGINAL = 1
    ALTERNATE = 2
    DIRECTED = 3
    ORIGINAL_LOCATION = 4


class RollForward(IntEnum):
    """VSS_ROLLFORWARD_TYPE."""

    UNDEFINED = 0
    NONE = 1
    ALL = 2
    PARTIAL = 3


class FileRestoreStatus(IntEnum):
    """VSS_FILE_RESTORE_STATUS."""

    UNDEFINED = 0
    NONE = 1
    ALL = 2
    FAILED = 3


class BackupSchema(IntFlag):
    """VSS_BACKUP_SCHEMA; no bit at all means full backups only."""

    DIFFERENTIAL = 0x1
    INCREMENTAL = 0x2
    EXCLUSIVE_INCREMENTAL_DIFFERENTIAL = 0x4
    LOG = 0x8
    COPY = 0x10
    TIMESTAMPED = 0x20
    LAST_MODIFY = 0x40
    LSN = 0x80
    WRITER_SUPPORTS_NEW_TARGET = 0x100
    WRITER_SUPPORTS_RESTORE_WITH_MOVE = 0x200
    INDEPENDENT_SYSTEM_STATE = 0x400
    ROLLFORWARD_RESTORE = 0x1000
    RESTORE_RENAME = 0x2000
    AUTHORITATIVE_RESTORE = 0x4000
    WRITER_SUPPORTS_PARALLEL_RESTORES = 0x8000


class FileSetMask(IntFlag):
    """VSS_FILE_SPEC_BACKUP_TYPE: which backup types need a file set, and which must read it from the shadow copy."""

    FULL_BACKUP_REQUIRED = 0x1
    DIFFERENTIAL_BACKUP_REQUIRED = 0x2
    INCREMENTAL_BACKUP_REQUIRED = 0x4
    LOG_BACKUP_REQUIRED = 0x8
    FULL_SNAPSHOT_REQUIRED = 0x100
    DIFFERENTIAL_SNAPSHOT_REQUIRED = 0x200
    INCREMENTAL_SNAPSHOT_REQUIRED = 0x400
    LOG_SNAPSHOT_REQUIRED = 0x800
    CREATED_DURING_BACKUP = 0x10000


ALL_BACKUPS = 0x0F0F


class ProviderType(IntEnum):
    """VSS_PROVIDER_TYPE."""

    UNKNOWN = 0
    SYSTEM = 1
    SOFTWARE = 2
    HARDWARE = 3
    FILESHARE = 4


class ProviderCapability(IntFlag):
    """VSS_PROVIDER_CAPABILITIES."""

    LEGACY = 0x1
    COMPLIANT = 0x2
    LUN_REPOINT = 0x4
    LUN_RESYNC = 0x8
    OFFLINE_CREATION = 0x10
    MULTIPLE_IMPORT = 0x20
    RECYCLING = 0x40
    PLEX = 0x80
    DIFFERENTIAL = 0x100
    CLUSTERED = 0x200


class ObjectType(IntEnum):
    """VSS_OBJECT_TYPE, the part that names what a call works on."""

    UNKNOWN = 0
    NONE = 1
    SNAPSHOT_SET = 2
    SNAPSHOT = 3
    PROVIDER = 4
