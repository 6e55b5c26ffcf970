"""Where the backups of a job go: one small interface, and which kind of target it is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

from shadowset.requester.jobs.definition import Job
from shadowset.requester.jobs.keep import StoredVersion
from shadowset.requester.observer import Observer
from shadowset.vss.paths import Paths


class Saved(msgspec.Struct, kw_only=True):
    """One more backup: ``complete`` when nothing of it failed; ``sentences`` say what did, and what was left out.

    ``resumed`` is the name that it had when an earlier run was interrupted in it; ``stored_bytes`` are those that were
    not stored before.
    """

    version: str
    kind: str
    complete: bool
    files: int = 0
    bytes: int = 0
    stored_bytes: int = 0
    resumed: str = ""
    sentences: list[str] = []


class Store(ABC):
    """The backups of one job. Whoever calls holds the job's lock. Errors of all calls: VssError."""

    @abstractmethod
    def prepare(self) -> list[str]:
        """Remove what an interrupted run left, but for what ``save`` goes on with; a sentence about each.

        The first thing of a run.
        """

    @abstractmethod
    def unfinished(self) -> list[str]:
        """What an interrupted run left; ``remove`` takes it, too."""

    @abstractmethod
    def versions(self) -> list[StoredVersion]:
        """What is there, oldest first; nothing of other jobs."""

    @abstractmethod
    def save(self) -> Saved:
        """Make one more."""

    @abstractmethod
    def check(self, version: str) -> list[str]:
        """Read it again; what is not as it was written, in sentences."""

    @abstractmethod
    def remove(self, versions: list[str]) -> int:
        """Remove these, which nothing that stays builds on; the bytes that are free by it, where that is known."""


def open_store(job: Job, paths: Paths, observer: Observer) -> Store:
    """The target of a job."""
    from shadowset.requester.jobs.directory_store import DirectoryStore
    from shadowset.requester.jobs.image_store import ImageStore
    from shadowset.requester.jobs.restic_store import ResticStore

    kind = ResticStore if job.is_restic else ImageStore if job.is_images else DirectoryStore
    return kind(job, paths, observer)
