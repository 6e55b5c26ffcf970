"""The tree that is set up: the host itself, or a directory that stands for one."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess

from shadowset.vss.codes import Code, VssError

COMMAND_S = 60.0


class Tree:
    """Everything below ``root``, "" for the host itself; paths are those that the host will know."""

    def __init__(self, root: str = "") -> None:
        self.root = root.rstrip("/")

    @property
    def live(self) -> bool:
        """Whether services can be started here: the host itself, with systemd as its first process."""
        return not self.root and os.path.isdir("/run/systemd/system")

    def at(self, path: str) -> str:
        """Where a path of the host lies."""
        return f"{self.root}{path}"

    def exists(self, path: str) -> bool:
        """Whether there is anything, a broken link included."""
        return os.path.lexists(self.at(path))

    def read(self, path: str) -> str:
        """A text file; "" where there is none."""
        try:
            with open(self.at(path), encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def digest(self, path: str) -> str:
        """Of a regular file's content; "" where there is none."""
        if not os.path.isfile(self.at(path)) or os.path.islink(self.at(path)):
            return ""
        with open(self.at(path), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    def write(self, path: str, text: str, mode: int) -> None:
        """Put a file in place whole: written beside it, durable, then renamed."""
        beside = self.at(f"{path}.shadowset-new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.rename(beside, self.at(path))

    def has(self, program: str) -> bool:
        """Whether a program that works on trees is installed."""
        return shutil.which(program, path=SYSTEM_PATH) is not None

    def run(self, *command: str) -> tuple[int, str]:
        """Exit status and output of a program. Errors: VssError when it is missing or hangs."""
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=COMMAND_S, check=False, env=_environment()
            )
        except FileNotFoundError:
            raise VssError(Code.E_UNEXPECTED, f"the program {command[0]} is not installed") from None
        except subprocess.TimeoutExpired:
            raise VssError(Code.E_UNEXPECTED, f"{' '.join(command)} did not end within {COMMAND_S:g} s") from None
        return done.returncode, (done.stdout + done.stderr).strip()

    def must(self, *command: str) -> None:
        """Run a program that has to succeed. Errors: VssError with what it said."""
        status, said = self.run(*command)
        if status:
            raise VssError(
                Code.E_UNEXPECTED, f"{' '.join(command)} ended with {status}: {said.splitlines()[-1] if said else '-'}"
            )


SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": SYSTEM_PATH, "LC_ALL": "C"}
