"""What the scripts that run in the guest share: a provider to kill, its control socket, devices, copies with a digest.

Providers are forked from this process, because starting Python takes seconds here.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID, uuid4

from shadowset.nbd_provider import main as provider_main
from shadowset.nbd_provider.attach import client
from shadowset.nbd_provider.attach.main import main as attach_main
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.vss import provider_protocol as m
from shadowset.vss.codes import VssError
from shadowset.vss.wire import FrameDecoder, encode

MIB = 1 << 20
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f", "--unsupported"],  # smaller than the 300 MiB that it wants
}
CHECK = {"ext4": ["fsck.ext4", "-f", "-n"], "xfs": ["xfs_repair", "-n", "-o", "force_geometry"]}


def run(*command: str) -> str:
    """Standard output. Errors: AssertionError with all output when the command fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def step(text: str) -> None:
    print(f"{time.monotonic():8.2f} {text}", flush=True)


def figure(text: str) -> None:
    """A line that the lane shows at the end of the whole run."""
    print(f"figure: {text}", flush=True)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(0.01)
    return value


def fork(body: Callable[[], int | None], log: str | None = None) -> int:
    """A process that runs ``body``; its exit status is what that returns, or 99 after an exception."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        if log:
            fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(fd, 2)
        status = body() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def zeros(path: str, size: int) -> str:
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def loop_device(path: str) -> str:
    return run("losetup", "--show", "-f", path).strip()


def digest_of_file(path: str, size: int = 0) -> str:
    """Of a file or block device, or of its first ``size`` bytes."""
    value = hashlib.blake2b()
    left = size or 1 << 62
    with open(path, "rb", buffering=0) as file:
        while left and (piece := file.read(min(left, MIB))):
            value.update(piece)
            left -= len(piece)
    return value.hexdigest()


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float]) -> str:
    """p50, p99 and the greatest of some seconds, as one writes them."""
    return f"p50 {statistics.median(values):.2f} s, p99 {percentile(values, 0.99):.2f} s, max {max(values):.2f} s"


class Volume:
    """One protected volume: its provider process, its device, its file system."""

    def __init__(self, name: str, origin: str, storage: str, *options: str) -> None:
        self.name, self.origin, self.storage = name, origin, storage
        self.nbd, self.control_socket = f"/run/{name}.nbd", f"/run/{name}.control"
        self.log, self.runtime, self.place = f"/run/{name}.log", f"/run/{name}", f"/mnt/{name}.fs"
        self.device, self.pid, self.fs_type = "", 0, ""
        self._options = options if "--losses" in options else (*options, "--losses", f"/run/{name}.losses")
        self.sums: dict[str, str] = {}
        self.served_at = 0.0

    def start(self) -> None:
        """Returns when it serves. Errors: AssertionError with its log when it ends instead."""
        self.pid = self._fork()
        wait_until(self._serves, f"the provider of {self.name}")

    def revive(self) -> None:
        """After a kill: a new provider, and a fresh connection for the device."""
        self.start()
        self.served_at = time.monotonic()
        self.attach_command("reconnect")

    def hand_over(self) -> None:
        """To a new process; returns when the old one has ended."""
        before, self.pid = self.pid, self._fork("--take-over")
        assert wait(before) == 0, self.read_log()

    def _fork(self, *more: str) -> int:
        arguments = [self.name, "--origin", self.origin, "--storage", self.storage, "--nbd", self.nbd]
        arguments += ["--control", self.control_socket, *self._options, *more]
        return fork(lambda: provider_main.main(arguments), self.log)

    def _serves(self) -> bool:
        assert os.waitpid(self.pid, os.WNOHANG)[0] == 0, self.read_log()
        try:
            client.connect(self.nbd, self.name, 30)[0].close()
        except client.NbdError:
            return False
        return True

    def read_log(self) -> str:
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        wait(self.pid)

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        assert wait(self.pid) == 0, self.read_log()

    def control(self, *calls: m.ToProvider) -> list[Any]:
        """Calls over one connection, and what they were answered with. Errors: VssError."""
        values: list[Any] = []
        decoder: FrameDecoder[m.FromProvider] = FrameDecoder(m.FromProvider)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect(self.control_socket)
            for call in calls:
                sock.sendall(encode(call))
                answers: list[m.FromProvider] = []
                while not answers:
                    data = sock.recv(65536)
                    if not data:
                        raise ConnectionResetError("the provider is gone")
                    answers = list(decoder.feed(data))
                if isinstance(answers[0], m.Failed):
                    raise VssError(answers[0].code, answers[0].message)
                values.append(answers[0].value)
        return values

    def describe(self) -> dict[str, Any]:
        return dict(self.control(m.Describe(1))[0])

    def copies(self) -> dict[str, dict[str, Any]]:
        return {each["copy_id"]: each for each in self.describe()["copies"]}

    def events(self) -> list[dict[str, Any]]:
        return list(self.control(m.ListEvents(1))[0]["events"])

    def attach_command(self, *arguments: str) -> dict[str, Any]:
        """``shadowset-attach`` in this process."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = attach_main([arguments[0], self.name, "--runtime", self.runtime, *arguments[1:]])
        assert status == 0, err.getvalue()
        return dict(json.loads(out.getvalue() or "{}"))

    def attach(self, *options: str) -> None:
        self.device = self.attach_command("attach", "--nbd", self.nbd, "--via", "nbd", *options)["device"]

    def make_file_system(self, fs_type: str, *options: str) -> None:
        self.fs_type = fs_type
        run(*MKFS[fs_type], *options, self.device)

    def mount(self, *options: str) -> None:
        os.makedirs(self.place, exist_ok=True)
        run("mount", *options, self.device, self.place)

    def unmount(self) -> None:
        run("umount", self.place)

    def check_file_system(self) -> None:
        run(*CHECK[self.fs_type], self.device)

    def put_away(self) -> None:
        """Unmount, look that the file system is sound, detach, end the provider cleanly."""
        self.unmount()
        self.check_file_system()
        self.attach_command("detach")
        self.stop()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        run("fsfreeze", "-f", self.place)
        try:
            yield
        finally:
            run("fsfreeze", "-u", self.place)

    def snapshot(self, persistent: bool) -> str:
        """A finished copy of the frozen file system; ``sums`` has the digest of what it has to show."""
        copy = str(uuid4())
        with self.frozen():
            self.cut(copy, persistent)
            self.sums[copy] = digest_of_file(self.origin)
        self.control(m.Finish(1, copy))
        return copy

    def cut(self, copy: str, persistent: bool) -> None:
        now = time.time_ns()
        self.control(m.Hold(1), m.Commit(2, copy, str(uuid4()), now, persistent), m.Release(3))

    def delete(self, copy: str) -> None:
        self.control(m.Delete(1, copy))
        del self.sums[copy]

    def read_copy(self, copy: str) -> str:
        """Its digest, read as any other process reads it. Errors: VssError, OSError."""
        reader = CopyReader(self.storage, self.origin, UUID(copy))
        value = hashlib.blake2b()
        try:
            for offset in range(0, reader.size, MIB):
                value.update(reader.read(offset, MIB))
        finally:
            reader.close()
        return value.hexdigest()

    def check_copies(self) -> int:
        """All copies that we know are exact; returns how many."""
        for copy, value in self.sums.items():
            assert self.read_copy(copy) == value, f"copy {copy} of {self.name} is not what it was"
        return len(self.sums)
