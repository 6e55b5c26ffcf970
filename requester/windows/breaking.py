"""BREAK: every shadow copy of a set becomes an ordinary volume in a directory, and is then no shadow copy any more.

On Windows the disks of the copies are there already; here each one is written out, so the tools take a directory more.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from shadowset.requester.administration import Administration
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.break_copy import break_copy
from shadowset.requester.sentences import printable
from shadowset.requester.windows.listing import delete_copy
from shadowset.requester.windows.words import unbraced
from shadowset.vss.codes import Code, VssError
from shadowset.vss.requester_protocol import SnapshotProperties

Tell = Callable[[str], None]


def break_set(client: str, set_id: str, directory: str, writable: bool, keep_uuid: bool, tell: Tell) -> None:
    """Write out all copies of a set, then delete them; until all are written none is deleted.

    Errors: VSS_E_OBJECT_NOT_FOUND, and as ``break_copy``; what was written before stays.
    """
    with Administration(client=client) as administration:
        copies = administration.query(set_id=unbraced(set_id))
        volumes = administration.volume_list()
    if not copies:
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no shadow copy set {set_id}; list the shadow copies")
    for copy in copies:
        target = target_of(copy, directory)
        break_copy(copy, target, volumes, writable, keep_uuid, lambda count: None)
        tell(f"Shadow copy {copy.snapshot_id} is the volume {printable(target)}.")
    with BackupComponents(client=client) as calls:
        for copy in copies:
            delete_copy(calls, copy)


def target_of(copy: SnapshotProperties, directory: str) -> str:
    """The new volume's place: the last part of the original's name, with ``.img`` unless the copy is a directory."""
    name = copy.original_volume.rpartition(":")[2].strip("/").rpartition("/")[2] or "volume"
    suffix = "" if os.path.isdir(copy.device_object) else ".img"
    return f"{os.path.abspath(directory)}/{name}{suffix}"
