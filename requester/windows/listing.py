"""What diskshadow and vshadow ask alike: the writers and what they have, and deleting copies one by one."""

from __future__ import annotations

import os

from shadowset.requester.administration import Administration
from shadowset.requester.backup.mounts import VolumeMap, read_mounts
from shadowset.requester.backup.plan import volumes_of
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.sentences import printable
from shadowset.requester.windows.words import braced
from shadowset.requester.windows.writer_text import metadata_text
from shadowset.vss.codes import Code, VssError
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.requester_protocol import SnapshotProperties


def gather_writers(client: str) -> list[WriterMetadata]:
    """Ask every writer to describe itself, in a session of its own."""
    with BackupComponents(client=client) as calls:
        calls.initialize_for_backup()
        return calls.gather_writer_metadata().result()


def writers_text(client: str, writers: list[WriterMetadata], detailed: bool) -> str:
    """What writers have, and on which volumes it lies."""
    with Administration(client=client) as administration:
        volume_map = VolumeMap(administration.volume_list(), read_mounts())
    return metadata_text(writers, lambda files: volumes_of(files, volume_map, os.environ), detailed)


def oldest_first(copies: list[SnapshotProperties]) -> list[SnapshotProperties]:
    """Copies in the order in which they were made."""
    return sorted(copies, key=lambda copy: (copy.created_ns, copy.device_number))


def deleting_text(copy: SnapshotProperties) -> str:
    """What is said before a copy is deleted."""
    return f"Deleting shadow copy {braced(copy.snapshot_id)} on volume {printable(copy.original_volume)} ..."


def delete_copy(calls: BackupComponents, copy: SnapshotProperties) -> None:
    """Delete one copy, also where it is exposed. Errors: VSS_E_PROVIDER_VETO."""
    result = calls.delete_snapshots(copy.snapshot_id, force=True)
    if result.not_deleted:
        raise VssError(Code.VSS_E_PROVIDER_VETO, f"{copy.snapshot_id} was not deleted: {result.message}")
