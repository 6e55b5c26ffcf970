"""Stopping and starting the server that a writer protects, by the commands of the writer's configuration."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shadowset.vss.codes import Code, VssError

POLL_SECONDS = 0.1
LAST_WORDS = 300

# A writer waits for its signals, and so has them blocked; what it starts would have them blocked too, for ever.
UNBLOCK = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_SETMASK, ()); os.execvp(sys.argv[1], sys.argv[1:])"
AS_STARTED_BY_HAND = (sys.executable, "-S", "-c", UNBLOCK)

Cancelled = Callable[[], bool]


def make_way(
    data: str, process: Callable[[], int], stop_command: list[str], seconds: float, cancelled: Cancelled
) -> None:
    """Sees that no server runs on ``data`` (``process`` tells its pid or 0); stops it when there is a command for it.

    A server lets go of its lock before it removes its last files, so its process too must have ended.

    Errors: VSS_E_WRITERERROR_RETRYABLE when it runs on.
    """
    pid = process()
    if not pid:
        return
    if not stop_command:
        message = f"the server of {data} runs (process {pid}); stop it and restore again"
        raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
    end = time.monotonic() + seconds
    with _watched(pid) as ended:
        run_command(stop_command, seconds, Code.VSS_E_WRITERERROR_RETRYABLE)
        while process() or not ended():
            if cancelled() or time.monotonic() >= end:
                message = f"the server of {data} still runs after its stop_command; stop it and restore again"
                raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
            time.sleep(POLL_SECONDS)


@contextmanager
def _watched(pid: int) -> Iterator[Callable[[], bool]]:
    """Tells whether a process has ended, a number that was given anew notwithstanding; yes when it cannot be seen."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        yield lambda: True
        return
    poll = select.poll()  # select() takes no descriptor above 1023
    poll.register(fd, select.POLLIN)
    try:
        yield lambda: bool(poll.poll(0))
    finally:
        os.close(fd)


def run_command(command: list[str], seconds: float, code: Code) -> None:
    """Runs a configured command, without a shell. Errors: VssError with ``code`` and the command's last words."""
    name = command[0]
    if shutil.which(name) is None:
        raise VssError(code, f"{name} cannot be run (there is no such program); check the configuration")
    try:
        # a started server inherits the descriptors: with a pipe, this would wait until it ends
        with open(os.devnull, "r+b") as null, tempfile.TemporaryFile() as log:
            done = subprocess.run(
                [*AS_STARTED_BY_HAND, *command],
                stdin=null,
                stdout=log,
                stderr=log,
                timeout=seconds,
                check=False,
                start_new_session=True,
            )
            log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_WORDS))
            words = " ".join(log.read().decode(errors="replace").split())
    except subprocess.TimeoutExpired as error:
        raise VssError(code, f"{name} did not end in {seconds:.0f} seconds; look at what it does") from error
    except OSError as error:
        raise VssError(code, f"{name} cannot be run ({error.strerror}); check the configuration") from error
    if done.returncode:
        raise VssError(code, f"{name} ended with status {done.returncode} ({words}); run it by hand to see why")


def wait_for_service(data: str, ready: Callable[[], str], seconds: float, cancelled: Cancelled) -> None:
    """Waits until ``ready`` has nothing to say against the server.

    Errors: VSS_E_WRITERERROR_RECOVERY_FAILED with the last word of ``ready``.
    """
    end = time.monotonic() + seconds
    while problem := ready():
        if cancelled() or time.monotonic() >= end:
            message = f"the server of {data} did not take up work in time ({problem}); look at its log"
            raise VssError(Code.VSS_E_WRITERERROR_RECOVERY_FAILED, message)
        time.sleep(POLL_SECONDS)
