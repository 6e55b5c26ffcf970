"""A whole installation in directories of its own: coordinator, two mounted volumes, and what to ask of them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shadowset.nbd_provider.listening import answers
from shadowset.vss import provider_protocol as m
from shadowset.vss.paths import Paths
from shadowset.vss.wire import FrameDecoder, encode

LOOP_GET_STATUS64 = 0x4C05
NEEDED = ("mkfs.ext4", "mkfs.xfs", "mount", "losetup", "fusermount3")
VOLUMES = (("one", "ext4", 64 << 20), ("two", "xfs", 320 << 20))


def wait_for(what: str, ready: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Poll until ``ready`` answers with something true; returns that."""
    deadline = time.monotonic() + seconds
    while True:
        value = ready()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds} seconds in vain for {what}"
        time.sleep(0.02)


class Chain:
    """Processes and volumes; ``close`` leaves nothing behind."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="ss-chain-", dir="/var/tmp")
        self.runtime = tempfile.mkdtemp(prefix="ss-", dir="/run")
        self.paths = Paths(self.runtime, f"{self.directory}/state")
        self.environment = {
            **os.environ,
            "SHADOWSET_RUNTIME_DIR": self.runtime,
            "SHADOWSET_STATE_DIR": self.paths.state,
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self.places: dict[str, str] = {}
        self.daemon = self.start_daemon()

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with open(f"{self.directory}/log", "ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def module(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        return self.start(sys.executable, "-m", name, *arguments)

    def start_daemon(self) -> subprocess.Popen[bytes]:
        daemon = self.module("shadowset.daemon.main")
        self.daemon = daemon
        wait_for("the coordinator", self.daemon_answers)
        return daemon

    def daemon_answers(self) -> bool:
        assert self.daemon.poll() is None, self.log()
        return answers(self.paths.requester_socket)

    def log(self) -> str:
        return Path(f"{self.directory}/log").read_text(errors="replace")

    def cli(self, *arguments: str, status: int = 0) -> Any:
        """Run ``shadowset … --json``; returns what it printed."""
        done = self.raw(*arguments, "--json")
        assert done.returncode == status, f"{arguments}: {done.stderr}\n{self.log()[-3000:]}"
        return json.loads(done.stdout) if done.stdout.strip() else None

    def raw(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shadowset.requester.cli", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)

    def add_volumes(self, volumes: tuple[tuple[str, str, int], ...] = VOLUMES) -> None:
        for name, kind, size in volumes:
            image = f"{self.directory}/{name}.img"
            with open(image, "wb") as file:
                file.truncate(size)
            self.cli("volume", "add", name, image)
            device = self.cli("volume", "attach", name)["device"]
            place = f"{self.directory}/{name}"
            os.mkdir(place)
            subprocess.run([f"mkfs.{kind}", "-q", device], check=True, timeout=60)
            subprocess.run(["mount", device, place], check=True, timeout=60)
            self.places[name] = place

    def control(self, volume: str, call: m.ToProvider, kind: Any) -> Any:
        """One call on a provider's control socket, beside the coordinator."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(self.paths.control_socket(volume))
            sock.sendall(encode(call))
            decoder: FrameDecoder[m.FromProvider] = FrameDecoder(m.FromProvider)
            while True:
                for answer in decoder.feed(sock.recv(65536)):
                    assert isinstance(answer, m.Done), answer
                    return msgspec.convert(answer.value, kind)

    def describe(self, volume: str) -> m.VolumeDescription:
        found: m.VolumeDescription = self.control(volume, m.Describe(1), m.VolumeDescription)
        return found

    def check_writable(self, seconds: float = 20.0) -> None:
        """Both file systems take a durable write, so nothing is frozen and nothing is held."""
        for name, place in self.places.items():
            command = ["dd", "if=/dev/zero", f"of={place}/probe", "bs=4k", "count=1", "conv=fsync", "status=none"]
            probe = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            try:
                assert probe.wait(seconds) == 0
            except subprocess.TimeoutExpired:
                raise AssertionError(f"volume {name} is still frozen or held after {seconds} seconds") from None

    def close(self) -> None:
        for place in self.places.values():
            subprocess.run(["fsfreeze", "-u", place], stderr=subprocess.DEVNULL, timeout=60, check=False)
            subprocess.run(["umount", place], stderr=subprocess.DEVNULL, timeout=60, check=False)
        try:
            if self.daemon.poll() is not None:
                self.start_daemon()
            for name in self.places:
                self.raw("volume", "remove", name, "--force")
        except AssertionError:
            pass
        for process in reversed(self.processes):
            end(process)
        for loop in loops_made_with(self.runtime, self.directory):  # in use, it goes with its last user
            command = ["losetup", "--detach", loop.split()[0]]
            subprocess.run(command, stderr=subprocess.DEVNULL, timeout=60, check=False)
        for mount in mounts_below(self.runtime, self.directory):
            subprocess.run(["umount", "-l", mount], stderr=subprocess.DEVNULL, timeout=60, check=False)
        for pid in processes_with(self.runtime):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(AssertionError):
            wait_for("the killed processes to end", lambda: not processes_with(self.runtime))
        shutil.rmtree(self.runtime, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(15)


def mounts_below(*directories: str) -> list[str]:
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split()[1] for line in file]
    return [point for point in reversed(points) if point.startswith(directories)]


def processes_with(word: str) -> list[int]:
    """Processes of ours whose command line names this installation's runtime directory."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            try:
                if word.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    found.append(int(name))
            except OSError:
                continue
    return found


def loops_made_with(*directories: str) -> list[str]:
    """Loop devices by the paths that they were made with: those in sysfs lose their beginning with their mount."""
    found = []
    for name in os.listdir("/sys/block"):
        if name.startswith("loop") and os.path.exists(f"/sys/block/{name}/loop/backing_file"):
            fd = os.open(f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK)
            try:
                path = fcntl.ioctl(fd, LOOP_GET_STATUS64, bytes(232))[56:120].rstrip(b"\0").decode()
            except OSError:
                continue  # it has gone meanwhile
            finally:
                os.close(fd)
            if path.startswith(directories):
                found.append(f"/dev/{name} on {path}")
    return found


def leftovers(chain: Chain) -> list[str]:
    """What is still there that names the installation: mounts, loop devices, processes."""
    found = mounts_below(chain.runtime, chain.directory)
    for name in os.listdir("/sys/block"):
        try:
            backing = Path(f"/sys/block/{name}/loop/backing_file").read_text()
        except OSError:
            continue
        if chain.runtime in backing or chain.directory in backing:
            found.append(f"/dev/{name} on {backing.strip()}")
    return found + [f"process {pid}" for pid in processes_with(chain.runtime)]


@pytest.fixture
def chain() -> Iterator[Chain]:
    if os.geteuid() or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    made = Chain()
    try:
        yield made
    finally:
        made.close()
    with contextlib.suppress(AssertionError):  # a loop device goes with its last user, which may take a moment
        wait_for("the rest to go", lambda: not leftovers(made), 10)
    assert not leftovers(made)


@pytest.fixture
def volumes(chain: Chain) -> Chain:
    chain.add_volumes()
    return chain


@pytest.fixture
def slow(chain: Chain) -> Iterator[Any]:
    """The volumes of the fleet; the coordinator reaches the second provider through a ``SlowControl``."""
    from fleet import VOLUMES as FLEET_VOLUMES
    from slow_control import slowly_reached

    chain.add_volumes(FLEET_VOLUMES)
    with slowly_reached(chain, "files") as made:
        yield made


@pytest.fixture
def database(chain: Chain) -> str:
    """The path of a data base on the small volume one, with one row, that the SQLite writer looks after."""
    chain.add_volumes(VOLUMES[:1])
    path = f"{chain.places['one']}/app.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create table t(x)")
        connection.execute("insert into t values(1)")
        connection.commit()
    chain.module("shadowset.writers.sqlite.main", path)
    wait_for("the writer", lambda: chain.cli("writers"))
    return path


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    return wait_for


@pytest.fixture
def processes_of(chain: Chain) -> Callable[[], list[int]]:
    """Those whose command line names the installation."""
    return lambda: processes_with(chain.runtime)


@pytest.fixture
def loops() -> Callable[..., list[str]]:
    return loops_made_with


SHOWN: list[str] = []


@pytest.fixture
def show() -> Callable[[str], None]:
    """Text for the end of the run, also when the test passes."""
    return SHOWN.append


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for text in SHOWN:
        terminalreporter.write_line(text)
