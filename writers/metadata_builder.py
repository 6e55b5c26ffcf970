"""Builds a Writer Metadata Document step by step, with the calls that IVssCreateWriterMetadata has."""

from __future__ import annotations

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import ALL_BACKUPS, ComponentType, RestoreMethodType, WriterRestore
from shadowset.vss.metadata import (
    ComponentInfo,
    Dependency,
    ExcludedFiles,
    FileSet,
    LocationMapping,
    RestoreMethod,
    WriterMetadata,
)


class ComponentBuilder:
    """One component under construction; each call returns the builder, so that calls can be chained."""

    def __init__(self, info: ComponentInfo) -> None:
        self.info = info

    def _append(self, field: str, item: FileSet | Dependency) -> ComponentBuilder:
        self.info = msgspec.structs.replace(self.info, **{field: (*getattr(self.info, field), item)})
        return self

    def add_files(
        self, path: str, filespec: str, recursive: bool = False, alternate_path: str = "", mask: int = ALL_BACKUPS
    ) -> ComponentBuilder:
        """Files of a file group."""
        return self._append("files", FileSet(path, filespec, recursive, alternate_path, mask))

    def add_database_files(self, path: str, filespec: str, mask: int = ALL_BACKUPS) -> ComponentBuilder:
        """Files of a database."""
        return self._append("database_files", FileSet(path, filespec, mask=mask))

    def add_log_files(self, path: str, filespec: str, mask: int = ALL_BACKUPS) -> ComponentBuilder:
        """Log files of a database, which LOG backups save alone."""
        return self._append("log_files", FileSet(path, filespec, mask=mask))

    def add_dependency(self, writer_id: str, logical_path: str, component_name: str) -> ComponentBuilder:
        """A component of another writer that goes with this one, at backup and at restore."""
        return self._append("dependencies", Dependency(writer_id, logical_path, component_name))


class MetadataBuilder:
    """The whole document under construction; it starts with the writer's identity."""

    def __init__(self, identity: WriterMetadata) -> None:
        self._document = identity
        self._components: dict[str, ComponentBuilder] = {}

    def add_component(
        self,
        type: ComponentType,
        name: str,
        logical_path: str = "",
        *,
        caption: str = "",
        selectable: bool = True,
        selectable_for_restore: bool = False,
        notify_on_backup_complete: bool = False,
        flags: int = 0,
    ) -> ComponentBuilder:
        """A new component.

        Errors: VSS_E_OBJECT_ALREADY_EXISTS; E_INVALIDARG for a name that is empty or holds a separator.
        """
        if not name or "\\" in name or "/" in name:
            raise VssError(Code.E_INVALIDARG, f"a component cannot be named {name!r}: give it a name without / and \\")
        info = ComponentInfo(
            type=type,
            name=name,
            logical_path=logical_path.strip("\\"),
            caption=caption,
            selectable=selectable,
            selectable_for_restore=selectable_for_restore,
            notify_on_backup_complete=notify_on_backup_complete,
            flags=flags,
        )
        if info.full_path in self._components:
            raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"the component {info.full_path} was added twice")
        builder = ComponentBuilder(info)
        self._components[info.full_path] = builder
        return builder

    def set_restore_method(
        self,
        method: RestoreMethodType,
        writer_restore: WriterRestore = WriterRestore.ALWAYS,
        service: str = "",
        user_procedure: str = "",
        reboot_required: bool = False,
    ) -> None:
        """How all components want to be restored."""
        restore = RestoreMethod(method, service, user_procedure, writer_restore, reboot_required)
        self._document = msgspec.structs.replace(self._document, restore_method=restore)

    def set_backup_schema(self, schema: int) -> None:
        """Bits of BackupSchema."""
        self._document = msgspec.structs.replace(self._document, backup_schema=int(schema))

    def exclude_files(self, path: str, filespec: str, recursive: bool = False) -> None:
        """Files that are never backed up, whatever includes them."""
        self._append("exclude_files", ExcludedFiles(path, filespec, recursive))

    def exclude_files_from_snapshot(self, path: str, filespec: str, recursive: bool = False) -> None:
        """Files that the writer deletes inside the shadow copy."""
        self._append("exclude_from_snapshot", ExcludedFiles(path, filespec, recursive))

    def add_alternate_location_mapping(self, path: str, filespec: str, recursive: bool, alternate_path: str) -> None:
        """Where files of a file set may go at restore when their own place cannot take them."""
        self._append("alternate_location_mappings", LocationMapping(path, filespec, recursive, alternate_path))

    def _append(self, field: str, item: ExcludedFiles | LocationMapping) -> None:
        self._document = msgspec.structs.replace(self._document, **{field: (*getattr(self._document, field), item)})

    def build(self) -> WriterMetadata:
        """The finished document."""
        components = tuple(builder.info for builder in self._components.values())
        return msgspec.structs.replace(self._document, components=components)
