"""Deleted copies that can still be taken back: put aside, counted down, and deleted for good.

Whoever deletes sees them gone. They keep their data and their place in the shadow storage until ``deletion_grace_ms``
of time in which the coordinator ran have passed. The wall clock has no say in it, since whoever wants copies gone may
set it. Where there is no such time any more, what is aside goes at once: the files of the administrator decide.
"""

from __future__ import annotations

import time

import msgspec

from shadowset.daemon.actor import author, require_may_delete
from shadowset.daemon.catalogue import Catalogue
from shadowset.daemon.house import House
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Attribute
from shadowset.vss.requester_protocol import DeletedCopy, SnapshotProperties, StorageInfo

WRITE_EVERY_S = 60.0
PROTECTING = "protect-copies"


class Aside:
    """One per coordinator; its time is CLOCK_BOOTTIME, which nobody can set."""

    def __init__(self, catalogue: Catalogue, grace_ms: int) -> None:
        self._catalogue = catalogue
        self.grace_ms = grace_ms
        self._since = boot_time()

    def takes(self, copy: SnapshotProperties) -> bool:
        """Whether this copy is put aside instead of deleted: what goes with its session is not."""
        return bool(self.grace_ms and copy.attributes & Attribute.NO_AUTO_RELEASE)

    def put(self, copy: SnapshotProperties) -> int:
        """From here on it does not exist for anybody; when it goes for good, in Unix nanoseconds as things are now."""
        passed = int((boot_time() - self._since) * 1000)
        # what has passed since the count was written last is taken from all, so it is given to this one beforehand
        self._catalogue.put_aside(copy.snapshot_id, self.grace_ms + passed, author("snapshot-deleted"), time.time_ns())
        return time.time_ns() + self.grace_ms * 10**6

    def listed(self, volume: str = "") -> list[DeletedCopy]:
        """What is aside, the soonest to go first."""
        passed = int((boot_time() - self._since) * 1000)
        rows = sorted(self._catalogue.aside(volume), key=lambda row: row.left_ms)
        return [msgspec.structs.replace(row, left_ms=max(0, row.left_ms - passed)) for row in rows]

    def due(self) -> list[SnapshotProperties]:
        """Count down, and tell what is to be deleted for good now. Writes to the catalogue once a minute."""
        found = [row.copy for row in self.listed() if row.left_ms <= 0 or not self.grace_ms]
        passed = boot_time() - self._since
        if passed >= WRITE_EVERY_S or found:
            self._catalogue.age_aside(int(passed * 1000))
            self._since += int(passed * 1000) / 1000
        return found

    def find(self, snapshot_id: str) -> SnapshotProperties:
        """Errors: VSS_E_OBJECT_NOT_FOUND."""
        for row in self._catalogue.aside():
            if row.copy.snapshot_id == snapshot_id:
                return row.copy
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            f"there is no deleted shadow copy {snapshot_id[:80]!r} that could be taken back; 'shadowset undelete' "
            f"lists those that can",
        )


def boot_time() -> float:
    """Seconds since the host started, with those in which it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def number_of(count: int, one: str, many: str) -> str:
    """As "2 copies"."""
    return f"{count} {one if count == 1 else many}"


def refuse_removal(house: House, volume: str, aside: Aside) -> None:
    """A removal forgets all copies. Errors: VSS_E_BAD_STATE while some are aside, or would have to be put there."""
    left = aside.listed(volume)
    living = aside.grace_ms and house.catalogue.snapshots(volume=volume)
    if left or living:
        deleted = number_of(len(left), "deleted shadow copy", "deleted shadow copies")
        what = f"{deleted} that can still be taken back" if left else "shadow copies"
        raise VssError(
            Code.VSS_E_BAD_STATE,
            f"volume {volume} has {what}, and deletion is delayed here, also for a removal by force; delete its copies "
            f"and wait, or end the delay (take deletion_grace_ms out of shadowsetd.toml and restart shadowsetd)",
        )


def refuse_shrinking(
    house: House, now: StorageInfo, volume_size: int, max_size: int | None, policy: str | None, aside: Aside
) -> None:
    """Less room is another way to delete. Errors: E_ACCESSDENIED, VSS_E_BAD_STATE where deletion is delayed.

    Then a maximum has to leave what the copies take, deleted ones too, and the volume written over once.
    """
    smaller = bool(max_size) and (now.max_size == 0 or int(max_size or 0) < now.max_size)
    weaker = now.policy == PROTECTING and policy not in (None, PROTECTING)
    if not (smaller or weaker):
        return
    require_may_delete(f"the shadow storage of volume {now.volume} cannot be made to keep less")
    living, left = house.catalogue.snapshots(volume=now.volume), aside.listed(now.volume)
    least = now.used + volume_size
    if not (aside.grace_ms and (living or left)) or (not weaker and int(max_size or 0) >= least):
        return
    cost = [number_of(len(living), "shadow copy", "shadow copies")] if living else []
    if left:
        deleted = number_of(len(left), "deleted copy", "deleted copies")
        cost.append(f"{deleted}, which can be taken back for {left[-1].left_ms // 1000} s more")
    step = "keep the policy" if weaker else f"give at least {-(-least >> 20)}M"
    raise VssError(
        Code.VSS_E_BAD_STATE,
        f"the shadow storage of volume {now.volume} cannot be made to keep less: that could cost "
        f"{' and '.join(cost)}, and deletion is "
        f"delayed here; {step}, or wait until they are gone, or end the delay (take deletion_grace_ms out of "
        f"shadowsetd.toml and restart shadowsetd)",
    )
