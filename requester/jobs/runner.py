"""One run of a job: lock, clean up, back up, verify, remove what need not stay, write down how it went.

The file of the lock says whose run it is while there is one. A lock goes with its process, however that ends; what the
file still says then is a run that was interrupted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator

import msgspec

from shadowset.requester.backup.store import element
from shadowset.requester.durations import seconds_in
from shadowset.requester.jobs.definition import Job
from shadowset.requester.jobs.history import (
    INTERRUPTED,
    PARTIAL,
    RUNNING,
    SUCCEEDED,
    JobRun,
    now_text,
    remember,
    runs,
)
from shadowset.requester.jobs.keep import kept
from shadowset.requester.jobs.store import Saved, Store, open_store
from shadowset.requester.observer import Observer, Silent
from shadowset.requester.retry import Policy, with_retries
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths

LOOKS = 5
"""How often a lock that is taken is tried again, 0.1 s apart."""


class JobRunner:
    """Runs one job. What came of it is remembered, whatever it was."""

    def __init__(
        self,
        job: Job,
        paths: Paths,
        observer: Observer | None = None,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """``note`` takes a sentence before each further try."""
        self._job = job
        self._paths = paths
        self._observer: Observer = observer or Silent()
        self._note = note
        self._store: Store = open_store(job, paths, self._observer)

    def run(self) -> JobRun:
        """Make one backup. Errors: VssError when there is none; VSS_E_SNAPSHOT_SET_IN_PROGRESS when the job runs."""
        with locked(self._paths, self._job) as file:
            _note_interrupted(self._paths, file)
            run = JobRun(job=self._job.name, started=now_text())
            _write(file, msgspec.json.encode(run))
            try:
                self._run(run)
            except BaseException as error:
                message = error.message if isinstance(error, VssError) else str(error) or type(error).__name__
                run.sentences.append(message if isinstance(error, Exception) else "it was interrupted")
                raise
            finally:
                run.ended = now_text()
                remember(self._paths, run)
                _write(file, b"")
        return run

    def _run(self, run: JobRun) -> None:
        run.sentences += self._store.prepare()
        policy = Policy(self._job.tries, seconds_in(self._job.retry_wait))
        saved = with_retries(lambda last: self._store.save(), policy, self._note)
        run.version, run.kind, run.files = saved.version, saved.kind, saved.files
        run.bytes, run.stored_bytes, run.resumed = saved.bytes, saved.stored_bytes, saved.resumed
        run.sentences += saved.sentences
        run.status = self._judge(run, saved)
        if run.status == SUCCEEDED:
            self._clear(run)

    def _judge(self, run: JobRun, saved: Saved) -> str:
        differences = self._store.check(saved.version) if self._job.verify else []
        run.sentences += differences
        return SUCCEEDED if saved.complete and not differences else PARTIAL

    def _clear(self, run: JobRun) -> None:
        """Only after a success: a job that fails for weeks must not remove its last good backups meanwhile."""
        try:
            run.removed, _ = clear(self._store, self._job)
        except VssError as error:
            run.status = PARTIAL
            run.sentences.append(f"older backups could not be removed: {error.message}")


def clear(store: Store, job: Job) -> tuple[list[str], int]:
    """Remove what need not stay; the versions removed, and the bytes that are free by it."""
    gone = superfluous(store, job)
    return gone, store.remove(gone) if gone else 0


def superfluous(store: Store, job: Job) -> list[str]:
    """What need not stay, the newest first, so that nothing is there without what it builds on."""
    versions = store.versions()
    stay = kept(versions, job.keep)
    return [version.id for version in reversed(versions) if version.id not in stay]


def clear_unfinished(store: Store) -> list[str]:
    """Remove what an interrupted run left, and no run will go on with."""
    gone = store.unfinished()
    store.remove(gone)
    return gone


def last_run(paths: Paths, job: Job) -> JobRun | None:
    """How the job ended last, or the run that is under way, or the one that was interrupted since. Errors: VssError."""
    with contextlib.suppress(OSError), open(_lock_path(paths, job), "rb") as file:
        run = _read(file.fileno())
        if run is not None and run.job == job.name:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                run.status = RUNNING
            return run
    return next(reversed(runs(paths, job.name)), None)


def _note_interrupted(paths: Paths, file: int) -> None:
    """A run that could not say how it ended is remembered by the next one."""
    run = _read(file)
    if run is not None:
        remember(paths, run)
        _write(file, b"")


def _read(file: int) -> JobRun | None:
    try:
        run = msgspec.json.decode(os.pread(file, 1 << 16, 0), type=JobRun)
    except msgspec.MsgspecError:
        return None
    run.status = INTERRUPTED
    run.sentences = ["it was killed, or its host went down"]
    return run


def _write(file: int, text: bytes) -> None:
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, text, 0)
        os.fsync(file)
    except OSError as error:
        sentence = f"that a job runs cannot be written down: {error.strerror}; see to the disk of the job's lock"
        raise VssError(Code.VSS_E_UNEXPECTED, sentence) from None


def _lock_path(paths: Paths, job: Job) -> str:
    return f"{paths.job_state}/{element(job.target)}.lock"


def _lock(file: int) -> None:
    """Whoever only looks whether a job runs has the lock for a moment. Errors: OSError."""
    for _ in range(LOOKS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
        else:
            return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def locked(paths: Paths, job: Job) -> Iterator[int]:
    """Nobody else runs or clears a job with this target; the lock's file. Errors: VSS_E_SNAPSHOT_SET_IN_PROGRESS."""
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(paths.job_state, mode=0o700, exist_ok=True)
            descriptor = os.open(_lock_path(paths, job), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
            _lock(descriptor)
        except BlockingIOError:
            sentence = f"job {job.name} is not run: another run with the target {job.target} is under way"
            raise VssError(Code.VSS_E_SNAPSHOT_SET_IN_PROGRESS, sentence) from None
        except OSError as error:
            sentence = f"the lock of job {job.name} in {paths.job_state} cannot be had: {error.strerror}"
            raise VssError(Code.VSS_E_UNEXPECTED, sentence) from None
        yield descriptor
