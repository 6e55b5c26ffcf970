"""What the operations on shadow copies share: finding one, and telling of one."""

from __future__ import annotations

from shadowset.daemon.house import House
from shadowset.vss.codes import Code, VssError
from shadowset.vss.requester_protocol import SnapshotProperties


def find_copy(house: House, snapshot_id: str) -> SnapshotProperties:
    """Errors: VSS_E_OBJECT_NOT_FOUND."""
    found = house.catalogue.snapshots(snapshot_id=snapshot_id) if snapshot_id else []
    if not found:
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no shadow copy {snapshot_id[:80]!r}")
    return found[0]


def tell_of(house: House, name: str, copy: SnapshotProperties, what: str) -> None:
    """Record an event about a copy; ``what`` goes on after its name."""
    sentence = f"shadow copy {copy.snapshot_id} of volume {copy.original_volume} {what}"
    house.event(name, sentence, copy.original_volume, copy.snapshot_set_id)
