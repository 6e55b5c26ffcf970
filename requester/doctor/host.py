"""The host as checks see it: files of the kernel and of the system, below a root that tests can move."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import grp
import os
import platform
import pwd
import socket
import stat
import subprocess
import sys
import time

from shadowset.requester.abandoned import RUN, find_abandoned
from shadowset.vss.mountinfo import Mount, parse_mountinfo

TIME_ERROR = 5
PROBE_S = 20.0


class Host:
    """Reads only. What cannot be read counts as not there, since a check must not fail for it."""

    def __init__(self, root: str = "") -> None:
        self.root = root

    def at(self, path: str) -> str:
        """Where a path of the host lies."""
        return f"{self.root}{path}"

    def read(self, path: str) -> str:
        """A file's text, "" where there is none."""
        try:
            with open(self.at(path), encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except OSError:
            return ""

    def names(self, path: str) -> list[str]:
        """What a directory holds, sorted."""
        try:
            return sorted(os.listdir(self.at(path)))
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        """Whether there is anything."""
        return os.path.lexists(self.at(path))

    def status(self, path: str) -> os.stat_result | None:
        """Of what a path leads to."""
        try:
            return os.stat(self.at(path))
        except OSError:
            return None

    def trouble(self, path: str) -> str:
        """Why a path that is there cannot be looked at, as with a FUSE mount whose server died; "" when it can."""
        try:
            os.stat(self.at(path))
        except OSError as error:
            hidden = error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM)  # not dead: others may look at it
            return "" if hidden else error.strerror or "unknown"
        return ""

    def mounts(self) -> list[Mount]:
        """The mount table."""
        return parse_mountinfo(self.read("/proc/self/mountinfo"))

    def mount_of(self, path: str) -> Mount | None:
        """The mount that a path lies on: the longest mount point above it, the latest of those."""
        real = os.path.realpath(path) + "/"
        above = [mount for mount in self.mounts() if real.startswith(mount.path.rstrip("/") + "/")]
        return max(reversed(above), key=lambda mount: len(mount.path), default=None)

    def kernel(self) -> str:
        """As 6.1.0-18-amd64."""
        return self.read("/proc/sys/kernel/osrelease").strip() or platform.release()

    def has_module(self, name: str) -> bool:
        """Whether the kernel has it, or can load it."""
        if self.exists(f"/sys/module/{name}"):
            return True
        place = f"/lib/modules/{self.kernel()}"
        known = self.read(f"{place}/modules.builtin") + self.read(f"{place}/modules.dep")
        return f"/{name}.ko" in known

    def has_library(self, name: str) -> bool:
        """Whether the dynamic linker finds it."""
        return ctypes.util.find_library(name) is not None

    def clock_synchronised(self) -> bool:
        """As the kernel was told by whoever keeps its clock."""
        buffer = ctypes.create_string_buffer(512)  # struct timex, zero: change nothing
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.adjtimex(buffer) != TIME_ERROR)

    def now_ns(self) -> int:
        """The wall clock."""
        return time.time_ns()

    def listens(self, path: str) -> bool:
        """Whether somebody accepts connections at this socket, or we may not ask."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self.at(path))
            except ConnectionRefusedError:
                return False
            except OSError:
                return True
            return True

    def abandoned(self) -> list[str]:
        """What selftests and demonstrations that were killed have left, by their directories."""
        try:
            return [left.directory for left in find_abandoned(self.at(RUN))]
        except OSError:
            return []

    def is_socket(self, path: str) -> bool:
        """Whether a socket stands there."""
        status = self.status(path)
        return status is not None and stat.S_ISSOCK(status.st_mode)

    def groups_of(self, user: str) -> tuple[int, set[int]] | None:
        """A user's number and groups; None for an unknown one."""
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            return None
        members = {group.gr_gid for group in grp.getgrall() if user in group.gr_mem}
        return entry.pw_uid, {entry.pw_gid, *members}

    def settings_trouble(self) -> str:
        """What the coordinator says against its own files; "" when it can start with them."""
        command = [sys.executable, "-m", "shadowset.daemon.settings", "--json"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stderr.strip().removeprefix("shadowset: ") if done.returncode else ""
