"""Thaws in place of a writer that died or hangs, where the application itself has no time-out: a process at a pipe.

The writer starts it before anything is frozen and tells it what may be frozen. When the pipe ends without a goodbye,
the writer is gone, and the guard thaws. A writer that says ``limit`` is also taken for lost when it says nothing more
until then.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import IO, TypeVar

Item = TypeVar("Item")
GOODBYE = b"thawed"
LIMIT = b"limit "
SETTLE_SECONDS = 0.2  # the kernel ends what a dead writer had started a moment after it has closed the pipe


class Guard:
    """The writer's side."""

    def __init__(self, module: str, what: bytes) -> None:
        """Starts ``module``, whose ``main`` hands ``guard`` what thaws; ``what`` is one line. Errors: OSError."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, start_new_session=True, cwd="/"
        )
        self._pipe: IO[bytes] | None = self._process.stdin
        self._say(what)

    def limit(self, seconds: float) -> None:
        """The writer is lost when it has not said goodbye, or another limit, after this time."""
        self._say(LIMIT + str(seconds).encode())

    def _say(self, line: bytes) -> None:
        if self._pipe is not None:
            self._pipe.write(line + b"\n")
            self._pipe.flush()

    def dismiss(self) -> None:
        """Everything was thawed."""
        try:
            self._say(GOODBYE)
        except BrokenPipeError:
            pass  # it was killed, or has thawed already; nothing is left for it to do
        self._leave()
        self._process.wait()

    def take_over(self) -> None:
        """The writer could not thaw: the guard goes on trying."""
        self._leave()

    def _leave(self) -> None:
        if self._pipe is not None:
            try:
                self._pipe.close()
            except BrokenPipeError:
                pass
            self._pipe = None


def guard(thaw: Callable[[bytes], None]) -> int:
    """The guard's side: ``thaw`` is called with the line that tells what may be frozen, when the writer is lost."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it goes when its writer goes
    fd = sys.stdin.fileno()
    lines: list[bytes] = []
    rest, end = b"", None
    while GOODBYE not in lines[1:]:
        left = None if end is None else max(0.0, end - time.monotonic())
        data = os.read(fd, 65536) if select.select([fd], [], [], left)[0] else b""
        if not data:
            break
        *new, rest = (rest + data).split(b"\n")
        lines += new
        for line in new:
            if line.startswith(LIMIT):
                end = time.monotonic() + float(line.removeprefix(LIMIT))
    else:
        return 0
    if not lines:
        return 0
    time.sleep(SETTLE_SECONDS)
    thaw(lines[0])
    return 1


def insist(items: list[Item], done: Callable[[Item], bool], rest: float, patience: float) -> list[Item]:
    """Tries each item until it is done, with ``rest`` seconds between two rounds; those left after ``patience``."""
    end = time.monotonic() + patience
    while (items := [item for item in items if not done(item)]) and time.monotonic() < end:
        time.sleep(rest)
    return items
