"""An installation of its own, for a demonstration or a test of the host: all gone at its end."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any

PROGRAMS = ("mkfs.ext4", "mkfs.xfs", "mount", "umount", "losetup", "fusermount3")
WAIT_SECONDS = 120.0
MARK = "stage"
"""A file in the runtime directory with the name of the other one; locked while whoever made both lives."""


class StageError(Exception):
    """A check does not hold, or a command failed."""


class MissingError(Exception):
    """It cannot be done here."""


def check_machine() -> None:
    """Errors: MissingError with one sentence."""
    if os.geteuid():
        raise MissingError("making block devices and mounting file systems needs root; run this as root")
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None]
    if missing:
        raise MissingError(f"{', '.join(missing)} not found; install e2fsprogs, xfsprogs, util-linux and fuse3")
    if not os.path.exists("/dev/fuse"):
        raise MissingError("/dev/fuse is missing, and shadow copies are shown through it; load the fuse module")


class Stage:
    """Directories, processes and mounts; ``close`` takes all of them away in reverse order, whatever happened."""

    def __init__(self, directory: str = "/var/tmp") -> None:
        """Errors: OSError when nothing can be made in ``directory``."""
        made = tempfile.mkdtemp(prefix="shadowset-", dir=directory)
        self._set(made, tempfile.mkdtemp(prefix="shadowset-", dir="/run"))
        self._mark = open(f"{self.runtime}/{MARK}.new", "w")  # noqa: SIM115 - locked as long as this process lives
        fcntl.flock(self._mark, fcntl.LOCK_EX)
        self._mark.write(made)
        self._mark.flush()
        os.rename(self._mark.name, f"{self.runtime}/{MARK}")

    @classmethod
    def found(cls, directory: str, runtime: str) -> Stage:
        """One that another process has left."""
        stage = cls.__new__(cls)
        stage._set(directory, runtime)
        return stage

    def _set(self, directory: str, runtime: str) -> None:
        self.directory, self.runtime = directory, runtime
        self.environment = {
            **os.environ,
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
            "SHADOWSET_RUNTIME_DIR": self.runtime,
            "SHADOWSET_STATE_DIR": f"{self.directory}/state",
            "PYTHONUNBUFFERED": "1",
        }
        self._undo: list[tuple[str, Callable[[], object]]] = []

    def later(self, what: str, action: Callable[[], object]) -> None:
        """Have something undone at the end; ``what`` completes the sentence 'could not …'."""
        self._undo.append((what, action))

    def run(self, *command: str, show_progress: bool = False) -> str:
        """Run a command to its end; returns its standard output. Errors: StageError with what it said."""
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if show_progress else subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or "").strip() or (done.stdout or "").strip() or "it said nothing"
            raise StageError(f"'{' '.join(command)}' ended with exit status {done.returncode}: {said}")
        return done.stdout

    def shadowset(self, *arguments: str, show_progress: bool = False) -> Any:
        """Run ``shadowset … --json``; returns what it printed."""
        text = self.run(*module("shadowset.requester.cli"), *arguments, "--json", show_progress=show_progress)
        return json.loads(text) if text.strip() else None

    def answers(self) -> bool:
        """Whether its coordinator does."""
        try:
            self.shadowset("status")
        except StageError:
            return False
        return True

    def start(self, what: str, *command: str, stdout: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
        """Start a process that runs until the end."""
        log = open(f"{self.directory}/{what.replace(' ', '-')}.log", "ab")  # noqa: SIM115 - the child's
        process = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=stdout or log, stderr=log
        )
        log.close()
        self.later(f"end {what}", lambda: end(process))
        return process

    def wait(self, what: str, ready: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
        """Wait until something is so. Errors: StageError naming it."""
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise StageError(f"waited {seconds:.0f} seconds in vain for {what}")
            time.sleep(0.05)

    def close(self) -> list[str]:
        """Undo everything; returns what could not be undone."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        problems = []
        while self._undo:
            what, action = self._undo.pop()
            try:
                action()
            except (StageError, OSError, subprocess.SubprocessError) as error:
                problems.append(f"could not {what}: {error}")
        for directory in (self.runtime, self.directory):
            for point in reversed(mounted_below(directory)):
                subprocess.run(["umount", point], stderr=subprocess.DEVNULL, timeout=60, check=False)
            if mounted_below(directory):
                problems.append(f"left {directory} because something is still mounted below it")
            else:
                shutil.rmtree(directory, ignore_errors=True)
        return problems


def module(name: str) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", name]


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and make it after ten seconds."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def mounted_below(directory: str) -> list[str]:
    """Mount points at or below a directory."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split()[1] for line in file]
    return [point for point in points if point == directory or point.startswith(directory + "/")]
