"""A version of images that is not finished: what it is of, and what of it is there.

``unfinished.json`` is in its directory from before its copies are made until after ``images.json`` is written. So what
a run that was killed leaves is known: its copies are gone on with by the next run, or deleted. Until then they have the
highest priority, and are the last to be given up when their storage is full. They are not held: for a copy that is
held, writes to the live volume would fail in the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from shadowset.requester.administration import Administration
from shadowset.requester.backup.manifest import write_atomically
from shadowset.requester.backup_components import BackupComponents
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import ObjectType
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import SnapshotProperties

NOTE = "unfinished.json"
UNTIL_FINISHED, AFTERWARDS = 255, 128
CLIENT = "shadowset job"


class Image(msgspec.Struct, kw_only=True):
    """One volume: its image file with size on disk and digest, the copy that it shows, and how much of it was read."""

    volume: str
    file: str
    file_size: int
    sha256: str
    size: int
    read: int
    snapshot_id: str


class Begun(msgspec.Struct, kw_only=True):
    """``needs`` is the version that it builds on; ``failed`` are sentences about writers; ``images`` are finished.

    Not ``made``, the set may be there or not, and nothing is known of its writers.
    """

    set_id: str
    made: bool = False
    needs: str = ""
    failed: list[str] = []
    images: list[Image] = []

    def save(self, directory: str) -> None:
        """Errors: TargetError."""
        write_atomically(f"{directory}/{NOTE}", msgspec.json.encode(self))


def load(directory: str) -> Begun | None:
    """None when there is none that can be read: then nothing had been made yet."""
    try:
        with open(f"{directory}/{NOTE}", "rb") as file:
            return msgspec.json.decode(file.read(), type=Begun)
    except (OSError, msgspec.DecodeError):
        return None


def copies_of(paths: Paths, begun: Begun | None) -> list[SnapshotProperties]:
    """The copies that are there of it. Errors: VssError."""
    if begun is None:
        return []
    with Administration(paths, client=CLIENT) as administration:
        return [copy for copy in administration.query() if copy.snapshot_set_id == begun.set_id]


def why_not(begun: Begun | None, copies: list[SnapshotProperties], volumes: Iterable[str], seconds: int) -> str:
    """Why it cannot be gone on with, "" when it can."""
    if begun is None or not begun.made:
        return "it had no shadow copies yet"
    if {copy.original_volume for copy in copies} != set(volumes):
        return "its shadow copies are gone, or not of the volumes that the job has now"
    age = time.time() - min(copy.created_ns for copy in copies) / 1e9
    return "its shadow copies are too old (resume_within)" if not 0 <= age <= seconds else ""


def protect(paths: Paths, copies: Iterable[SnapshotProperties], priority: int) -> None:
    """Say which copies go last when the storage is full. A provider without priorities need not know them."""
    with Administration(paths, client=CLIENT) as administration:
        for copy in copies:
            try:
                administration.keep_snapshot(copy.snapshot_id, priority)
            except VssError as error:
                if error.code != Code.VSS_E_NOT_SUPPORTED:
                    raise


def forget_set(paths: Paths, begun: Begun) -> None:
    """Delete its copies. Errors: VssError; none when there are none."""
    with BackupComponents(paths, CLIENT) as calls:
        if any(copy.snapshot_set_id == begun.set_id for copy in calls.query()):
            calls.delete_snapshots(begun.set_id, ObjectType.SNAPSHOT_SET, force=True)
