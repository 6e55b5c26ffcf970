"""The Backup Components Document as XML.

Element and attribute names are those seen in published documents; where none is published they follow the names of the
programming interface. A writer's display name, which VSS leaves out, has a namespace of its own.
"""

from __future__ import annotations

from xml.etree import ElementTree

from shadowset.vss.components import (
    BackupComponentsDocument,
    Component,
    DifferencedFile,
    DirectedTarget,
    Failure,
    PartialFile,
    RestoreSubcomponent,
    WriterComponents,
)
from shadowset.vss.documents import xml
from shadowset.vss.documents.metadata_xml import MAPPING, add_mapping, read_mapping
from shadowset.vss.documents.xml import Node, add, yes_no
from shadowset.vss.enums import BackupType, ComponentType, FileRestoreStatus, RestoreTarget, RestoreType, RollForward

NAMESPACE = "x-schema:#VssComponentMetadata"
DOCUMENT = "backup components document"

TYPE_WORDS = {ComponentType.DATABASE: "database", ComponentType.FILEGROUP: "filegroup"}
BACKUP_WORDS = {kind: kind.name.lower() for kind in BackupType}
RESTORE_WORDS = {
    RestoreType.UNDEFINED: "undefined",
    RestoreType.BY_COPY: "byCopy",
    RestoreType.IMPORT: "import",
    RestoreType.OTHER: "other",
}
TARGET_WORDS = {
    RestoreTarget.UNDEFINED: "undefined",
    RestoreTarget.ORIGINAL: "original",
    RestoreTarget.ALTERNATE: "alternate",
    RestoreTarget.DIRECTED: "directed",
    RestoreTarget.ORIGINAL_LOCATION: "originalLocation",
}
STATUS_WORDS = {status: status.name.lower() for status in FileRestoreStatus}
ROLL_FORWARD_WORDS = {kind: kind.name.lower() for kind in RollForward}

# attributes that hold a component's plain texts, with the fields of the structure
_TEXTS = {
    "backupOptions": "backup_options",
    "backupStamp": "backup_stamp",
    "previousBackupStamp": "previous_backup_stamp",
    "prepareForBackupFailureMessage": "prepare_for_backup_failure_message",
    "postSnapshotFailureMessage": "post_snapshot_failure_message",
    "restoreOptions": "restore_options",
    "preRestoreFailureMessage": "pre_restore_failure_message",
    "postRestoreFailureMessage": "post_restore_failure_message",
    "restoreName": "restore_name",
    "rollForwardPoint": "roll_forward_point",
    "selectedInstanceId": "selected_instance",
}
_TRUTHS = {
    "backupSucceeded": "backup_succeeded",
    "selectedForRestore": "selected_for_restore",
    "additionalRestores": "additional_restores",
    "authoritativeRestore": "authoritative_restore",
}
_METADATA = {"BACKUP_METADATA": "backup_metadata", "RESTORE_METADATA": "restore_metadata"}
_DIRECTED = {
    "sourcePath": "source_path",
    "sourceFilename": "source_filename",
    "sourceRanges": "source_ranges",
    "destinationPath": "destination_path",
    "destinationFilename": "destination_filename",
    "destinationRanges": "destination_ranges",
}


# ---- writing ----


def components_to_xml(document: BackupComponentsDocument) -> str:
    """The document as text, to be stored in UTF-8; the same value always gives the same text.

    Errors: E_INVALIDARG for what XML cannot hold, and for a document over 16 MiB.
    """
    root = xml.root_element(
        "BACKUP_COMPONENTS",
        NAMESPACE,
        {
            "bootableSystemStateBackup": yes_no(document.bootable_system_state),
            "selectComponents": yes_no(document.select_components),
            "backupType": xml.word(BACKUP_WORDS, document.backup_type, "BACKUP_COMPONENTS/backupType"),
            "partialFileSupport": yes_no(document.partial_files),
            "restoreType": xml.word(RESTORE_WORDS, document.restore_type, "BACKUP_COMPONENTS/restoreType"),
            "snapshotSetId": document.snapshot_set_id or None,
            "sessionId": document.session_id or None,
        },
    )
    for writer in document.writers:
        _add_writer(root, writer)
    return xml.to_text(root)


def _add_writer(root: ElementTree.Element, writer: WriterComponents) -> None:
    element = add(
        root,
        "WRITER_COMPONENTS",
        {
            "instanceId": writer.instance_id,
            "writerId": writer.writer_id,
            "instanceName": writer.instance_name or None,
            "backupSchema": xml.number(writer.backup_schema, "WRITER_COMPONENTS/backupSchema"),
            "s:friendlyName": writer.name or None,
        },
    )
    for component in writer.components:
        _add_component(element, component)


def _add_component(parent: ElementTree.Element, component: Component) -> None:
    place = f"component {component.full_path!r}"
    attributes: dict[str, str | None] = {
        "logicalPath": component.logical_path or None,
        "componentName": component.name,
        "componentType": xml.word(TYPE_WORDS, component.type, f"the type of {place}"),
    }
    attributes |= {name: "yes" if getattr(component, field) else None for name, field in _TRUTHS.items()}
    attributes |= {name: getattr(component, field) or None for name, field in _TEXTS.items()}
    if component.restore_target != RestoreTarget.UNDEFINED:
        attributes["restoreTarget"] = xml.word(TARGET_WORDS, component.restore_target, f"the target of {place}")
    if component.file_restore_status != FileRestoreStatus.UNDEFINED:
        attributes["fileRestoreStatus"] = xml.word(
            STATUS_WORDS, component.file_restore_status, f"the status of {place}"
        )
    if component.roll_forward != RollForward.UNDEFINED:
        attributes["rollForwardType"] = xml.word(
            ROLL_FORWARD_WORDS, component.roll_forward, f"the roll-forward of {place}"
        )
    element = add(parent, "COMPONENT", attributes)
    _add_backup_parts(element, component, place)
    _add_restore_parts(element, component)


def _add_backup_parts(element: ElementTree.Element, component: Component, place: str) -> None:
    for tag, field in _METADATA.items():
        if getattr(component, field):
            add(element, tag, {"metadata": xml.encode_text(getattr(component, field), f"{tag} of {place}")})
    if component.failure != Failure():
        add(
            element,
            "FAILURE",
            {
                "hresult": xml.code_text(component.failure.code, f"the failure code of {place}"),
                "applicationHresult": xml.number(component.failure.application_code, "FAILURE/applicationHresult"),
                "message": component.failure.message or None,
            },
        )
    for partial in component.partial_files:
        metadata = xml.encode_text(partial.metadata, f"PARTIAL_FILE of {place}") or None
        names = {"path": partial.path, "filename": partial.filename, "ranges": partial.ranges}
        add(element, "PARTIAL_FILE", {**names, "metadata": metadata})
    for files in component.differenced_files:
        time = xml.number(files.last_modified_ns, "DIFFERENCED_FILE/lastModifyTimeNs")
        names = {"path": files.path, "filespec": files.filespec, "recursive": yes_no(files.recursive)}
        add(element, "DIFFERENCED_FILE", {**names, "lastModifyTimeNs": time, "lsnString": files.lsn or None})


def _add_restore_parts(element: ElementTree.Element, component: Component) -> None:
    for member in component.restore_subcomponents:
        names = {"logicalPath": member.logical_path or None, "componentName": member.name}
        add(element, "RESTORE_SUBCOMPONENT", names)
    for mapping in component.new_targets:
        add_mapping(element, "NEW_TARGET", mapping)
    for mapping in component.alternate_location_mappings:
        add_mapping(element, MAPPING, mapping)
    for target in component.directed_targets:
        add(element, "DIRECTED_TARGET", {name: getattr(target, field) for name, field in _DIRECTED.items()})


# ---- reading ----


def components_from_xml(text: str | bytes) -> BackupComponentsDocument:
    """The document that ``components_to_xml`` made, or one from elsewhere in the same vocabulary.

    Errors: VSS_E_CORRUPT_XML_DOCUMENT when it is no usable XML, VSS_E_INVALID_XML_DOCUMENT when it is another document.
    """
    root = xml.parse(DOCUMENT, text, "BACKUP_COMPONENTS", NAMESPACE)
    document = BackupComponentsDocument(
        select_components=root.truth("selectComponents"),
        bootable_system_state=root.truth("bootableSystemStateBackup"),
        backup_type=root.word("backupType", BACKUP_WORDS),
        partial_files=root.truth("partialFileSupport", False),
        restore_type=root.word("restoreType", RESTORE_WORDS, RestoreType.UNDEFINED),
        snapshot_set_id=root.text("snapshotSetId", ""),
        session_id=root.text("sessionId", ""),
        writers=[_read_writer(child) for child in root.children("WRITER_COMPONENTS")],
    )
    root.done()
    return document


def _read_writer(node: Node) -> WriterComponents:
    writer = WriterComponents(
        writer_id=node.text("writerId"),
        instance_id=node.text("instanceId"),
        name=node.text("s:friendlyName", ""),
        instance_name=node.text("instanceName", ""),
        backup_schema=node.number("backupSchema", 0),
        components=[_read_component(child) for child in node.children("COMPONENT")],
    )
    node.done()
    return writer


def _read_component(node: Node) -> Component:
    component = Component(
        type=node.word("componentType", TYPE_WORDS),
        logical_path=node.text("logicalPath", ""),
        name=node.text("componentName"),
        restore_target=node.word("restoreTarget", TARGET_WORDS, RestoreTarget.UNDEFINED),
        file_restore_status=node.word("fileRestoreStatus", STATUS_WORDS, FileRestoreStatus.UNDEFINED),
        roll_forward=node.word("rollForwardType", ROLL_FORWARD_WORDS, RollForward.UNDEFINED),
    )
    for name, field in _TRUTHS.items():
        setattr(component, field, node.truth(name, False))
    for name, field in _TEXTS.items():
        setattr(component, field, node.text(name, ""))
    node.done()
    seen: set[str] = set()
    lists = ("PARTIAL_FILE", "DIFFERENCED_FILE", "RESTORE_SUBCOMPONENT", "NEW_TARGET", MAPPING, "DIRECTED_TARGET")
    for child in node.leaves(*_METADATA, "FAILURE", *lists):
        if child.tag in seen and child.tag not in lists:
            node.refuse(f"element {node.tag} has more than one element {child.tag}")
        seen.add(child.tag)
        _read_part(component, child)
    return component


def _read_part(component: Component, node: Node) -> None:
    match node.tag:
        case "BACKUP_METADATA" | "RESTORE_METADATA":
            setattr(component, _METADATA[node.tag], node.encoded_text("metadata"))
        case "FAILURE":
            component.failure = _read_failure(node)
        case "PARTIAL_FILE":
            component.partial_files.append(_read_partial_file(node))
        case "DIFFERENCED_FILE":
            component.differenced_files.append(_read_differenced_file(node))
        case "RESTORE_SUBCOMPONENT":
            member = RestoreSubcomponent(node.text("logicalPath", ""), node.text("componentName"))
            component.restore_subcomponents.append(member)
        case "NEW_TARGET":
            component.new_targets.append(read_mapping(node))
        case "DIRECTED_TARGET":
            fields = {field: node.text(name) for name, field in _DIRECTED.items()}
            component.directed_targets.append(DirectedTarget(**fields))
        case _:
            component.alternate_location_mappings.append(read_mapping(node))


def _read_failure(node: Node) -> Failure:
    return Failure(node.code("hresult"), node.number("applicationHresult", 0), node.text("message", ""))


def _read_partial_file(node: Node) -> PartialFile:
    return PartialFile(
        node.text("path"), node.text("filename"), node.text("ranges"), metadata=node.encoded_text("metadata")
    )


def _read_differenced_file(node: Node) -> DifferencedFile:
    return DifferencedFile(
        node.text("path"),
        node.text("filespec"),
        recursive=node.truth("recursive", False),
        last_modified_ns=node.number("lastModifyTimeNs", 0),
        lsn=node.text("lsnString", ""),
    )
