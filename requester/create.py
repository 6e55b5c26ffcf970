"""Making a shadow copy set without copying files out of it: the sequence of calls behind ``shadowset create``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from shadowset.requester.backup_components import BackupComponents
from shadowset.vss.codes import VssError
from shadowset.vss.enums import Attribute, BackupType, ObjectType
from shadowset.vss.requester_protocol import SetRecord


def create_set(
    calls: BackupComponents,
    volumes: list[str],
    context: int,
    wait: float = 0.0,
    begun: Callable[[str], None] = lambda set_id: None,
) -> SetRecord:
    """Make a shadow copy set of ``volumes`` (names, devices or paths) in a context; all writers that run take part.

    The backup is of type COPY, so no application's backup history changes. Components are not selected: each writer
    judges by the volumes whether it is concerned. While others make their sets, it waits ``wait`` seconds at the most.
    ``begun`` hears the set's id before there is any copy. Errors: VssError, after which nothing of the set is left.
    """
    writers = not context & Attribute.NO_WRITERS
    calls.initialize_for_backup()
    calls.set_context(context)
    calls.set_backup_state(select_components=False, bootable_system_state=False, backup_type=BackupType.COPY)
    if writers:
        calls.gather_writer_metadata().result()
    set_id = calls.start_snapshot_set(wait, volumes)
    begun(set_id)
    for volume in volumes:
        calls.add_to_snapshot_set(volume)
    if writers:
        calls.prepare_for_backup().result()
    return make_set(calls, set_id)


def make_set(calls: BackupComponents, set_id: str) -> SetRecord:
    """Let the prepared set be made. Errors: VssError, after which nothing of it is left."""
    making = calls.do_snapshot_set()
    try:
        return making.result()
    except BaseException:
        take_back(calls, set_id)
        raise


def take_back(calls: BackupComponents, set_id: str) -> None:
    """Whoever is interrupted says that there is no set, so one that had come to be by then is deleted.

    The answer to abort-backup comes after the end of do-snapshot-set, whichever that is.
    """
    try:
        calls.abort_backup()
        calls.delete_snapshots(set_id, ObjectType.SNAPSHOT_SET, force=True)
    except VssError:
        pass  # there is no such set, or nobody to ask; the first error is the one to tell


def environment_of(record: SetRecord, mounts: Mapping[str, str]) -> dict[str, str]:
    """What a command that runs over a set finds in its environment; ``mounts`` by the volumes' names."""
    found = {"SHADOWSET_SET_ID": record.set_id}
    for copy in record.snapshots:
        suffix = re.sub("[^A-Z0-9]", "_", copy.original_volume.upper())
        found[f"SHADOWSET_COPY_{suffix}"] = copy.device_object
        found[f"SHADOWSET_MOUNT_{suffix}"] = mounts[copy.original_volume]
    return found


def complete(calls: BackupComponents, context: int) -> None:
    """Tell the writers that nothing more will be read from the set. Contexts without writers have nobody to tell."""
    if not context & Attribute.NO_WRITERS:
        calls.backup_complete().result()
