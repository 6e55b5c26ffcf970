"""Deleting shadow copies one after another, so that each that stays is named with its reason."""

from __future__ import annotations

import os

import msgspec

from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.sentences import time_text
from shadowset.vss.codes import VssError
from shadowset.vss.requester_protocol import DeleteResult, SnapshotProperties


class Outcome(msgspec.Struct):
    """What became of one copy; ``message`` is why it stays."""

    snapshot_id: str
    name: str
    deleted: bool
    message: str = ""


class Deletion(msgspec.Struct):
    """Of some copies: the first that stays as a ``DeleteResult`` has it, and each by itself."""

    deleted: int = 0
    not_deleted: str = ""
    message: str = ""
    recoverable_until_ns: int = 0
    copies: list[Outcome] = []

    @property
    def staying(self) -> list[Outcome]:
        """Those that were not deleted."""
        return [each for each in self.copies if not each.deleted]


def delete_copies(calls: BackupComponents, copies: list[SnapshotProperties], force: bool) -> Deletion:
    """All of them, whatever becomes of one."""
    done = Deletion()
    for copy in copies:
        try:
            result = calls.delete_snapshots(copy.snapshot_id, force=force)
        except VssError as error:  # as one that has gone by itself since it was chosen
            result = DeleteResult(0, copy.snapshot_id, error.message)
        done.deleted += result.deleted
        done.recoverable_until_ns = max(done.recoverable_until_ns, result.recoverable_until_ns)
        why = "" if result.deleted else result.message or "its provider refused, which 'shadowset events' may explain"
        done.copies.append(Outcome(copy.snapshot_id, copy_name(copy), not why, why))
        if why and not done.not_deleted:
            done.not_deleted, done.message = copy.snapshot_id, why
    return done


def deletion_text(done: Deletion) -> str:
    """How many and which are gone, and until when they can be taken back."""
    gone = [each.name for each in done.copies if each.deleted]
    names = f": {', '.join(gone)}" if gone else ""
    until = done.recoverable_until_ns
    back = f"\nUntil {time_text(until)} 'shadowset undelete' takes back what was deleted." if until else ""
    return f"{number_of(done.deleted)} deleted{names}.{back}"


def question(copies: list[SnapshotProperties], grace_ms: int) -> str:
    """What is to be deleted, a line each with what will keep it; ``grace_ms`` as in ``ServiceInfo``."""
    back = "; 'shadowset undelete' can take them back for some time" if grace_ms else "; nothing takes them back"
    lines = [f"  {copy_name(copy)}, made {time_text(copy.created_ns)}{_keeps(copy)}" for copy in copies]
    return "\n".join([f"To be deleted are {number_of(len(copies))}{back}:", *lines])


def _keeps(copy: SnapshotProperties) -> str:
    mounted = f", mounted at {copy.exposed_name}" if copy.exposed_name else ""
    return mounted + (f", held until {time_text(copy.hold_until_ns)}" if copy.hold_until_ns else "")


def copy_name(copy: SnapshotProperties) -> str:
    """As "HarddiskVolumeShadowCopy3 of volume data"."""
    return f"{os.path.basename(copy.device_object) or copy.snapshot_id} of volume {copy.original_volume}"


def number_of(copies: int) -> str:
    """As "2 shadow copies"."""
    return f"{copies} shadow {'copy' if copies == 1 else 'copies'}"
