"""The keeper: a small process that holds the FUSE descriptor, so that a bridge that dies or is upgraded goes on.

As long as somebody has the descriptor, the mount lives and requests wait. A new bridge gets it and has the kernel give
back what the dead one had taken (Linux 6.9 and later). Bridge and keeper watch each other: whoever is left starts the
other one again, so only the loss of both at once ends the device. Neither ends on a signal that asks it to.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from typing import Final

from shadowset.nbd_provider.attach import bridge_state, fuse
from shadowset.nbd_provider.attach.protect import protect
from shadowset.vss.codes import VssError
from shadowset.vss.processes import start_time

REPLACE: Final = signal.SIGUSR1
"""Go on with the installed code, and let a new bridge of it replace the present one."""
_QUICK_S: Final = 10.0
_FIRST_BACKOFF_S: Final = 0.05
_LONGEST_BACKOFF_S: Final = 1.0

log = logging.getLogger("shadowset.keeper")


class Process:
    """A bridge, whether it is our child or not."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        """Errors: ProcessLookupError."""
        self.pid = pid
        self.child = child
        self.since = time.monotonic()
        self.watch = os.pidfd_open(pid)

    def ended(self) -> str:
        """How it ended; it has."""
        os.close(self.watch)
        status = self.child.wait() if self.child else _reap(self.pid)
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return "has ended" + (f" with status {status}" if status else "")


def _reap(pid: int) -> int:
    """The status of a child of the program that this process was before; 0 for one that is not ours."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, os.WNOHANG)[1])
    except ChildProcessError:
        return 0


class Keeper:
    """Runs until the mount is gone."""

    def __init__(self, arguments: argparse.Namespace, fd: int) -> None:
        self._arguments = arguments
        self._fd = fd
        self._status = bridge_state.load_status(arguments.directory)
        self._status.keeper, self._status.keeper_started = os.getpid(), start_time(os.getpid())
        self._backoff = _FIRST_BACKOFF_S
        self._next: Process | None = None
        self._wake, signalled = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
        signal.signal(REPLACE, lambda *_: None)

    def first(self) -> None:
        """Start the bridge and pass on its one line, which says what it serves, or why it cannot."""
        self._now = self._start(announce=True)
        child = self._now.child
        assert child is not None and child.stdout is not None
        with child.stdout:
            line = child.stdout.readline()
        if line:
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
        if b'"error"' in line or not line:
            child.wait()
            raise BrokenPipeError

    def adopt(self) -> None:
        """The bridge is there already."""
        self._now = Process(self._arguments.bridge)
        self._save()
        if self._arguments.replace:
            self._next = self._start("--replaces", str(self._now.pid))

    def run(self) -> None:
        """Until the mount is gone, or no new bridge could go on."""
        while self._turn():
            pass

    def _turn(self) -> bool:
        poller = select.poll()
        for descriptor in (self._wake, self._now.watch, *([self._next.watch] if self._next else [])):
            poller.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll()}
        if self._now.watch in ready:
            return self._lost(self._now.ended())
        if self._next is not None and self._next.watch in ready:
            log.error("the bridge that was to replace process %d %s", self._now.pid, self._next.ended())
            self._next = None
        if self._wake in ready:
            os.read(self._wake, 4096)
            if self._next is None:
                self._renew()
        return True

    def _lost(self, cause: str) -> bool:
        """Whether there is anything left to do."""
        if gone(self._fd):
            if self._next is not None:
                self._next.ended()
            return False
        if self._next is not None:
            log.info("process %d replaces process %d", self._next.pid, self._now.pid)
            self._now, self._next = self._next, None
            self._save()
            return True
        facts = bridge_state.load_serving(self._arguments.directory)
        if facts is None or not facts.resend:
            log.error("the bridge %s; this kernel does not give back its requests, so the device is dead", cause)
            return False
        self._again(cause)
        return True

    def _again(self, cause: str) -> None:
        self._status.restarts += 1
        self._status.cause = cause
        if time.monotonic() - self._now.since > _QUICK_S:
            self._backoff = _FIRST_BACKOFF_S
        else:
            time.sleep(self._backoff)
            self._backoff = min(2 * self._backoff, _LONGEST_BACKOFF_S)
        self._now = self._start("--resume")
        log.warning("the bridge %s; process %d goes on, %d times so far", cause, self._now.pid, self._status.restarts)

    def _start(self, *options: str, announce: bool = False) -> Process:
        child = subprocess.Popen(
            [sys.executable, "-m", "shadowset.nbd_provider.attach.bridge", *self._common(), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if announce else subprocess.DEVNULL,
            pass_fds=[self._fd],
            start_new_session=True,
            cwd="/",
        )
        process = Process(child.pid, child)
        if "--replaces" not in options:
            self._now = process
            self._save()
        return process

    def _common(self) -> list[str]:
        return [*common(self._arguments), "--fd", str(self._fd), "--keeper", str(os.getpid())]

    def _save(self) -> None:
        self._status.bridge, self._status.bridge_started = self._now.pid, start_time(self._now.pid)
        bridge_state.save_status(self._arguments.directory, self._status)

    def _renew(self) -> None:
        """The same process with the installed code; what it has started stays its child."""
        os.set_inheritable(self._fd, True)
        command = [sys.executable, "-m", "shadowset.nbd_provider.attach.keeper", *common(self._arguments)]
        os.execv(sys.executable, [*command, "--fd", str(self._fd), "--bridge", str(self._now.pid), "--replace"])


def common(arguments: argparse.Namespace) -> list[str]:
    """What keeper and bridge of a volume have to know alike."""
    names = ("directory", "nbd", "export", "mount", "group", "dead_time")
    return [word for name in names for word in (f"--{name.replace('_', '-')}", str(getattr(arguments, name)))]


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options for it."""
    for name in ("directory", "nbd", "export", "mount", "group"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--dead-time", type=float, required=True)
    parser.add_argument("--fd", type=int, default=-1)


def gone(fd: int) -> bool:
    """Whether the mount of a FUSE descriptor was taken away or aborted."""
    poller = select.poll()
    poller.register(fd, 0)
    return any(mask & select.POLLERR for _, mask in poller.poll(0))


def start(arguments: argparse.Namespace, fd: int) -> subprocess.Popen[bytes]:
    """By the bridge, whose own keeper has died."""
    command = [sys.executable, "-m", "shadowset.nbd_provider.attach.keeper", *common(arguments)]
    return subprocess.Popen(
        [*command, "--fd", str(fd), "--bridge", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[fd],
        start_new_session=True,
        cwd="/",
    )


def main(argv: list[str] | None = None) -> int:
    """Exits 0 after the mount was taken away, 1 when nothing could be mounted or the bridge cannot go on."""
    parser = argparse.ArgumentParser(prog="shadowset-bridge-keeper")
    add_common(parser)
    parser.add_argument("--bridge", type=int, default=0)
    parser.add_argument("--replace", action="store_true")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for refusal in protect(arguments.group):
        log.info("without protection by %s", refusal)
    try:
        if arguments.fd >= 0:
            os.set_inheritable(arguments.fd, False)
            keeper = Keeper(arguments, arguments.fd)
            keeper.adopt()
        else:
            keeper = _begin(arguments)
    except VssError as error:
        print(json.dumps({"error": error.message}), flush=True)
        return 1
    except (BrokenPipeError, ProcessLookupError):
        return 1
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    keeper.run()
    return 0


def _begin(arguments: argparse.Namespace) -> Keeper:
    keeper = Keeper(arguments, fuse.mount(arguments.mount))
    try:
        keeper.first()
    except BaseException:
        fuse.unmount(arguments.mount)
        raise
    return keeper


if __name__ == "__main__":
    sys.exit(main())
