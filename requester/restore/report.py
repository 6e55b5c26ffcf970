"""How a restore went, or would go."""

from __future__ import annotations

import msgspec

from shadowset.requester.backup import manifest as bundle
from shadowset.requester.restore.choose import RestoreItem
from shadowset.vss.enums import FileRestoreStatus


class RestoredComponent(msgspec.Struct, kw_only=True):
    """How the restore of one component went.

    ``removed`` are stale files, ``mapped`` alternate places, ``moved_to`` directories of new and directed targets.
    ``backups`` is how many backups of a chain it took. ``at_reboot``: the files take their places at the next boot.
    ``restore_metadata`` is what its writer noted, in its own words.
    """

    writer: str
    component: str
    status: FileRestoreStatus
    reason: str = ""
    files: int = 0
    bytes: int = 0
    removed: list[str] = []
    mapped: list[str] = []
    moved_to: list[str] = []
    backups: int = 1
    at_reboot: bool = False
    restore_metadata: str = ""


class RestoreReport(msgspec.Struct, kw_only=True):
    """How a restore went; ``to`` is empty when the files went to their own places.

    ``backups`` are the directories of the chain, oldest first; ``reboot_required`` that a writer wants a reboot.
    """

    source: str
    to: str
    set_id: str
    succeeded: bool
    components: list[RestoredComponent]
    problems: list[str]
    backups: list[str] = []
    reboot_required: bool = False


def restored(item: RestoreItem, status: FileRestoreStatus, reason: str = "") -> RestoredComponent:
    """One item of one backup."""
    regular = [file for file in item.files if file.kind == bundle.REGULAR]
    return RestoredComponent(
        writer=item.metadata.name,
        component=item.path,
        status=status,
        reason=reason,
        files=len(regular) if status == FileRestoreStatus.ALL else 0,
        bytes=sum(file.size for file in regular) if status == FileRestoreStatus.ALL else 0,
    )


def joined(earlier: RestoredComponent | None, later: RestoredComponent) -> RestoredComponent:
    """One component after two backups of its chain."""
    if earlier is None:
        return later
    if earlier.status != FileRestoreStatus.ALL:
        return earlier
    status = later.status if later.status == FileRestoreStatus.ALL else FileRestoreStatus.FAILED
    return msgspec.structs.replace(
        later,
        status=status,
        files=earlier.files + later.files,
        bytes=earlier.bytes + later.bytes,
        removed=earlier.removed + later.removed,
        mapped=list(dict.fromkeys(earlier.mapped + later.mapped)),
        moved_to=list(dict.fromkeys(earlier.moved_to + later.moved_to)),
        backups=earlier.backups + 1,
    )
