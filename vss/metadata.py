"""The Writer Metadata Document as a value: what a writer has, where it lies and how it wants to be restored.

Field names follow the public interfaces (IVssCreateWriterMetadata, IVssExamineWriterMetadata). Logical paths use ``\\``
between elements; file paths are POSIX.
"""

from __future__ import annotations

import msgspec

from shadowset.vss.enums import (
    ALL_BACKUPS,
    ComponentType,
    Level,
    RestoreMethodType,
    SourceType,
    UsageType,
    WriterRestore,
)


class FileSet(msgspec.Struct, frozen=True):
    """Files named by directory and pattern; ``alternate_path`` is where to read them at backup time instead."""

    path: str
    filespec: str
    recursive: bool = False
    alternate_path: str = ""
    mask: int = ALL_BACKUPS


class ExcludedFiles(msgspec.Struct, frozen=True):
    """Files that are never backed up, or are deleted inside the shadow copy."""

    path: str
    filespec: str
    recursive: bool = False


class IncludedFiles(msgspec.Struct, frozen=True):
    """Files of the writer as a whole, in no component (AddIncludeFiles)."""

    path: str
    filespec: str
    recursive: bool = False
    alternate_path: str = ""


class LocationMapping(msgspec.Struct, frozen=True):
    """Where files of a file set may go at restore when their own place cannot take them."""

    path: str
    filespec: str
    recursive: bool
    alternate_path: str


class Dependency(msgspec.Struct, frozen=True):
    """A component of another writer that must be backed up and restored together with this one."""

    writer_id: str
    logical_path: str
    component_name: str


class ComponentInfo(msgspec.Struct, frozen=True):
    """One component as its writer describes it."""

    type: ComponentType
    name: str
    logical_path: str = ""
    caption: str = ""
    icon: bytes = b""
    restore_metadata: bool = False
    notify_on_backup_complete: bool = False
    selectable: bool = True
    selectable_for_restore: bool = False
    flags: int = 0
    files: tuple[FileSet, ...] = ()
    database_files: tuple[FileSet, ...] = ()
    log_files: tuple[FileSet, ...] = ()
    dependencies: tuple[Dependency, ...] = ()

    @property
    def full_path(self) -> str:
        """Logical path and name joined: the identity of the component within its writer."""
        return f"{self.logical_path}\\{self.name}" if self.logical_path else self.name

    @property
    def file_sets(self) -> tuple[FileSet, ...]:
        """All file sets of the component, whatever list they stand in."""
        return self.files + self.database_files + self.log_files


class RestoreMethod(msgspec.Struct, frozen=True):
    """How a writer wants all its components restored."""

    method: RestoreMethodType = RestoreMethodType.RESTORE_IF_CAN_REPLACE
    service: str = ""
    user_procedure: str = ""
    writer_restore: WriterRestore = WriterRestore.ALWAYS
    reboot_required: bool = False


class WriterMetadata(msgspec.Struct, frozen=True):
    """The whole document."""

    writer_id: str
    instance_id: str
    name: str
    instance_name: str = ""
    major_version: int = 1
    minor_version: int = 0
    usage: UsageType = UsageType.USERDATA
    source: SourceType = SourceType.OTHER
    level: Level = Level.FRONT_END
    freeze_timeout_ms: int = 60_000
    restore_method: RestoreMethod = RestoreMethod()
    components: tuple[ComponentInfo, ...] = ()
    include_files: tuple[IncludedFiles, ...] = ()
    exclude_files: tuple[ExcludedFiles, ...] = ()
    exclude_from_snapshot: tuple[ExcludedFiles, ...] = ()
    alternate_location_mappings: tuple[LocationMapping, ...] = ()
    backup_schema: int = 0

    def component(self, logical_path: str, name: str) -> ComponentInfo | None:
        """The component with this identity, or None."""
        for component in self.components:
            if component.logical_path == logical_path and component.name == name:
                return component
        return None
