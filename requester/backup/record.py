"""What stays of a backup beside the files: the manifest and the documents."""

from __future__ import annotations

import socket
from datetime import UTC, datetime

from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.kinds import as_entry
from shadowset.requester.backup.plan import JobPlan, PlannedComponent
from shadowset.requester.backup.store import Target
from shadowset.requester.backup_components import BackupComponents
from shadowset.vss.documents import metadata_to_xml
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.requester_protocol import SetRecord


def new_manifest(record: SetRecord, backup_type: str) -> bundle.Manifest:
    """A manifest of this host, version and time, still without contents."""
    from shadowset import __version__

    return bundle.Manifest(
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        host=socket.gethostname(),
        set_id=record.set_id,
        backup_type=backup_type,
        skew_ms=record.skew_ms,
    )


def component_entry(planned: PlannedComponent, reason: str, gone: list[str]) -> bundle.ManifestComponent:
    """How one component went, still without the number of its files."""
    entry = as_entry(planned.writer, planned.info)
    entry.succeeded, entry.reason = not reason, reason
    entry.whole, entry.why = not planned.builds_on_base, planned.why
    entry.gone = [] if reason else gone
    return entry


def count_files(manifest: bundle.Manifest) -> None:
    """Tell the components how much of them there is."""
    files_of = manifest.files_by_component()
    for entry in manifest.components:
        mine = files_of.get(entry.key, [])
        entry.files = sum(1 for file in mine if file.kind == bundle.REGULAR)
        entry.bytes = sum(file.size for file in mine)


def save_documents(calls: BackupComponents, plan: JobPlan, target: Target) -> list[bundle.ManifestDocument]:
    """Write the backup components document and the metadata of the writers that took part. Errors: TargetError."""
    documents = [_save(target, bundle.COMPONENTS_DOCUMENT, calls.save_as_xml(), None)]
    taking_part = {component.writer.instance_id: component.writer for component in plan.components}
    for number, writer in enumerate(taking_part.values()):
        documents.append(_save(target, f"WriterMetadata{number}.xml", metadata_to_xml(writer), writer))
    return documents


def _save(target: Target, name: str, text: str, writer: WriterMetadata | None) -> bundle.ManifestDocument:
    bundle.write_atomically(f"{target.directory}/{name}", text.encode("utf-8", "surrogateescape"))
    return bundle.ManifestDocument(
        path=name,
        sha256=bundle.digest_text(text),
        writer_id=writer.writer_id if writer else "",
        instance_id=writer.instance_id if writer else "",
    )
