"""A restic repository: storing, encryption, deduplication and removal are restic's business.

Each version is a snapshot of restic with the tag ``shadowset-job=NAME``, under the volumes' own paths. So the backups
are found, checked and restored by restic alone.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from typing import IO, Any

from shadowset.requester.administration import Administration
from shadowset.requester.backup.mounts import VolumeMap, read_mounts
from shadowset.requester.durations import seconds_in
from shadowset.requester.jobs.definition import Job
from shadowset.requester.jobs.history import PARTIAL, runs
from shadowset.requester.jobs.keep import StoredVersion
from shadowset.requester.jobs.store import Saved, Store
from shadowset.requester.observer import Observer
from shadowset.requester.run.job import RunJob, chosen_volumes
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import BackupType
from shadowset.vss.paths import Paths

SOME_UNREADABLE = 3
"""restic has made a snapshot, but some files could not be read."""


class ResticStore(Store):
    """The target is what restic takes as ``--repo``: a directory, ``sftp:…``, ``s3:…``."""

    def __init__(self, job: Job, paths: Paths, observer: Observer) -> None:
        self._job = job
        self._paths = paths
        self._observer = observer
        self._tag = f"shadowset-job={job.name}"
        self._environment = _variables(job.restic.environment_file)
        if job.restic.password_file:
            self._environment["RESTIC_PASSWORD_FILE"] = job.restic.password_file

    def prepare(self) -> list[str]:
        """See ``Store``. restic goes on with what it stored by itself; locks of dead processes are removed."""
        self._run("cat", "config")
        self._run("unlock")
        return []

    def unfinished(self) -> list[str]:
        """See ``Store``."""
        return []

    def versions(self) -> list[StoredVersion]:
        """See ``Store``."""
        found = json.loads(self._run("snapshots", "--json", "--tag", self._tag)) or []
        partial = tuple(
            run.version for run in runs(self._paths, self._job.name) if run.version and run.status == PARTIAL
        )
        return sorted((_version(each, partial) for each in found), key=lambda version: version.created)

    def save(self) -> Saved:
        """See ``Store``."""
        job = self._job
        names, paths = self._choose()
        command = [*self._command(), "backup", "--json", "--host", socket.gethostname(), "--tag", self._tag, *paths]
        with tempfile.TemporaryFile("w+") as output:
            work = RunJob(
                command,
                names,
                backup_type=BackupType.FULL,
                paths=self._paths,
                observer=self._observer,
                wait=seconds_in(job.wait),
                output=output,
                environment=self._environment,
            )
            report = work.run()
            summary = _summary(output)
        if report.status not in (0, SOME_UNREADABLE) or not summary.get("snapshot_id"):
            sentence = f"restic ended with {report.status} and made no snapshot; its own words are above"
            raise VssError(Code.VSS_E_UNEXPECTED, sentence)
        unreadable = ["restic could not read some files; its own words are above"] if report.status else []
        return Saved(
            version=str(summary["snapshot_id"]),
            kind="full",
            complete=not report.status and not report.problems,
            files=int(summary.get("total_files_processed", 0)),
            bytes=int(summary.get("total_bytes_processed", 0)),
            stored_bytes=int(summary.get("data_added", 0)),
            sentences=[*unreadable, *report.problems],
        )

    def _choose(self) -> tuple[list[str], list[str]]:
        """The volumes to cut, and the paths to store."""
        with Administration(self._paths, client="shadowset job") as administration:
            known = administration.volume_list()
        places = VolumeMap(known, read_mounts())
        names = chosen_volumes([*self._job.volumes, *self._job.paths], known, places)
        points = [point for volume in known if volume.name in names for point in volume.mount_points]
        return names, self._job.paths or points

    def check(self, version: str) -> list[str]:
        """See ``Store``: restic checks the structure of its whole repository."""
        try:
            self._run("check")
        except VssError as error:
            return [error.message]
        return []

    def remove(self, versions: list[str]) -> int:
        """See ``Store``."""
        if versions:
            self._run("forget", "--prune", *versions)
        return 0

    def _command(self) -> list[str]:
        cache = f"{self._paths.job_state}/restic-cache"
        return ["restic", "--repo", self._job.place, "--cache-dir", cache, *self._job.restic.options]

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [*self._command(), *arguments],
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            raise VssError(
                Code.VSS_E_OBJECT_NOT_FOUND, "restic is not there; install it (apt install restic)"
            ) from None
        if done.returncode:
            why = " ".join(done.stderr.split())[-400:]
            sentence = f"restic {arguments[0]} on {self._job.place} failed with {done.returncode}: {why}"
            raise VssError(Code.VSS_E_UNEXPECTED, sentence)
        return done.stdout


def _version(found: dict[str, Any], partial: tuple[str, ...]) -> StoredVersion:
    """restic does not remember that it could not read a file, but the job does, by the beginning of the id."""
    name = str(found["id"])
    return StoredVersion(id=name, created=str(found["time"]), kind="full", complete=not name.startswith(partial))


def _summary(output: IO[str]) -> dict[str, Any]:
    """restic's last message."""
    output.seek(0)
    for line in reversed(output.read().splitlines()):
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and message.get("message_type") == "summary":
            return message
    return {}


def _variables(path: str) -> dict[str, str]:
    """``NAME=VALUE`` lines, as systemd's EnvironmentFile has them without quotes. Errors: E_INVALIDARG."""
    if not path:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise VssError(Code.E_INVALIDARG, f"{path} cannot be read: {error}") from None
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    for name, sign, _ in pairs:
        if not sign or not name.isidentifier():
            raise VssError(Code.E_INVALIDARG, f"{path}: {name!r} begins no line of the form NAME=VALUE")
    return {name: value for name, _, value in pairs}
