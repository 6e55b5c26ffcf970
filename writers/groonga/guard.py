"""The locks of one database, held by a process of their own in place of the writer: the writer's side.

Groonga's locks are numbers in the database's files: they end with no process and at no time, and outlast even a power
loss. So the process that takes them (``holder.py``) is one that has nothing else to do. It waits for the end of a pipe
while it waits for a lock or for the next call, and releases what it holds when the pipe ends. A record on the disk
(``record.py``) tells the next writer what may be left should that process be killed too.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.writers.groonga.record import Charge, clear_left

HOLDER = "shadowset.writers.groonga.holder"
RELEASE_SECONDS = 5.0
START_SECONDS = 30.0
CALL_SECONDS = 5.0


class Call(msgspec.Struct):
    """Acquire these within the time, and hold them for the window at most; without any, release all."""

    names: list[str] = []
    seconds: float = 0.0
    window: float = 0.0


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
            [sys.executable, "-m", HOLDER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, cwd="/",
        )  # fmt: skip
        self._dropped = False
        try:
            self.shell = self._exchange(charge, START_SECONDS).pid
        except VssError:
            self.drop()
            self._process.wait()
            raise

    def acquire(self, names: list[str], seconds: float, window: float) -> None:
        """The first call's window counts for all. Errors: VssError when one cannot be had; then none is held."""
        self._exchange(Call(names, seconds, window), seconds + CALL_SECONDS)

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
