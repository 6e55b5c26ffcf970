"""Holds the locks of one database in place of the writer, and takes them back when the writer is gone.

Groonga's locks are numbers in the database's files: they end with no process and at no time, and outlast even a power
loss. So the process that takes them is one that has nothing else to do. It waits for the end of a pipe while it waits
for a lock or for the next call, and releases what it holds when the pipe ends. A record on the disk, locked while this
process lives, tells the next writer what may be left should this process be killed too.

A lock is released by counting down, never by setting it to free: clients that wait for it count up and down meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.writers.groonga import http
from shadowset.writers.groonga.shell import LateError, Shell

RELEASE_SECONDS = 5.0
PROBE_SECONDS = 2.0
ROUNDS = 3
START_SECONDS = 30.0
CALL_SECONDS = 5.0


class Charge(msgspec.Struct):
    """What a guard is for."""

    database: str
    names: list[str]
    record: str = ""
    url: str = ""
    threads: int = 0
    threads_before: int = 0


class Call(msgspec.Struct):
    """Acquire these within the time; without any, release all."""

    names: list[str] = []
    seconds: float = 0.0


class Answer(msgspec.Struct):
    """How it went."""

    code: int = 0
    message: str = ""
    pid: int = 0


class Guard:
    """The writer's side. One thread calls; ``drop`` comes from any."""

    def __init__(self, charge: Charge) -> None:
        """Errors: VssError."""
        self.charge = charge
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, cwd="/",
        )  # fmt: skip
        self._dropped = False
        try:
            self.shell = self._exchange(charge, START_SECONDS).pid
        except VssError:
            self.drop()
            self._process.wait()
            raise

    def acquire(self, names: list[str], seconds: float) -> None:
        """Errors: VssError when one cannot be had; then none of them is held for long."""
        self._exchange(Call(names, seconds), seconds + CALL_SECONDS)

    def release(self) -> None:
        """Errors: VssError when the locks were not there any more, or cannot be taken back."""
        self._exchange(Call(), RELEASE_SECONDS + CALL_SECONDS)

    def _exchange(self, message: Charge | Call, seconds: float) -> Answer:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], seconds)
            line = self._process.stdout.readline() if ready else b""
        except (OSError, ValueError):
            line = b""
        if not line:
            text = f"the guard of {self.charge.database} is gone or hangs; try again"
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, text)
        answer = msgspec.json.decode(line, type=Answer)
        if answer.code:
            raise VssError(answer.code, answer.message)
        return answer

    def drop(self) -> None:
        """Has everything released at once, whatever the guard is doing; never fails."""
        if not self._dropped and self._process.stdin is not None:
            self._dropped = True
            try:
                self._process.stdin.close()
            except OSError:
                return  # it is gone

    def close(self) -> None:
        """``drop``, and waits for it; does the guard's work when that was killed."""
        self.drop()
        try:
            self._process.wait(RELEASE_SECONDS + CALL_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self.charge.record and os.path.exists(self.charge.record):
            clear_left(self.charge.record)


def record_path(directory: str, database: str) -> str:
    """Where the record of a database lies."""
    return f"{directory}/{hashlib.sha256(database.encode()).hexdigest()[:16]}.json"


# --- the guard's side


class Holder:
    """The locks, and what else has to be put back."""

    def __init__(self, charge: Charge) -> None:
        """Errors: VssError."""
        self.charge = charge
        self.held: list[str] = []
        self._record = open_record(charge) if charge.record else -1
        self._write_record()
        self.shell = Shell(charge.database, watched=sys.stdin.fileno())
        if charge.url:
            # clients that wait for a lock keep a thread each, and one must be left for the flush
            charge.threads_before = int(http.ask(charge.url, "thread_limit", CALL_SECONDS))
            self._write_record()
            http.ask(charge.url, "thread_limit", CALL_SECONDS, max=str(max(charge.threads, charge.threads_before)))

    def _write_record(self) -> None:
        if self._record >= 0:
            os.truncate(self._record, 0)
            os.pwrite(self._record, msgspec.json.encode(self.charge), 0)
            os.fsync(self._record)

    def acquire(self, names: list[str], seconds: float) -> None:
        """Errors: VssError; then nothing is held."""
        end = time.monotonic() + seconds
        try:
            for name in names:
                self.shell.ask(f"lock_acquire --target_name {name}", end - time.monotonic())
                self.held.append(name)
        except VssError:
            self.shell.close()
            self.release()
            self.shell = Shell(self.charge.database, watched=sys.stdin.fileno())
            raise

    def release(self) -> None:
        """Errors: VssError when a lock cannot be taken back; the others are."""
        problem: VssError | None = None
        kept: list[str] = []
        # a shell of its own: the other one may have been killed, and this one must not care for the pipe
        with Shell(self.charge.database) as shell:
            while self.held:
                try:
                    shell.ask(f"lock_release --target_name {self.held[-1]}", RELEASE_SECONDS)
                except VssError as error:
                    problem = error
                    kept.append(self.held[-1])
                self.held.pop()
        self.held = kept
        if problem is not None:
            raise problem

    def close(self) -> None:
        """Puts everything back. Errors: VssError; then the record stays for the next writer."""
        self.release()
        self.shell.close()
        restore_threads(self.charge)
        if self._record >= 0:
            os.unlink(self.charge.record)


def restore_threads(charge: Charge) -> None:
    """Gives the server its own limit back; one that was started anew has it already."""
    if charge.threads_before:
        with contextlib.suppress(VssError):
            http.ask(charge.url, "thread_limit", CALL_SECONDS, max=str(charge.threads_before))


def open_record(charge: Charge) -> int:
    """The record's file, locked. Errors: VSS_E_WRITERERROR_RETRYABLE when another guard has it."""
    try:
        fd = os.open(charge.record, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        message = f"another writer is at work on {charge.database}; run one for each database, or try again"
        raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message) from error
    except OSError as error:
        message = f"the record {charge.record} cannot be written ({error.strerror}); look at its directory"
        raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message) from error
    return fd


def clear_left(record: str) -> list[str]:
    """Clears the locks that a writer and its guard, both killed, have left; returns their names.

    A lock that can be had is nobody's; one that cannot for a while is what was left.
    Errors: VssError.
    """
    try:
        with open(record, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            content = file.read()
        charge = msgspec.json.decode(content, type=Charge) if content else Charge("", [])  # empty: nothing was held yet
    except (BlockingIOError, FileNotFoundError):
        return []  # its guard is at work, or was
    except (OSError, msgspec.DecodeError) as error:
        message = f"the record {record} of held locks cannot be read ({error}); remove it when grndb check is content"
        raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message) from error
    left: list[str] = []
    if os.path.exists(charge.database):
        for _ in range(ROUNDS):
            still = taken(charge.database, charge.names)
            if not still:
                break
            left = left or still
            clear(charge.database, still)
        restore_threads(charge)
    os.unlink(record)
    return left


def taken(database: str, names: list[str]) -> list[str]:
    """Those whose locks cannot be had. Errors: VssError."""

    def probe(name: str) -> bool:
        with Shell(database) as shell:
            try:
                shell.ask(f"lock_acquire --target_name {name}", PROBE_SECONDS)
                shell.ask(f"lock_release --target_name {name}", PROBE_SECONDS)
            except LateError:
                return True
            return False

    with ThreadPoolExecutor(min(16, len(names) or 1)) as threads:
        return [name for name, late in zip(names, threads.map(probe, names), strict=True) if late]


def clear(database: str, names: list[str]) -> None:
    """Backwards: a client that can go on finds nothing on its way that is cleared after it was taken.

    Errors: VssError.
    """
    with Shell(database) as shell:
        for name in reversed(names):
            shell.ask(f"lock_clear --target_name {name}", PROBE_SECONDS)


def answer(message: Answer) -> None:
    """Tells the writer, if it is still there."""
    try:
        sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
        sys.stdout.buffer.flush()
    except OSError:
        return  # the end of the pipe is what counts


def serve(holder: Holder) -> None:
    """Calls until the pipe ends."""
    answer(Answer(pid=holder.shell.pid))
    while (line := sys.stdin.buffer.readline()).endswith(b"\n"):
        call = msgspec.json.decode(line, type=Call)
        try:
            if call.names:
                holder.acquire(call.names, call.seconds)
            else:
                holder.release()
            answer(Answer())
        except VssError as error:
            answer(Answer(error.code, error.message))


def main() -> int:
    """The guard's side."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it goes when its writer goes
    try:
        holder = Holder(msgspec.json.decode(sys.stdin.buffer.readline(), type=Charge))
    except VssError as error:
        answer(Answer(error.code, error.message))
        return 1
    try:
        serve(holder)
    finally:
        holder.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
