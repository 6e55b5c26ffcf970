"""Runs the scripts of one hook: freeze with a limit, take back what was frozen when one fails, thaw always."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
import time

from shadowset.vss.codes import Code, VssError
from shadowset.writers.hooks.scripts import Step, thaw_order
from shadowset.writers.hooks.settings import Hook

LOG = logging.getLogger("shadowset.writer.hooks")
LAST_WORDS = 300
DIES_WITH_US = ("/usr/bin/setpriv", "--pdeathsig", "KILL", "--")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def freeze(hook: Hook, steps: list[Step], seconds: float) -> None:
    """Runs the freeze of each script; after a failure those that ran are taken back, the failed one among them.

    Errors: VSS_E_WRITERERROR_TIMEOUT, VSS_E_WRITERERROR_RETRYABLE.
    """
    end = time.monotonic() + seconds
    for number, step in enumerate(steps):
        try:
            if step.freeze:
                _tries(step.freeze, step.freeze_tries, min(end, time.monotonic() + hook.seconds))
        except VssError:
            _each(hook, steps[: number + 1], undo=True)
            raise


def thaw(hook: Hook, steps: list[Step]) -> list[str]:
    """Runs the thaw of every script, also when others fail; returns what went wrong, in sentences."""
    return _each(hook, steps, undo=False)


def _each(hook: Hook, steps: list[Step], undo: bool) -> list[str]:
    problems = []
    for step in thaw_order(hook, steps):
        command = step.undo if undo else step.thaw
        try:
            if command:
                _tries(command, step.thaw_tries, time.monotonic() + hook.seconds)
        except VssError as error:
            LOG.error("%s", error.message)
            problems.append(error.message)
    return problems


def _tries(command: list[str], tries: int, end: float) -> None:
    for left in range(tries - 1, -1, -1):
        try:
            run(command, end)
        except VssError as error:
            if not left or error.code == Code.VSS_E_WRITERERROR_TIMEOUT:
                raise
            LOG.warning("%s: it is tried again", error.message)
        else:
            return


def run(command: list[str], end: float) -> None:
    """Runs one script in a process group of its own, which is killed when time is over.

    Errors: VSS_E_WRITERERROR_TIMEOUT; VSS_E_WRITERERROR_RETRYABLE with the script's last words.
    """
    text = " ".join(command)
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                [*DIES_WITH_US, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            message = f"the hook {text} cannot be run ({error.strerror}); check that it is a program"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message) from error
        try:
            status = process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            message = f"the hook {text} did not end in time and was killed; see what it waits for"
            raise VssError(Code.VSS_E_WRITERERROR_TIMEOUT, message) from error
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_WORDS))
            words = " ".join(log.read().decode(errors="replace").split())
            message = f"the hook {text} ended with status {status} ({words}); see what it says and try again"
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
