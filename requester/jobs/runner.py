"""One run of a job: lock, clean up, back up, verify, remove what need not stay, write down how it went."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator

from shadowset.requester.backup.store import element
from shadowset.requester.durations import seconds_in
from shadowset.requester.jobs.definition import Job
from shadowset.requester.jobs.history import PARTIAL, SUCCEEDED, JobRun, now_text, remember
from shadowset.requester.jobs.keep import kept
from shadowset.requester.jobs.store import Saved, Store, open_store
from shadowset.requester.observer import Observer, Silent
from shadowset.requester.retry import Policy, with_retries
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths


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
        with locked(self._paths, self._job):
            run = JobRun(job=self._job.name, started=now_text())
            try:
                self._run(run)
            except BaseException as error:
                message = error.message if isinstance(error, VssError) else str(error) or type(error).__name__
                run.sentences.append(message if isinstance(error, Exception) else "it was interrupted")
                raise
            finally:
                run.ended = now_text()
                remember(self._paths, run)
        return run

    def _run(self, run: JobRun) -> None:
        run.sentences += self._store.prepare()
        policy = Policy(self._job.tries, seconds_in(self._job.retry_wait))
        saved = with_retries(lambda last: self._store.save(), policy, self._note)
        run.version, run.kind, run.files = saved.version, saved.kind, saved.files
        run.bytes, run.stored_bytes = saved.bytes, saved.stored_bytes
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


@contextlib.contextmanager
def locked(paths: Paths, job: Job) -> Iterator[None]:
    """Nobody else runs or clears a job with this target. Errors: VSS_E_SNAPSHOT_SET_IN_PROGRESS."""
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(paths.job_state, mode=0o700, exist_ok=True)
            path = f"{paths.job_state}/{element(job.target)}.lock"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sentence = f"job {job.name} is not run: another run with the target {job.target} is under way"
            raise VssError(Code.VSS_E_SNAPSHOT_SET_IN_PROGRESS, sentence) from None
        except OSError as error:
            sentence = f"the lock of job {job.name} in {paths.job_state} cannot be had: {error.strerror}"
            raise VssError(Code.VSS_E_UNEXPECTED, sentence) from None
        yield
