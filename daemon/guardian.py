"""The thaw guardian: a small process that thaws file systems when the coordinator cannot.

Run as ``python -I -S guardian.py COMMANDS REPORTS ROOT…``; all arguments are numbers of inherited descriptors: a pipe
to read commands from, a pipe for reports, and one opened mount root for each file system about to be frozen.

Commands, one a line: ``arm NANOSECONDS`` (deadline on CLOCK_MONOTONIC; a later one replaces it), ``forget INDEX`` (not
ours to thaw, or thawed already), ``done`` (end without thawing). End of file means that the coordinator is gone: thaw
everything. After the deadline it thaws again every 20 ms for as long as the coordinator lives, because a freeze may
still be under way in the kernel and would otherwise outlast the first thaw. Reports: ``ready``, ``armed``, ``expired``.

It imports next to nothing, locks itself into memory and opens no file after its start, so that it works when
everything else is stuck. Each thaw runs in a forked child: one file system that blocks must not delay the others.
"""

import ctypes
import fcntl
import os
import select
import sys
import time

FITHAW = 0xC0045878
MCL_CURRENT_AND_FUTURE = 3
AGAIN_S = 0.02


class Guardian:
    """The pipes, the file systems still to be thawed, and the deadline."""

    def __init__(self, commands: int, reports: int, roots: list[int]) -> None:
        self.commands = commands
        self.reports = reports
        self.roots = dict(enumerate(roots))
        self.children: dict[int, int] = {}
        self.deadline_ns = 0
        self.expired = False
        self.buffer = b""

    def say(self, text: str) -> None:
        """Report; a coordinator that does not listen changes nothing."""
        try:
            os.write(self.reports, text.encode() + b"\n")
        except OSError:
            pass

    def run(self) -> None:
        """Until told ``done``, or until the coordinator is gone and everything is thawed."""
        self.say("ready")
        while True:
            if self.commands in select.select([self.commands], [], [], self.patience())[0]:
                data = os.read(self.commands, 4096)
                if not data:
                    self.thaw_all()
                    self.reap(wait=True)
                    return
                if self.obey(data):
                    return
            if self.deadline_ns and time.monotonic_ns() >= self.deadline_ns:
                self.expire()

    def patience(self) -> float | None:
        """Seconds until something has to be done; None when nothing is armed."""
        if self.expired:
            return AGAIN_S
        if not self.deadline_ns:
            return None
        return max(0, self.deadline_ns - time.monotonic_ns()) / 1e9

    def obey(self, data: bytes) -> bool:
        """Handle whole lines; True on ``done``."""
        self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            word, _, value = line.partition(b" ")
            if word == b"done":
                return True
            if word == b"arm":
                self.deadline_ns = int(value)
                self.say("armed")
            elif word == b"forget":
                self.roots.pop(int(value), None)
        return False

    def expire(self) -> None:
        """The deadline has passed."""
        if not self.expired:
            self.expired = True
            self.say("expired")
        self.reap(wait=False)
        self.thaw_all()

    def thaw_all(self) -> None:
        """Start a thaw of every file system that has none under way; the last frozen comes first."""
        for index in sorted(self.roots, reverse=True):
            if index not in self.children.values():
                self.thaw(index)

    def thaw(self, index: int) -> None:
        """One file system, in a child; in this process when there is no child to be had."""
        try:
            child = os.fork()
        except OSError:
            thaw_root(self.roots[index])
            return
        if child == 0:
            thaw_root(self.roots[index])
            os._exit(0)
        self.children[child] = index

    def reap(self, wait: bool) -> None:
        """Collect children that have ended, or all of them."""
        while self.children:
            try:
                child, _ = os.waitpid(-1, 0 if wait else os.WNOHANG)
            except ChildProcessError:
                self.children.clear()
                return
            if child == 0:
                return
            self.children.pop(child, None)


def thaw_root(root: int) -> None:
    """FITHAW; EINVAL means that it is not frozen, which is what we want."""
    try:
        fcntl.ioctl(root, FITHAW, 0)
    except OSError:
        pass


def protect() -> None:
    """Stay in memory and be the last one killed, as far as we are allowed to."""
    try:
        ctypes.CDLL(None, use_errno=True).mlockall(MCL_CURRENT_AND_FUTURE)
    except (OSError, AttributeError):
        pass
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(descriptor, b"-1000")
        os.close(descriptor)
    except OSError:
        pass


def main(arguments: list[str]) -> None:
    """Entry point."""
    commands, reports, *roots = map(int, arguments)
    protect()
    Guardian(commands, reports, roots).run()


if __name__ == "__main__":
    main(sys.argv[1:])
