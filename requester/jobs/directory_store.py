"""A directory with backups as ``shadowset backup`` writes them; equal contents stand there once."""

from __future__ import annotations

import contextlib
import os

from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.catalogue import Catalogue, Version
from shadowset.requester.backup.engine import BackupJob, BackupReport
from shadowset.requester.backup.kinds import Unsupported
from shadowset.requester.backup.plan import Choice, parse_selector
from shadowset.requester.backup.unfinished import is_unfinished
from shadowset.requester.durations import seconds_in
from shadowset.requester.jobs.definition import Job
from shadowset.requester.jobs.keep import StoredVersion
from shadowset.requester.jobs.place import OURS, Place, moment
from shadowset.requester.jobs.pool import Pool
from shadowset.requester.jobs.store import Saved, Store
from shadowset.requester.observer import Observer
from shadowset.requester.restore.verify import verify
from shadowset.vss.codes import VssError
from shadowset.vss.enums import BackupType
from shadowset.vss.paths import Paths
from shadowset.vss.selection import Selector


class DirectoryStore(Store):
    """The target is this directory; its file system must have hard links."""

    def __init__(self, job: Job, paths: Paths, observer: Observer) -> None:
        self._job = job
        self._paths = paths
        self._observer = observer
        self._place = Place(job.place, job.name, bundle.NAME)

    def prepare(self) -> list[str]:
        """See ``Store``."""
        left = [name for name in self._place.unfinished() if is_unfinished(self._place.path(name))][-1:]
        return [*self._place.clean(left), *(f"{name} was not finished; this run goes on with it" for name in left)]

    def unfinished(self) -> list[str]:
        """See ``Store``."""
        return self._place.unfinished()

    def versions(self) -> list[StoredVersion]:
        """See ``Store``."""
        self._place.names()
        here = [version for version in self._catalogue().versions() if self._id(version.directory)]
        return [
            StoredVersion(
                id=self._id(version.directory),
                created=version.created or moment(self._id(version.directory)),
                kind=version.backup_type.lower(),
                complete=version.complete,
                needs=self._id(version.needs) if version.needs else "",
                files=version.files,
                bytes=version.bytes,
                trouble=version.trouble,
            )
            for version in sorted(here, key=_age)
        ]

    def _catalogue(self) -> Catalogue:
        return Catalogue([self._place.directory])

    def _id(self, directory: str) -> str:
        """Its name, or "" for what is not of this job."""
        name = os.path.basename(directory)
        return name if os.path.dirname(directory) == self._place.directory and OURS.fullmatch(name) else ""

    def save(self) -> Saved:
        """See ``Store``."""
        backup_type, base = self._next()
        job, pool = self._job, Pool(self._place.directory)
        wanted = [Selector(name) for name in job.writers] + [parse_selector(text) for text in job.components]
        excluded = tuple(Selector(name) for name in job.exclude_writers)
        choice = Choice(backup_type, tuple(wanted) or None, excluded, tuple(job.volumes), base, Unsupported.WHOLE)
        left = self._place.unfinished()
        name = self._place.make(backup_type.name.lower(), left[-1] if left else "")
        directory = self._place.path(name)
        work = BackupJob(
            directory, choice, paths=self._paths, observer=self._observer, wait=seconds_in(job.wait), pool=pool
        )
        try:
            report = work.run()
        except BaseException:
            if not os.path.exists(f"{directory}/{bundle.NAME}") and not is_unfinished(directory):
                with contextlib.suppress(VssError):  # the target may be lost; the first error is the one to tell
                    self._place.drop(name)
            raise
        return Saved(
            version=name,
            kind=backup_type.name.lower(),
            complete=report.succeeded,
            files=report.files,
            bytes=report.bytes,
            stored_bytes=report.stored_bytes,
            resumed=left[-1] if report.resumed else "",
            sentences=_sentences(report),
        )

    def _next(self) -> tuple[BackupType, str]:
        """A full one is made when it is its turn, and when there is nothing to build on."""
        if self._job.full_every == 1:
            return BackupType.FULL, ""
        versions = self.versions()
        since = next((n for n, version in enumerate(reversed(versions)) if version.kind == "full"), len(versions))
        if since + 1 >= self._job.full_every:
            return BackupType.FULL, ""
        between = BackupType[self._job.between.upper()]
        try:
            return between, self._catalogue().base_for(between)
        except VssError:
            return BackupType.FULL, ""

    def check(self, version: str) -> list[str]:
        """See ``Store``."""
        try:
            return verify(self._place.path(version), observer=self._observer).differences
        except VssError as error:
            return [error.message]

    def remove(self, versions: list[str]) -> int:
        """See ``Store``."""
        for name in versions:
            self._place.drop(name)
        return Pool(self._place.directory).sweep()


def _age(version: Version) -> str:
    return version.created or moment(os.path.basename(version.directory))


def _sentences(report: BackupReport) -> list[str]:
    failed = [
        f"component {component.full_path} of writer {component.writer} failed: {component.reason}"
        for component in report.components
        if not component.succeeded
    ]
    return [*failed, *report.problems, *report.left_out]
