"""Faults of a Writer Metadata Document, each as one sentence that a writer's developer can act on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from shadowset.vss.documents.xml import forbidden_character
from shadowset.vss.enums import (
    BackupSchema,
    ComponentFlag,
    ComponentType,
    FileSetMask,
    RestoreMethodType,
    WriterRestore,
)
from shadowset.vss.filespec import is_absolute
from shadowset.vss.metadata import ComponentInfo, Dependency, FileSet, WriterMetadata
from shadowset.vss.selection.dependencies import dependency_target, guid_key
from shadowset.vss.selection.rules import SEPARATOR

MAX_LOGICAL_PATH = 4096

_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_SERVICE_METHODS = (RestoreMethodType.STOP_RESTORE_START, RestoreMethodType.RESTORE_STOP_START)


def is_guid(text: str) -> bool:
    """Whether a text is a GUID, with or without braces."""
    bare = text[1:-1] if text.startswith("{") and text.endswith("}") else text
    return bool(_GUID.fullmatch(bare))


def validate_metadata(metadata: WriterMetadata) -> list[str]:
    """One sentence for each fault; an empty list when VSS would take the document."""
    return [
        *_identity(metadata),
        *_restore_method(metadata),
        *_names(metadata),
        *(fault for component in metadata.components for fault in _component(metadata, component)),
        *_shared_file_sets(metadata),
        *_inclusions(metadata),
        *_exclusions(metadata),
        *_mappings(metadata),
    ]


def unknown_bits(value: int, known: type[BackupSchema] | type[ComponentFlag] | type[FileSetMask]) -> int:
    """The bits of a value that are no flag."""
    mask = 0
    for flag in known:
        mask |= flag.value
    return value & ~mask


def text_faults(what: str, text: str) -> Iterator[str]:
    """What is wrong with a text that goes into a document."""
    bad = forbidden_character(text)
    if bad:
        yield f"{what} holds the character {bad}, which no XML document can hold; take it out"


def _identity(metadata: WriterMetadata) -> Iterator[str]:
    if not is_guid(metadata.writer_id):
        yield f"the writer id {metadata.writer_id!r} is not a GUID; make one and never change it"
    if not is_guid(metadata.instance_id):
        yield f"the instance id {metadata.instance_id!r} is not a GUID; make a new one at each start"
    if not metadata.name.strip():
        yield "the writer has no name; give it one that tools can show"
    yield from text_faults("the writer's name", metadata.name)
    yield from text_faults("the writer's instance name", metadata.instance_name)
    if metadata.major_version < 1 or metadata.minor_version < 0:
        version = f"{metadata.major_version}.{metadata.minor_version}"
        yield f"the writer's version {version} is below 1.0; start with 1.0"
    if metadata.freeze_timeout_ms <= 0:
        yield f"the freeze window of {metadata.freeze_timeout_ms} ms leaves no time; give the longest it can take"
    if unknown_bits(metadata.backup_schema, BackupSchema):
        yield f"the backup schema {metadata.backup_schema:#x} has bits that VSS does not know; clear them"


def _restore_method(metadata: WriterMetadata) -> Iterator[str]:
    method = metadata.restore_method
    if method.method == RestoreMethodType.UNDEFINED:
        yield "the restore method is undefined; set the one that the data needs"
    if method.writer_restore == WriterRestore.UNDEFINED:
        yield "it is undefined whether the writer takes part in restores; set never, if-replace-fails or always"
    if method.method in _SERVICE_METHODS and not method.service:
        yield f"the restore method {method.method.name} needs a service to stop and start; name it"
    if method.method == RestoreMethodType.RESTORE_TO_ALTERNATE_LOCATION and not metadata.alternate_location_mappings:
        yield "the restore method RESTORE_TO_ALTERNATE_LOCATION needs an alternate location mapping; add one"
    yield from text_faults("the restore method's service", method.service)
    yield from text_faults("the restore method's user procedure", method.user_procedure)


def _names(metadata: WriterMetadata) -> Iterator[str]:
    if not metadata.components:
        yield "the writer has no components, so there is nothing to back up; add at least one"
    for (path, name), count in Counter((c.logical_path, c.name) for c in metadata.components).items():
        if count > 1:
            yield f"component {name!r} with logical path {path!r} is there {count} times; make names unique in a path"


def _component(metadata: WriterMetadata, component: ComponentInfo) -> Iterator[str]:
    what = f"component {component.full_path!r}"
    yield from name_faults(what, component.logical_path, component.name)
    yield from text_faults(f"the caption of {what}", component.caption)
    if component.type == ComponentType.UNDEFINED:
        yield f"{what} has an undefined type; make it a database or a file group"
    if component.type == ComponentType.DATABASE and component.files:
        yield f"{what} is a database and has file-group files; add them as database or log files"
    if component.type == ComponentType.FILEGROUP and (component.database_files or component.log_files):
        yield f"{what} is a file group and has database or log files; add them as file-group files"
    if unknown_bits(component.flags, ComponentFlag):
        yield f"{what} has flags {component.flags:#x} with bits that VSS does not know; clear them"
    for files in component.file_sets:
        yield from _file_set(what, files)
    for files in component.database_files + component.log_files:
        if files.recursive or files.alternate_path:
            yield f"{what} has database files {files.path!r} that are recursive or lie elsewhere; VSS has neither there"
    for dependency in component.dependencies:
        yield from _dependency(metadata, what, dependency)
    for dependency, count in Counter(component.dependencies).items():
        if count > 1:
            yield f"{what} depends {count} times on {dependency.component_name!r}; say it once"


def name_faults(what: str, path: str, name: str) -> Iterator[str]:
    """What is wrong with a component's logical path and name."""
    if not name.strip():
        yield f"a component with logical path {path!r} has no name; give it one"
    if SEPARATOR in name or "/" in name:
        yield f"{what} has a slash or backslash in its name {name!r}; put the path into the logical path"
    if "/" in path:
        yield f"{what} has a slash in its logical path; separate its elements with backslashes"
    if path and "" in path.split(SEPARATOR):
        yield f"{what} has an empty element in its logical path; write it without leading, trailing or double backslash"
    if len(path) > MAX_LOGICAL_PATH:
        yield f"{what[:60]}… has a logical path of {len(path)} characters; use at most {MAX_LOGICAL_PATH}"
    for field, text in (("name", name), ("logical path", path)):
        yield from text_faults(f"the {field} of {what}", text)


def path_faults(what: str, field: str, path: str) -> Iterator[str]:
    """What is wrong with a path, which must be absolute or begin with a variable."""
    if not path:
        yield f"{what} has an empty {field}; give an absolute path"
    elif not is_absolute(path):
        yield f"{what} has the relative {field} {path!r}; give an absolute one or begin it with a variable"
    if ".." in path.split("/"):
        yield f"{what} has the {field} {path!r} with a .. element; write it without"
    yield from text_faults(f"the {field} of {what}", path)


def pattern_faults(what: str, filespec: str) -> Iterator[str]:
    """What is wrong with a pattern of file names."""
    if not filespec:
        yield f"{what} has an empty file pattern; use * for all names"
    if "/" in filespec or SEPARATOR in filespec:
        yield f"{what} has a slash or backslash in the file pattern {filespec!r}; put directories into the path"
    yield from text_faults(f"the file pattern of {what}", filespec)


def _file_set(what: str, files: FileSet) -> Iterator[str]:
    what = f"file set {files.path!r} {files.filespec!r} of {what}"
    yield from path_faults(what, "path", files.path)
    yield from pattern_faults(what, files.filespec)
    if files.alternate_path:
        yield from path_faults(what, "alternate path", files.alternate_path)
    if unknown_bits(files.mask, FileSetMask):
        yield f"{what} has a backup-type mask {files.mask:#x} with bits that VSS does not know; clear them"


def _dependency(metadata: WriterMetadata, what: str, dependency: Dependency) -> Iterator[str]:
    target = dependency_target(dependency)
    if not is_guid(dependency.writer_id):
        yield f"{what} depends on a writer whose id {dependency.writer_id!r} is not a GUID; use its class id"
    if not dependency.component_name.strip(SEPARATOR):
        yield f"{what} depends on a component without a name; name it"
    if not target.host and target.key.writer_id == guid_key(metadata.writer_id):
        yield f"{what} depends on {target.key.path!r} of its own writer; use logical paths to keep them together"
    yield from text_faults(f"a dependency of {what}", dependency.logical_path + dependency.component_name)


def _shared_file_sets(metadata: WriterMetadata) -> Iterator[str]:
    owners: dict[tuple[str, str, bool], list[str]] = {}
    for component in metadata.components:
        for files in component.file_sets:
            owners.setdefault((files.path, files.filespec, files.recursive), []).append(component.full_path)
    for (path, filespec, _), names in owners.items():
        if len(names) > 1:
            where = ", ".join(repr(name) for name in names)
            yield f"file set {path!r} {filespec!r} is there {len(names)} times, in {where}; keep it in one component"


def _exclusions(metadata: WriterMetadata) -> Iterator[str]:
    for kind, excluded in (("backup", metadata.exclude_files), ("shadow copy", metadata.exclude_from_snapshot)):
        for files in excluded:
            what = f"the exclusion {files.path!r} {files.filespec!r} from the {kind}"
            yield from path_faults(what, "path", files.path)
            yield from pattern_faults(what, files.filespec)


def _inclusions(metadata: WriterMetadata) -> Iterator[str]:
    for files in metadata.include_files:
        what = f"the included file set {files.path!r} {files.filespec!r}"
        yield from path_faults(what, "path", files.path)
        yield from pattern_faults(what, files.filespec)
        if files.alternate_path:
            yield from path_faults(what, "alternate path", files.alternate_path)


def _mappings(metadata: WriterMetadata) -> Iterator[str]:
    sources = {(f.path, f.filespec, f.recursive) for c in metadata.components for f in c.file_sets}
    for mapping in metadata.alternate_location_mappings:
        what = f"the alternate location mapping of {mapping.path!r} {mapping.filespec!r}"
        if (mapping.path, mapping.filespec, mapping.recursive) not in sources:
            yield f"{what} has a source that is no file set; repeat path, pattern and recursion of one exactly"
        yield from path_faults(what, "alternate path", mapping.alternate_path)
