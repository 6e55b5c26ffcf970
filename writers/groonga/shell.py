"""``groonga DATABASE``: commands on the files themselves, which no busy server can hold up."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from typing import Any

import msgspec

from shadowset.vss.codes import Code, VssError

PROGRAM = "groonga"
READ_BYTES = 1 << 20


class LateError(VssError):
    """A command did not end in its time, or somebody wants no answer any more; the shell was killed."""


class Shell:
    """One process. ``watched`` is a descriptor that becomes readable when waiting makes no sense any more."""

    def __init__(self, database: str, watched: int = -1) -> None:
        """Errors: VssError."""
        self.database = database
        self._watched = watched
        try:
            self._process = subprocess.Popen(
                [PROGRAM, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/"
            )
        except OSError as error:
            raise VssError(Code.VSS_E_NOT_SUPPORTED, f"{PROGRAM} cannot be run ({error.strerror})") from error
        self.pid = self._process.pid
        self._rest = b""

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, command: str, seconds: float, watching: bool = True) -> Any:
        """One command's answer; without ``watching`` it is waited for whatever becomes of the descriptor.

        Errors: LateError after ``seconds``; VssError with Groonga's own words.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:  # it has ended, or was closed
            raise self._lost(command) from error
        end = time.monotonic() + seconds
        while b"\n" not in self._rest:
            self._read(command, end, watching)
        line, _, self._rest = self._rest.partition(b"\n")
        return answer_of(line, f"the database {self.database} did not do {command}")

    def _read(self, command: str, end: float, watching: bool) -> None:
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        wanted = [output, self._watched] if watching and self._watched >= 0 else [output]
        ready, _, _ = select.select(wanted, [], [], max(0.0, end - time.monotonic()))
        if output not in ready:
            self._process.kill()  # it waits for a lock, and has none of it
            with contextlib.suppress(OSError):
                self._rest += self._process.stdout.read()
            if b"\n" in self._rest:
                return
            message = f"the database {self.database} did not do {command} in time; see which process keeps it busy"
            raise LateError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
        data = os.read(output, READ_BYTES)
        if not data:
            raise self._lost(command)
        self._rest += data

    def _lost(self, command: str) -> VssError:
        status = self._process.wait()
        message = f"groonga ended with status {status} at {command} on {self.database}; look at the database's log"
        return VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)

    def close(self) -> None:
        """Ends the process; it closes the database."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()


def answer_of(line: bytes, problem: str) -> Any:
    """The body of an answer ``[[code, start, seconds, message …], body]``.

    Errors: VssError that begins with ``problem``.
    """
    try:
        head, *body = msgspec.json.decode(line, type=list[Any])
        code = int(head[0])
    except (ValueError, TypeError, IndexError, msgspec.DecodeError) as error:
        raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, f"{problem}: it answered {line[:80]!r}") from error
    if code:
        raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, f"{problem}: {head[3]}; look at the database's log")
    return body[0] if body else None
