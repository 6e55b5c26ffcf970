"""What the pages show: asked of the coordinator and read from backups each time, so nothing shown is stale."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from shadowset.requester.administration import Administration
from shadowset.requester.backup.catalogue import Catalogue, Version
from shadowset.requester.connection import ServiceUnavailable
from shadowset.requester.jobs.definition import job_names, load_job
from shadowset.requester.jobs.history import runs
from shadowset.requester.page import views
from shadowset.requester.page.usage import Usage
from shadowset.requester.restore.extract import extracted
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import StorageInfo

CLIENT = "shadowset page"


class Sources:
    """Called by many threads at a time; each call asks for itself."""

    def __init__(self, paths: Paths, places: Sequence[str]) -> None:
        """``places`` are directories with backups, besides those of the jobs."""
        self._paths = paths
        self._places = [os.path.abspath(place) for place in places]
        self.usage = Usage(f"{paths.state}/page-usage.jsonl", self._storages)

    def _storages(self) -> list[StorageInfo]:
        with Administration(self._paths, client=CLIENT) as administration:
            return administration.storage_list()

    # ---- of the coordinator ----

    def overview(self) -> bytes:
        """Volumes, writers and jobs."""
        jobs = [(name, next(reversed(runs(self._paths, name)), None)) for name in job_names(self._paths)]
        try:
            with Administration(self._paths, client=CLIENT) as administration:
                volumes, storages = administration.volume_list(), administration.storage_list()
                return views.overview(volumes, storages, administration.list_writers(), jobs, self.usage.of)
        except ServiceUnavailable as error:
            return views.no_coordinator(error.message)

    def copies(self) -> bytes:
        """All shadow copies."""
        with Administration(self._paths, client=CLIENT) as administration:
            return views.copies(administration.query())

    def one_set(self, set_id: str) -> bytes:
        """How a set was made. Errors: VSS_E_OBJECT_NOT_FOUND."""
        with Administration(self._paths, client=CLIENT) as administration:
            return views.one_set(administration.get_set(set_id))

    def events(self) -> bytes:
        """What happened."""
        with Administration(self._paths, client=CLIENT) as administration:
            return views.events(administration.list_events())

    # ---- of the backups ----

    def places(self) -> list[str]:
        """Where backups are looked for: what was named, and the directories of the jobs."""
        found = list(self._places)
        for name in job_names(self._paths):
            try:
                job = load_job(self._paths, name)
            except VssError:
                continue  # 'shadowset job list' names it
            if not job.is_restic and not job.is_images:
                found.append(os.path.abspath(job.place))
        return list(dict.fromkeys(found))

    def backups(self) -> bytes:
        """The backups in all places."""
        shown: list[tuple[str, Sequence[Version] | str]] = []
        for place in self.places():
            try:
                shown.append((place, Catalogue([place]).versions()))
            except VssError as error:
                shown.append((place, error.message))
        return views.backups(shown)

    def one_backup(self, directory: str, pattern: str) -> bytes:
        """A backup and its files. Errors: VSS_E_OBJECT_NOT_FOUND."""
        catalogue, version = self._version(directory)
        files = [file for file in catalogue.files(pattern) if file.directory == version.directory]
        return views.one_backup(version, files, pattern)

    @contextmanager
    def file(self, directory: str, path: str) -> Iterator[int]:
        """A descriptor of one file of a backup. Errors: VSS_E_OBJECT_NOT_FOUND, BundleError."""
        _, version = self._version(directory)
        with extracted(version.directory, path) as source:
            yield source

    def _version(self, directory: str) -> tuple[Catalogue, Version]:
        """Only what is found in the places is ever opened, whatever a request names."""
        for place in self.places():
            if directory == place or directory.startswith(place.rstrip("/") + "/"):
                catalogue = Catalogue([place])
                for version in catalogue.versions():
                    if version.directory == directory:
                        return catalogue, version
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no backup {directory} in the places that are shown")
