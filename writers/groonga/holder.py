"""``python -m shadowset.writers.groonga.holder``: the process that holds the locks of one database.

It takes a charge and then calls, one JSON object a line, and answers each. When the window of the first call ends it
releases everything by itself, since a writer that hangs closes no pipe. A lock is released by counting down, never by
setting it to free: clients that wait for it count up and down meanwhile.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.writers.groonga import http
from shadowset.writers.groonga.guard import CALL_SECONDS, RELEASE_SECONDS, Answer, Call
from shadowset.writers.groonga.record import Charge, open_record, restore_threads, write_record
from shadowset.writers.groonga.shell import Shell


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
            write_record(self._record, self.charge)

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
        problem = self._release_by(self.shell)
        if self.held:  # that shell was killed while it waited, or has ended
            with Shell(self.charge.database) as shell:
                problem = self._release_by(shell)
        if problem is not None:
            raise problem

    def _release_by(self, shell: Shell) -> VssError | None:
        problem: VssError | None = None
        kept: list[str] = []
        for name in reversed(self.held):
            try:
                shell.ask(f"lock_release --target_name {name}", RELEASE_SECONDS, watching=False)
            except VssError as error:
                problem = error
                kept.append(name)
        self.held = kept[::-1]
        return problem

    def close(self) -> None:
        """Puts everything back. Errors: VssError; then the record stays for the next writer."""
        self.release()
        self.shell.close()
        restore_threads(self.charge)
        if self._record >= 0:
            os.unlink(self.charge.record)


def answer(message: Answer) -> None:
    """Tells the writer, if it is still there."""
    try:
        sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
        sys.stdout.buffer.flush()
    except OSError:
        return  # the end of the pipe is what counts


def next_call(ends: float | None) -> Call | None:
    """What the writer wants next; None when it is gone. Errors: TimeoutError when it wants nothing until ``ends``."""
    seconds = None if ends is None else max(0.0, ends - time.monotonic())
    if not select.select([sys.stdin], [], [], seconds)[0]:
        raise TimeoutError
    line = sys.stdin.buffer.readline()
    return msgspec.json.decode(line, type=Call) if line.endswith(b"\n") else None


def serve(holder: Holder) -> None:
    """Calls until the pipe ends."""
    answer(Answer(pid=holder.shell.pid))
    ends: float | None = None
    expired = False
    while True:
        try:
            call = next_call(ends)
        except TimeoutError:
            holder.release()
            ends, expired = None, True
            continue
        if call is None:
            return
        if call.names and ends is None:
            ends = time.monotonic() + call.window
        answer(handle(holder, call, expired))
        ends = ends if call.names else None


def handle(holder: Holder, call: Call, expired: bool) -> Answer:
    """One call. What has expired cannot be acquired or released any more."""
    if expired:
        message = f"the locks of {holder.charge.database} ended with the freeze window; try again"
        return Answer(Code.VSS_E_WRITERERROR_TIMEOUT, message)
    try:
        if call.names:
            holder.acquire(call.names, call.seconds)
        else:
            holder.release()
    except VssError as error:
        return Answer(error.code, error.message)
    return Answer()


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
