"""What the coordinator records: the stable number of each event, how grave it is, and what it means.

A number is given once and for ever; a new event takes a new one. ``windows`` are the numbers under which administrators
of Windows know the like of it, as source and number of public event lists.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6
"""Priorities of syslog."""

_NAMESPACE = uuid.UUID("3b1d7b0c-6f0e-4a55-9d43-0d7e2a4f8c11")


@dataclass(frozen=True)
class EventKind:
    """One kind of event; ``number`` 0 is an event that a provider of another make invented."""

    number: int
    priority: int
    meaning: str
    windows: str = ""


EVENTS: dict[str, EventKind] = {
    # sets and copies
    "set-created": EventKind(100, INFO, "a shadow copy set was made"),
    "set-failed": EventKind(
        101, ERROR, "a set was not made; the cause names who refused", "VSS 8229, VSS 12298, volsnap 8"
    ),
    "backup-aborted": EventKind(102, WARNING, "a requester hung while others waited, and lost its turn"),
    "exclude-failed": EventKind(103, WARNING, "files that should not be in a copy could not be deleted in it"),
    "thawed-leftover": EventKind(104, ERROR, "a file system that a killed coordinator left frozen was thawed"),
    "snapshot-deleted": EventKind(110, NOTICE, "a copy was deleted, or was released with its session"),
    "snapshot-lost": EventKind(111, ERROR, "a copy is gone without having been deleted", "volsnap 25, volsnap 29"),
    "snapshot-kept": EventKind(112, INFO, "a copy has another priority or hold"),
    "snapshot-imported": EventKind(113, INFO, "a copy was taken in from a file"),
    "expose-lost": EventKind(114, WARNING, "a copy is no longer mounted where it was"),
    "exposed-again": EventKind(115, INFO, "a copy is mounted again after its device object had died"),
    "release-delayed": EventKind(116, NOTICE, "an auto-release copy outlives its session, since it is read"),
    "release-forced": EventKind(117, WARNING, "an auto-release copy went although it was still read"),
    "snapshot-undeleted": EventKind(118, NOTICE, "a deleted copy was taken back"),
    "snapshot-purged": EventKind(119, NOTICE, "the time in which a deleted copy could be taken back is over"),
    "snapshot-found": EventKind(120, NOTICE, "a copy that the catalogue did not know was taken in from its storage"),
    "snapshot-not-taken-in": EventKind(121, WARNING, "a storage has a copy of the same id as one of another volume"),
    # shadow storage
    "copy-lost": EventKind(
        200, ERROR, "a provider gave a copy up; the cause is in it", "volsnap 14, volsnap 33, volsnap 36"
    ),
    "storage-warning": EventKind(201, WARNING, "a shadow storage is as full as its warning threshold", "volsnap 24"),
    "writes-refused": EventKind(202, ERROR, "no copy may be lost and there is no room: live writes fail"),
    "storage-configured": EventKind(203, NOTICE, "a shadow storage has another maximum, policy or threshold"),
    "revert-started": EventKind(210, NOTICE, "a volume is being taken back to a copy"),
    "revert-finished": EventKind(211, NOTICE, "a volume was taken back to a copy"),
    "revert-stopped": EventKind(212, ERROR, "a revert stopped; it goes on when its cause is mended"),
    "move-started": EventKind(220, INFO, "a shadow storage is being moved"),
    "move-finished": EventKind(221, INFO, "a shadow storage is at its new place"),
    "move-stopped": EventKind(222, WARNING, "a move ended; the storage stays where it was"),
    # volumes
    "volume-added": EventKind(300, NOTICE, "a volume is protected"),
    "volume-removed": EventKind(301, NOTICE, "a volume is no longer protected"),
    "volume-attached": EventKind(302, INFO, "a volume has its live device"),
    "volume-detached": EventKind(303, INFO, "a volume has no device any more"),
    "volume-resized": EventKind(304, INFO, "a volume took in what its origin gained"),
    "volume-offline": EventKind(305, ERROR, "a volume has no provider"),
    "provider-started": EventKind(306, INFO, "a volume's provider was started"),
    "provider-lost": EventKind(307, ERROR, "a volume's provider ended unexpectedly"),
    "attach-failed": EventKind(308, ERROR, "a volume could not be attached again"),
    "attach-lost": EventKind(309, ERROR, "a volume's device is dead"),
    "recursion": EventKind(310, ERROR, "a volume lies inside another one"),
    "provider-failing": EventKind(311, ERROR, "a volume's provider dies again and again"),
    "provider-replaced": EventKind(312, INFO, "a volume is served by another process after a handover"),
    "bridge-restarted": EventKind(313, ERROR, "the process under a volume's loop device was started again"),
    # service
    "provider-registered": EventKind(400, INFO, "a provider of a package was registered"),
    "provider-unregistered": EventKind(401, INFO, "a provider is left out"),
    "provider-failed": EventKind(402, ERROR, "a registered provider cannot be used", "VSS 12293"),
    "devices-lost": EventKind(403, ERROR, "device objects are away"),
    "devices-back": EventKind(404, INFO, "device objects are there again"),
    "access-denied": EventKind(406, WARNING, "somebody may not be what he asked to be; once an hour each", "VSS 8194"),
    "express-writer-refused": EventKind(405, WARNING, "a metadata document in express-writers.d is left out"),
}


def kind_of(name: str) -> EventKind:
    """What is known of an event; number 0 for one of another maker's provider."""
    return EVENTS.get(name) or EventKind(0, NOTICE, "an event of a provider of another make")


def message_id(name: str) -> str:
    """The 32 digits under which systemd's journal knows this kind of event; the same on every host."""
    return uuid.uuid5(_NAMESPACE, name).hex
