"""Documents in words, as ``shadowset documents show`` prints them."""

from __future__ import annotations

from shadowset.requester.sentences import fields, printable, table
from shadowset.vss.codes import code_name
from shadowset.vss.components import BackupComponentsDocument, Component, WriterComponents
from shadowset.vss.documents.twin import Document
from shadowset.vss.enums import BackupSchema
from shadowset.vss.metadata import ComponentInfo, WriterMetadata


def document_text(document: Document) -> str:
    """The whole document."""
    if isinstance(document, WriterMetadata):
        return _metadata_text(document)
    return _components_text(document)


def _words(name: str) -> str:
    return name.lower().replace("_", " ")


def _schema(bits: int) -> str:
    return ", ".join(_words(each.name) for each in BackupSchema if each.name and bits & each) or "full backups only"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


# ---- writer metadata ----


def _metadata_text(metadata: WriterMetadata) -> str:
    method = metadata.restore_method
    head = fields(
        [
            ("Document", "writer metadata"),
            ("Writer name", metadata.name),
            ("Writer ID", metadata.writer_id),
            ("Writer instance ID", metadata.instance_id),
            ("Instance name", metadata.instance_name),
            ("Version", f"{metadata.major_version}.{metadata.minor_version}"),
            ("Usage", _words(metadata.usage.name)),
            ("Data source", _words(metadata.source.name)),
            ("Level", _words(metadata.level.name)),
            ("Freeze window", f"{metadata.freeze_timeout_ms} ms"),
            ("Restore method", _words(method.method.name) + (f", service {method.service}" if method.service else "")),
            ("Writer takes part", _words(method.writer_restore.name)),
            ("Reboot required", _yes(method.reboot_required)),
            ("Backup schema", _schema(metadata.backup_schema)),
        ]
    )
    parts = [head, *(_info_text(component) for component in metadata.components)]
    files = [["not in the backup", each.path, each.filespec, _yes(each.recursive)] for each in metadata.exclude_files]
    files += [
        ["not in the copy", each.path, each.filespec, _yes(each.recursive)] for each in metadata.exclude_from_snapshot
    ]
    files += [
        [f"may go to {each.alternate_path}", each.path, each.filespec, _yes(each.recursive)]
        for each in metadata.alternate_location_mappings
    ]
    if files:
        parts.append(table(["FILES", "PATH", "PATTERN", "RECURSIVE"], files))
    return "\n\n".join(parts)


def _info_text(component: ComponentInfo) -> str:
    choice = "selectable" if component.selectable else "always with the writer"
    head = printable(f"Component {component.full_path} ({_words(component.type.name)}, {choice}): {component.caption}")
    rows = [
        [kind, files.path, files.filespec, _yes(files.recursive), f"{files.mask:#x}", files.alternate_path]
        for kind, sets in (
            ("file", component.files),
            ("database", component.database_files),
            ("log", component.log_files),
        )
        for files in sets
    ]
    lines = [head.rstrip(": ")]
    if rows:
        lines.append(table(["KIND", "PATH", "PATTERN", "RECURSIVE", "MASK", "READ FROM"], rows, indent="  "))
    lines += [
        printable(f"  goes with {each.logical_path}\\{each.component_name} of writer {each.writer_id}")
        for each in component.dependencies
    ]
    return "\n".join(lines)


# ---- backup components ----


def _components_text(document: BackupComponentsDocument) -> str:
    head = fields(
        [
            ("Document", "backup components"),
            ("Backup type", _words(document.backup_type.name)),
            ("By components", _yes(document.select_components)),
            ("Bootable system state", _yes(document.bootable_system_state)),
            ("Partial files", _yes(document.partial_files)),
            ("Restore type", _words(document.restore_type.name)),
            ("Shadow copy set ID", document.snapshot_set_id),
            ("Session ID", document.session_id),
        ]
    )
    return "\n\n".join([head, *(_writer_text(writer) for writer in document.writers)])


def _writer_text(writer: WriterComponents) -> str:
    head = fields(
        [
            ("Writer name", writer.name),
            ("Writer ID", writer.writer_id),
            ("Writer instance ID", writer.instance_id),
            ("Instance name", writer.instance_name),
            ("Backup schema", _schema(writer.backup_schema)),
        ]
    )
    return "\n".join([head, *(_component_text(component) for component in writer.components)])


def _component_text(component: Component) -> str:
    """Everything of a component that is set; what is at its default is left out."""
    head = printable(f"  Component {component.full_path} ({_words(component.type.name)})")
    pairs = [("Backed up", _yes(component.backup_succeeded))]
    for name in component.__struct_fields__[4:]:
        value = getattr(component, name)
        if value and name != "failure":
            pairs.append((_words(name).capitalize(), _value(value)))
    if component.failure.code:
        pairs.append(("Failure", f"{code_name(component.failure.code)}: {component.failure.message}"))
    return f"{head}\n{fields(pairs, indent='    ')}"


def _value(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(_entry(each) for each in value)
    if isinstance(value, bool):
        return _yes(value)
    return _words(value.name) if hasattr(value, "name") else str(value)


def _entry(value: object) -> str:
    names: tuple[str, ...] = getattr(value, "__struct_fields__", ())
    return ", ".join(f"{_words(name)} {getattr(value, name)}" for name in names if getattr(value, name))
