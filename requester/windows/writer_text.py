"""Writers as diskshadow and vshadow list them: their state, and what they have. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from shadowset.requester.sentences import printable
from shadowset.requester.windows.words import braced
from shadowset.vss.codes import code_name
from shadowset.vss.enums import WriterRestore
from shadowset.vss.metadata import ComponentInfo, ExcludedFiles, FileSet, WriterMetadata
from shadowset.vss.requester_protocol import WriterStatus

VolumesOf = Callable[[FileSet], Sequence[str]]


def status_text(statuses: Iterable[WriterStatus]) -> str:
    """State and failure of each writer."""
    return "\n".join(
        f'* WRITER "{printable(one.name)}"\n'
        f"\t- Status: {one.state.value} (VSS_WS_{one.state.name})\n"
        f"\t- Writer failure code: 0x{one.failure.code:08x} ({code_name(one.failure.code)})\n"
        f"\t- Writer ID: {braced(one.writer_id)}\n"
        f"\t- Instance ID: {braced(one.instance_id)}\n"
        for one in statuses
    )


def metadata_text(writers: Iterable[WriterMetadata], volumes_of: VolumesOf, detailed: bool) -> str:
    """What each writer has; with ``detailed`` every file set, without it the paths and volumes only."""
    return "\n".join(_writer(writer, volumes_of, detailed) for writer in writers)


def _writer(writer: WriterMetadata, volumes_of: VolumesOf, detailed: bool) -> str:
    method = writer.restore_method
    lines = [
        f'* WRITER "{printable(writer.name)}"',
        f"\t- Writer ID   = {braced(writer.writer_id)}",
        f"\t- Writer instance ID = {braced(writer.instance_id)}",
        f"\t- Supports restore events = {_truth(method.writer_restore != WriterRestore.NEVER)}",
        f"\t- Writer restore conditions = VSS_WRE_{method.writer_restore.name}",
        f"\t- Restore method = VSS_RME_{method.method.name}",
        f"\t- Requires reboot after restore = {_truth(method.reboot_required)}",
    ]
    if detailed:
        lines.append("\t- Excluded files:")
        lines += [f"\t\t- {_excluded(files)}" for files in writer.exclude_files]
    paths = [component.full_path for component in writer.components]
    for component in writer.components:
        lines += _component(writer.name, component, paths, volumes_of, detailed)
    return "\n".join(lines) + "\n"


def _component(
    writer: str, component: ComponentInfo, paths: Sequence[str], volumes_of: VolumesOf, detailed: bool
) -> list[str]:
    path = component.full_path
    top = not any(path.startswith(f"{other}\\") for other in paths)
    lines = [
        f'\t+ Component "{printable(writer)}:\\{printable(path)}"',
        f"\t\t- Name: {printable(component.name)}",
        f"\t\t- Logical path: {printable(component.logical_path)}",
        f"\t\t- Full path: \\{printable(path)}",
        f"\t\t- Caption: {printable(component.caption)}",
        f"\t\t- Type: VSS_CT_{component.type.name} [{component.type.value}]",
        f"\t\t- Is selectable = {_truth(component.selectable)}",
        f"\t\t- Is top level = {_truth(top)}",
        f"\t\t- Notify on backup complete = {_truth(component.notify_on_backup_complete)}",
    ]
    if detailed:
        for title, file_sets in (
            ("File list", component.files),
            ("Database", component.database_files),
            ("Database log", component.log_files),
        ):
            lines += [f"\t\t- {title}: {_file_set(files)}" for files in file_sets]
    lines += _affected("Paths", sorted({files.path for files in component.file_sets}))
    lines += _affected("Volumes", sorted({name for files in component.file_sets for name in volumes_of(files)}))
    lines.append("\t\t- Component Dependencies:")
    lines += [
        f'\t\t\t- Dependency to "{braced(one.writer_id)}:\\{printable(_joined(one.logical_path, one.component_name))}"'
        for one in component.dependencies
    ]
    return lines


def _affected(what: str, names: Iterable[str]) -> list[str]:
    return [f"\t\t- {what} affected by this component:", *(f"\t\t\t- {printable(name)}" for name in names)]


def _file_set(files: FileSet) -> str:
    elsewhere = f", Alternate Path = {files.alternate_path}" if files.alternate_path else ""
    return printable(
        f"Path = {files.path}, Filespec = {files.filespec}, Recursive = {_truth(files.recursive)}{elsewhere}"
    )


def _excluded(files: ExcludedFiles) -> str:
    return printable(f"Path = {files.path}, Filespec = {files.filespec}, Recursive = {_truth(files.recursive)}")


def _joined(logical_path: str, name: str) -> str:
    return f"{logical_path}\\{name}" if logical_path else name


def _truth(value: bool) -> str:
    return "TRUE" if value else "FALSE"
