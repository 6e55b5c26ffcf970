"""The Writer Metadata Document as XML.

Element and attribute names are those seen in published documents; where none is published they follow the names of the
programming interface. What VSS does not put into the document (level, freeze window) has a namespace of its own.
"""

from __future__ import annotations

from xml.etree import ElementTree

from shadowset.vss.documents import xml
from shadowset.vss.documents.xml import Node, add, yes_no
from shadowset.vss.enums import (
    ALL_BACKUPS,
    ComponentType,
    Level,
    RestoreMethodType,
    SourceType,
    UsageType,
    WriterRestore,
)
from shadowset.vss.metadata import (
    ComponentInfo,
    Dependency,
    ExcludedFiles,
    FileSet,
    IncludedFiles,
    LocationMapping,
    RestoreMethod,
    WriterMetadata,
)

NAMESPACE = "x-schema:#VssWriterMetadataInfo"
DOCUMENT = "writer metadata document"

COMPONENT_TAGS = {ComponentType.DATABASE: "DATABASE", ComponentType.FILEGROUP: "FILE_GROUP"}
FILE_TAGS = {"files": "FILE_LIST", "database_files": "DATABASE_FILES", "log_files": "DATABASE_LOGFILES"}
INCLUDE, EXCLUDE, EXCLUDE_FROM_SNAPSHOT = "INCLUDE_FILES", "EXCLUDE_FILES", "EXCLUDE_FILES_FROM_SNAPSHOT"
MAPPING = "ALTERNATE_LOCATION_MAPPING"

USAGE_WORDS = {
    UsageType.UNDEFINED: "UNDEFINED",
    UsageType.BOOTABLESYSTEMSTATE: "BOOTABLE_SYSTEM_STATE",
    UsageType.SYSTEMSERVICE: "SYSTEM_SERVICE",
    UsageType.USERDATA: "USER_DATA",
    UsageType.OTHER: "OTHER",
}
SOURCE_WORDS = {
    SourceType.UNDEFINED: "UNDEFINED",
    SourceType.TRANSACTEDDB: "TRANSACTED_DB",
    SourceType.NONTRANSACTEDDB: "NONTRANSACTED_DB",
    SourceType.OTHER: "OTHER",
}
LEVEL_WORDS = {level: level.name for level in Level}
METHOD_WORDS = {
    RestoreMethodType.UNDEFINED: "UNDEFINED",
    RestoreMethodType.RESTORE_IF_NOT_THERE: "RESTORE_IF_NOT_THERE",
    RestoreMethodType.RESTORE_IF_CAN_REPLACE: "RESTORE_IF_CAN_BE_REPLACED",
    RestoreMethodType.STOP_RESTORE_START: "STOP_RESTORE_START",
    RestoreMethodType.RESTORE_TO_ALTERNATE_LOCATION: "RESTORE_TO_ALTERNATE_LOCATION",
    RestoreMethodType.RESTORE_AT_REBOOT: "REPLACE_AT_REBOOT",
    RestoreMethodType.RESTORE_AT_REBOOT_IF_CANNOT_REPLACE: "REPLACE_AT_REBOOT_IF_CANNOT_REPLACE",
    RestoreMethodType.CUSTOM: "CUSTOM",
    RestoreMethodType.RESTORE_STOP_START: "RESTORE_STOP_START",
}
WRITER_RESTORE_WORDS = {
    WriterRestore.UNDEFINED: "undefined",
    WriterRestore.NEVER: "never",
    WriterRestore.IF_REPLACE_FAILS: "ifReplaceFails",
    WriterRestore.ALWAYS: "always",
}


# ---- writing ----


def metadata_to_xml(metadata: WriterMetadata) -> str:
    """The document as text, to be stored in UTF-8; the same value always gives the same text.

    Errors: E_INVALIDARG for what XML cannot hold, and for a document over 16 MiB.
    """
    root = xml.root_element("WRITER_METADATA", NAMESPACE, {})
    _add_identification(root, metadata)
    _add_restore_method(root, metadata.restore_method)
    locations = add(root, "BACKUP_LOCATIONS", {})
    for component in metadata.components:
        _add_component(locations, component)
    for included in metadata.include_files:
        add(locations, INCLUDE, {**triple(included), "alternatePath": included.alternate_path or None})
    for tag, excluded in ((EXCLUDE, metadata.exclude_files), (EXCLUDE_FROM_SNAPSHOT, metadata.exclude_from_snapshot)):
        for files in excluded:
            add(locations, tag, triple(files))
    for mapping in metadata.alternate_location_mappings:
        add_mapping(root, MAPPING, mapping)
    add(root, "BACKUP_SCHEMA", {"mask": xml.number(metadata.backup_schema, "BACKUP_SCHEMA/mask")})
    return xml.to_text(root)


def _add_identification(root: ElementTree.Element, metadata: WriterMetadata) -> None:
    add(
        root,
        "IDENTIFICATION",
        {
            "writerId": metadata.writer_id,
            "instanceId": metadata.instance_id,
            "friendlyName": metadata.name,
            "instanceName": metadata.instance_name or None,
            "usage": xml.word(USAGE_WORDS, metadata.usage, "IDENTIFICATION/usage"),
            "dataSource": xml.word(SOURCE_WORDS, metadata.source, "IDENTIFICATION/dataSource"),
            "majorVersion": xml.number(metadata.major_version, "IDENTIFICATION/majorVersion"),
            "minorVersion": xml.number(metadata.minor_version, "IDENTIFICATION/minorVersion"),
            "s:level": xml.word(LEVEL_WORDS, metadata.level, "IDENTIFICATION/level"),
            "s:freezeTimeoutMs": xml.number(metadata.freeze_timeout_ms, "IDENTIFICATION/freezeTimeoutMs"),
        },
    )


def _add_restore_method(root: ElementTree.Element, method: RestoreMethod) -> None:
    add(
        root,
        "RESTORE_METHOD",
        {
            "method": xml.word(METHOD_WORDS, method.method, "RESTORE_METHOD/method"),
            "service": method.service or None,
            "userProcedure": method.user_procedure or None,
            "writerRestore": xml.word(WRITER_RESTORE_WORDS, method.writer_restore, "RESTORE_METHOD/writerRestore"),
            "rebootRequired": yes_no(method.reboot_required),
        },
    )


def _add_component(parent: ElementTree.Element, component: ComponentInfo) -> None:
    tag = xml.word(COMPONENT_TAGS, component.type, f"the type of component {component.full_path!r}")
    element = add(
        parent,
        tag,
        {
            "logicalPath": component.logical_path or None,
            "componentName": component.name,
            "caption": component.caption or None,
            "icon": xml.encode_bytes(component.icon) or None,
            "restoreMetadata": yes_no(component.restore_metadata),
            "notifyOnBackupComplete": yes_no(component.notify_on_backup_complete),
            "selectable": yes_no(component.selectable),
            "selectableForRestore": yes_no(component.selectable_for_restore),
            "componentFlags": xml.number(component.flags, f"{tag}/componentFlags"),
        },
    )
    for field, file_tag in FILE_TAGS.items():
        for files in getattr(component, field):
            _add_file_set(element, file_tag, files)
    for dependency in component.dependencies:
        _add_dependency(element, dependency)


def _add_file_set(parent: ElementTree.Element, tag: str, files: FileSet) -> None:
    add(
        parent,
        tag,
        {
            "path": files.path,
            "filespec": files.filespec,
            "recursive": "yes" if files.recursive else None,
            "alternatePath": files.alternate_path or None,
            "filespecBackupType": xml.number(files.mask, f"{tag}/filespecBackupType"),
        },
    )


def _add_dependency(parent: ElementTree.Element, dependency: Dependency) -> None:
    add(
        parent,
        "DEPENDENCY",
        {
            "writerId": dependency.writer_id,
            "logicalPath": dependency.logical_path or None,
            "componentName": dependency.component_name,
        },
    )


def triple(files: ExcludedFiles | IncludedFiles | LocationMapping) -> dict[str, str | None]:
    """Path, pattern and recursion: what names a file set."""
    return {"path": files.path, "filespec": files.filespec, "recursive": yes_no(files.recursive)}


def add_mapping(parent: ElementTree.Element, tag: str, mapping: LocationMapping) -> None:
    """A location mapping under a tag; both documents have them."""
    add(parent, tag, {**triple(mapping), "alternatePath": mapping.alternate_path})


# ---- reading ----


def metadata_from_xml(text: str | bytes) -> WriterMetadata:
    """The document that ``metadata_to_xml`` made, or a writer's document from elsewhere in the same vocabulary.

    Errors: VSS_E_CORRUPT_XML_DOCUMENT when it is no usable XML, VSS_E_INVALID_XML_DOCUMENT when it is another document.
    """
    root = xml.parse(DOCUMENT, text, "WRITER_METADATA", NAMESPACE)
    root.done()
    once = ("IDENTIFICATION", "RESTORE_METHOD", "BACKUP_LOCATIONS", "BACKUP_SCHEMA")
    parts: dict[str, Node] = {}
    mappings: list[LocationMapping] = []
    for child in root.children(*once, MAPPING):
        if child.tag == MAPPING:
            mappings.append(read_mapping(child))
        elif child.tag in parts:
            root.refuse(f"element {root.tag} has more than one element {child.tag}")
        else:
            parts[child.tag] = child
    return _read_writer(
        root.only(parts, "IDENTIFICATION"),
        root.only(parts, "RESTORE_METHOD"),
        root.only(parts, "BACKUP_LOCATIONS"),
        parts.get("BACKUP_SCHEMA"),
        tuple(mappings),
    )


def _read_writer(
    identity: Node, method: Node, locations: Node, schema: Node | None, mappings: tuple[LocationMapping, ...]
) -> WriterMetadata:
    components, included, excluded, excluded_from_snapshot = _read_locations(locations)
    metadata = WriterMetadata(
        writer_id=identity.text("writerId"),
        instance_id=identity.text("instanceId"),
        name=identity.text("friendlyName"),
        instance_name=identity.text("instanceName", ""),
        major_version=identity.number("majorVersion", 1),
        minor_version=identity.number("minorVersion", 0),
        usage=identity.word("usage", USAGE_WORDS),
        source=identity.word("dataSource", SOURCE_WORDS),
        level=identity.word("s:level", LEVEL_WORDS, Level.FRONT_END),
        freeze_timeout_ms=identity.number("s:freezeTimeoutMs", 60_000),
        restore_method=_read_restore_method(method),
        components=components,
        include_files=included,
        exclude_files=excluded,
        exclude_from_snapshot=excluded_from_snapshot,
        alternate_location_mappings=mappings,
        backup_schema=schema.number("mask") if schema else 0,
    )
    identity.leaf()
    if schema:
        schema.leaf()
    return metadata


def _read_restore_method(node: Node) -> RestoreMethod:
    method = RestoreMethod(
        method=node.word("method", METHOD_WORDS),
        service=node.text("service", ""),
        user_procedure=node.text("userProcedure", ""),
        writer_restore=node.word("writerRestore", WRITER_RESTORE_WORDS),
        reboot_required=node.truth("rebootRequired"),
    )
    node.leaf()
    return method


Locations = tuple[
    tuple[ComponentInfo, ...], tuple[IncludedFiles, ...], tuple[ExcludedFiles, ...], tuple[ExcludedFiles, ...]
]


def _read_locations(node: Node) -> Locations:
    node.done()
    components: list[ComponentInfo] = []
    included: list[IncludedFiles] = []
    excluded: dict[str, list[ExcludedFiles]] = {EXCLUDE: [], EXCLUDE_FROM_SNAPSHOT: []}
    types = {tag: kind for kind, tag in COMPONENT_TAGS.items()}
    for child in node.children(*types, INCLUDE, *excluded):
        if child.tag in types:
            components.append(_read_component(child, types[child.tag]))
        elif child.tag == INCLUDE:
            included.append(_read_included(child))
        else:
            excluded[child.tag].append(_read_excluded(child))
    return tuple(components), tuple(included), tuple(excluded[EXCLUDE]), tuple(excluded[EXCLUDE_FROM_SNAPSHOT])


def _read_included(node: Node) -> IncludedFiles:
    files = IncludedFiles(
        node.text("path"), node.text("filespec"), node.truth("recursive", False), node.text("alternatePath", "")
    )
    node.leaf()
    return files


def _read_excluded(node: Node) -> ExcludedFiles:
    files = ExcludedFiles(node.text("path"), node.text("filespec"), node.truth("recursive", False))
    node.leaf()
    return files


def read_mapping(node: Node) -> LocationMapping:
    """A location mapping; both documents have them."""
    mapping = LocationMapping(
        node.text("path"), node.text("filespec"), node.truth("recursive", False), node.text("alternatePath")
    )
    node.leaf()
    return mapping


def _read_component(node: Node, kind: ComponentType) -> ComponentInfo:
    files: dict[str, list[FileSet]] = {tag: [] for tag in FILE_TAGS.values()}
    dependencies: list[Dependency] = []
    for child in node.leaves(*files, "DEPENDENCY"):
        if child.tag in files:
            files[child.tag].append(_read_file_set(child))
        else:
            dependencies.append(_read_dependency(child))
    component = ComponentInfo(
        type=kind,
        name=node.text("componentName"),
        logical_path=node.text("logicalPath", ""),
        caption=node.text("caption", ""),
        icon=node.data("icon"),
        restore_metadata=node.truth("restoreMetadata", False),
        notify_on_backup_complete=node.truth("notifyOnBackupComplete", False),
        selectable=node.truth("selectable"),
        selectable_for_restore=node.truth("selectableForRestore", False),
        flags=node.number("componentFlags", 0),
        files=tuple(files[FILE_TAGS["files"]]),
        database_files=tuple(files[FILE_TAGS["database_files"]]),
        log_files=tuple(files[FILE_TAGS["log_files"]]),
        dependencies=tuple(dependencies),
    )
    node.done()
    return component


def _read_file_set(node: Node) -> FileSet:
    return FileSet(
        path=node.text("path"),
        filespec=node.text("filespec"),
        recursive=node.truth("recursive", False),
        alternate_path=node.text("alternatePath", ""),
        mask=node.number("filespecBackupType", ALL_BACKUPS),
    )


def _read_dependency(node: Node) -> Dependency:
    return Dependency(node.text("writerId"), node.text("logicalPath", ""), node.text("componentName"))
