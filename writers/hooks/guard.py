"""Thaws in place of a writer that died: a process that waits for the end of a pipe.

The writer starts it before anything is frozen, tells it which hooks are at work, and says goodbye when all of them were
thawed. When the pipe ends without a goodbye, the writer is gone, and the guard runs the thaw of all hooks.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import IO

import msgspec

from shadowset.writers.hooks.runner import thaw
from shadowset.writers.hooks.scripts import steps_of
from shadowset.writers.hooks.settings import Hook

GOODBYE = b"thawed\n"
SETTLE_SECONDS = 0.2  # the kernel ends a script of the dead writer a moment after it has closed the pipe


class Guard:
    """The writer's side."""

    def __init__(self, hooks: list[Hook]) -> None:
        """Errors: OSError."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, start_new_session=True, cwd="/"
        )
        self._pipe: IO[bytes] | None = self._process.stdin
        assert self._pipe is not None
        self._pipe.write(msgspec.json.encode(hooks) + b"\n")
        self._pipe.flush()

    def dismiss(self) -> None:
        """Everything was thawed."""
        if self._pipe is None:
            return
        try:
            with self._pipe:
                self._pipe.write(GOODBYE)
        except BrokenPipeError:
            pass  # it was killed; nothing is left for it to do
        self._pipe = None
        self._process.wait()


def main() -> int:
    """The guard's side."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it goes when its writer goes
    line = sys.stdin.buffer.readline()
    if sys.stdin.buffer.read() == GOODBYE or not line.endswith(b"\n"):
        return 0
    time.sleep(SETTLE_SECONDS)
    for hook in reversed(msgspec.json.decode(line, type=list[Hook])):
        thaw(hook, steps_of(hook))
    return 1


if __name__ == "__main__":
    sys.exit(main())
