"""NBD servers from Debian, the attach command, and the removal of all that a test leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shadowset.nbd_provider.attach import client, fuse, loop

PATIENCE_S = 60


class Server:
    """An NBD server on an image file, which can be killed and started again, or stopped in its tracks.

    To be started from the main thread: nbdkit ends with the thread that started it.
    """

    def __init__(self, directory: str, size: int, program: str = "nbdkit") -> None:
        if shutil.which(program) is None:
            pytest.skip(f"not installed: {program}")
        self.image = f"{directory}/image"
        self.socket = f"{directory}/nbd.sock"
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        with open(self.image, "wb") as file:
            file.truncate(size)
        self.start()

    def start(self) -> None:
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        commands = {
            "nbdkit": ["nbdkit", "-f", "-U", self.socket, "file", self.image],
            "qemu-nbd": ["qemu-nbd", "-t", "-k", self.socket, "-x", "vol", "-f", "raw", "--shared=8", self.image],
        }
        self._process = subprocess.Popen(commands[self._program], stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 10
        while True:
            try:
                client.connect(self.socket, "vol", 1)[0].close()
            except client.NbdError:
                assert time.monotonic() < deadline, f"{self._program} does not listen"
                time.sleep(0.02)
            else:
                return

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self.kill()


class Place:
    """A run-time directory with everything in it, and the commands that work there."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="ss-", dir="/tmp")
        self.runtime = f"{self.directory}/vol"
        self.links = f"{self.directory}/links"
        self.mount_point = f"{self.directory}/mnt"
        os.mkdir(self.mount_point)
        self.servers: list[Server] = []

    def server(self, size: int = 64 << 20, program: str = "nbdkit") -> Server:
        server = Server(self.directory, size, program)
        self.servers.append(server)
        return server

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shadowset.nbd_provider.attach.main", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    def try_attach(self, socket: str, *options: str, via: str = "fuse") -> subprocess.CompletedProcess[str]:
        there = ["--runtime", self.runtime, "--links", self.links, "--dead-time", "30"]
        return self.run("attach", "vol", "--nbd", socket, "--via", via, *there, *options)

    def attach(self, socket: str, *options: str) -> dict[str, Any]:
        done = self.try_attach(socket, *options)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def detach(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run("detach", "vol", "--runtime", self.runtime, *options)

    def resize(self) -> subprocess.CompletedProcess[str]:
        return self.run("resize", "vol", "--runtime", self.runtime)

    def mount(self, device: str, *options: str) -> None:
        command(["mount", *options, device, self.mount_point])

    def unmount(self) -> None:
        command(["umount", self.mount_point])

    def unmount_all(self) -> None:
        """Also while it is stuck: then requests fail first."""
        if os.path.ismount(self.mount_point):
            subprocess.run(["umount", self.mount_point], stderr=subprocess.DEVNULL, timeout=20, check=False)
        if os.path.ismount(self.mount_point):
            fuse.abort(f"{self.runtime}/bridge")

    def leftovers(self) -> list[str]:
        """Mounts, loop devices and bridges that belong to this place."""
        with open("/proc/mounts", encoding="utf-8") as file:
            found = [line.split()[1] for line in file if line.split()[1].startswith(self.directory)]
        found += loop.devices_on(f"{self.runtime}/bridge/disk")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as arguments:
                    if f"{self.runtime}/bridge".encode() in arguments.read().split(b"\0"):
                        found.append(f"process {pid}")
            except OSError:
                continue
        return found

    def close(self) -> None:
        fuse.abort(f"{self.runtime}/bridge")
        for path in (self.mount_point, f"{self.runtime}/bridge"):
            while fuse.unmount(path):
                pass
        if os.path.isdir(self.runtime):
            self.detach("--force")
        for server in self.servers:
            server.close()
        left = self.leftovers()
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not left


def command(arguments: list[str], timeout: float = PATIENCE_S) -> str:
    """Runs a program that must succeed; returns what it says."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def run() -> Any:
    return command


@pytest.fixture
def place() -> Iterator[Place]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        pytest.skip("needs FUSE and loop devices")
    made = Place()
    yield made
    made.close()
