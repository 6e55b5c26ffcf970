"""Room in shadow storage: what is full or will be, what that means to the volume, and which step helps."""

from __future__ import annotations

import os
from collections.abc import Iterator

from shadowset.requester.doctor.finding import Finding, Patient, problem, warning
from shadowset.requester.progress import size_text
from shadowset.requester.sentences import time_text
from shadowset.vss.requester_protocol import SnapshotProperties, StorageInfo

FULL, NEARLY = 95, 80
LEAST_MIB = 64
"""A new copy alone wants some MiB; advice to give less would have to be taken again at once."""
PROTECTING = "protect-copies"
WRITES_FAIL = "writes to the volume fail next"
CONSEQUENCE = {
    "delete-oldest": "the oldest shadow copies are lost next",
    "refuse-new": "new shadow copies are refused next",
    PROTECTING: WRITES_FAIL,
}


def room(patient: Patient, storage: StorageInfo) -> Iterator[Finding]:
    """Of one volume's storage."""
    total = storage.used + storage.available
    total = min(total, storage.max_size) if storage.max_size else total
    percent = 100 * storage.used // total if total else 0
    full = f"{size_text(storage.used)} of {size_text(total)} are used ({percent} %)"
    copies = [copy for copy in patient.told.copies if copy.original_volume == storage.volume]
    held = [copy for copy in copies if copy.hold_until_ns > patient.host.now_ns()]
    step = f"{more_room(storage)}, or {_fewer_copies(patient, storage, copies, held)}"
    if storage.writes_refused:
        cause = f"writes to it fail with 'no space left on device': its shadow storage {storage.storage} takes no more"
        yield problem(
            "storage-room",
            f"volume {storage.volume}",
            f"{cause} ({full}), and {_kept(storage, copies, held)}",
            step,
        )
    elif percent >= (storage.warn_percent or NEARLY):
        make = problem if percent >= FULL else warning
        all_held = bool(held) and len(held) == len(copies)
        next_to_come = WRITES_FAIL if all_held else CONSEQUENCE.get(storage.policy, "copies are lost next")
        why = f", since {_kept(storage, copies, held)}" if next_to_come == WRITES_FAIL else ""
        what = f"shadow storage of volume {storage.volume}"
        yield make("storage-room", what, f"{full}; {next_to_come}{why}", step)


def more_room(storage: StorageInfo) -> str:
    """The command that gives more."""
    name = storage.volume
    if storage.max_size:
        limit = f"{max(-(-storage.max_size * 2 >> 20), LEAST_MIB)}M"
        return f"give it more room: 'shadowset storage set {name} --max-size {limit}'"
    return f"free space on the file system of {storage.storage}, or move it: 'shadowset storage move {name} DIR'"


def _kept(storage: StorageInfo, copies: list[SnapshotProperties], held: list[SnapshotProperties]) -> str:
    """Why no copy goes instead."""
    if storage.policy == PROTECTING:
        return "its policy protect-copies lets no shadow copy be lost"
    if held and len(held) == len(copies):
        return "its only shadow copy is held" if len(held) == 1 else f"all of its {len(held)} shadow copies are held"
    return "no shadow copy may be lost for it"


def _fewer_copies(
    patient: Patient, storage: StorageInfo, copies: list[SnapshotProperties], held: list[SnapshotProperties]
) -> str:
    """What to delete, where that gives room: a held copy cannot go, and one that can be taken back keeps its data."""
    grace_ms = patient.told.service.deletion_grace_ms if patient.told.service else 0
    if grace_ms:
        return f"delete copies, which gives room {grace_ms // 1000} s later, since deletion is delayed here"
    free = min((copy for copy in copies if copy not in held), key=lambda copy: copy.created_ns, default=None)
    if free:
        return f"delete a copy: 'shadowset delete {_device(free)}'"
    if held:
        first = min(held, key=lambda copy: copy.hold_until_ns)
        name, until = _device(first), time_text(first.hold_until_ns)
        return (
            f"end a hold, as of {name}, which lasts until {until}, and delete the copy: 'shadowset hold {name} --end' "
            f"and 'shadowset delete {name}'"
        )
    return "delete copies"


def _device(copy: SnapshotProperties) -> str:
    return os.path.basename(copy.device_object)
