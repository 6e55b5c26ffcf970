"""How the runs of jobs went: one JSON line for each, kept for good, the newest last."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import msgspec

from shadowset.requester.lines import read_lines
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths

SUCCEEDED, PARTIAL, FAILED, INTERRUPTED = "succeeded", "partial", "failed", "interrupted"
RUNNING = "running"


class JobRun(msgspec.Struct, kw_only=True):
    """One run; times are ISO 8601 in UTC.

    ``status``: "succeeded", "partial" when a part of the backup failed or it does not verify, "failed" when there is
    none, "interrupted" when it was killed or its host went down. ``resumed`` is the name of the version that an
    interrupted run began and this one went on with. ``sentences`` say which component and why.
    """

    job: str
    started: str
    ended: str = ""
    status: str = FAILED
    version: str = ""
    kind: str = ""
    files: int = 0
    bytes: int = 0
    stored_bytes: int = 0
    resumed: str = ""
    removed: list[str] = []
    sentences: list[str] = []


def now_text() -> str:
    """This moment."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def remember(paths: Paths, run: JobRun) -> None:
    """Add a run. Errors: VSS_E_UNEXPECTED."""
    try:
        os.makedirs(paths.job_state, mode=0o700, exist_ok=True)
        with open(_file(paths, run.job), "ab") as file:
            # A line that was cut short by a power loss must not spoil this one.
            file.write(b"\n" * _torn(file.name) + msgspec.json.encode(run) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        sentence = f"how the run went cannot be written down in {paths.job_state}: {error.strerror}"
        raise VssError(Code.VSS_E_UNEXPECTED, sentence) from None


def _torn(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        if not file.tell():
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def runs(paths: Paths, job: str) -> list[JobRun]:
    """All runs of a job, oldest first; lines that are damaged are passed over."""
    try:
        return read_lines(_file(paths, job), JobRun)
    except OSError as error:
        raise VssError(Code.VSS_E_UNEXPECTED, f"{_file(paths, job)} cannot be read: {error.strerror}") from None


def _file(paths: Paths, job: str) -> str:
    return f"{paths.job_state}/{job}.jsonl"
