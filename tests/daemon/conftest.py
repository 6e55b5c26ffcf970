"""A coordinator with fake providers on real image files, a raw requester, and writers that do as they are told."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shadowset.vss import requester_protocol as rp
from shadowset.vss import writer_protocol as wp
from shadowset.vss.codes import VssError
from shadowset.vss.enums import BackupType, ComponentType, Level, WriterEvent
from shadowset.vss.metadata import ComponentInfo, FileSet, WriterMetadata
from shadowset.vss.paths import Paths
from shadowset.vss.wire import FrameDecoder, encode

HERE = Path(__file__).parent
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
WAIT_S = 30.0


def wait_until(condition: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


class Requester:
    """One connection that sends raw calls."""

    def __init__(self, path: str, hello: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.decoder: FrameDecoder[Any] = FrameDecoder(rp.FromCoordinator)
        self.answers: dict[int, Any] = {}
        self.notices: list[rp.Notice] = []
        self.seq = 0
        if hello:
            self.call(rp.ServiceHello)

    def send(self, kind: Any, *arguments: Any, **named: Any) -> int:
        self.seq += 1
        self.socket.sendall(encode(kind(self.seq, *arguments, **named)))
        return self.seq

    def answer(self, seq: int) -> Any:
        while seq not in self.answers:
            self.hear()
        return self.answers.pop(seq)

    def hear(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the coordinator closed the connection")
        for message in self.decoder.feed(data):
            if isinstance(message, rp.Notice):
                self.notices.append(message)
            else:
                self.answers[message.seq] = message

    def places(self, count: int) -> list[int]:
        """How many sets were ahead, by the first ``count`` notices."""
        while len(self.notices) < count:
            self.hear()
        return [notice.total for notice in self.notices]

    def call(self, kind: Any, *arguments: Any, **named: Any) -> Any:
        return self.result(self.send(kind, *arguments, **named), kind)

    def result(self, seq: int, kind: Any) -> Any:
        answer = self.answer(seq)
        if isinstance(answer, rp.CallFailure):
            raise VssError(answer.code, answer.message, answer.application_code)
        if kind in rp.RESULTS:
            return msgspec.convert(answer.value, rp.RESULTS[kind])
        assert answer.value is None
        return None

    def close(self) -> None:
        self.socket.close()


class FakeWriter:
    """A writer in a thread. ``on[event]`` is called with the event and may return a Reply, or None for no answer."""

    def __init__(self, path: str, name: str = "Test writer", level: Level = Level.FRONT_END, **hello: Any) -> None:
        self.writer_id = hello.pop("writer_id", str(uuid.uuid4()))
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.decoder: FrameDecoder[Any] = FrameDecoder(wp.ToWriter)
        self.on: dict[str, Callable[[wp.Event], wp.Reply | None]] = {}
        self.events: list[tuple[str, float]] = []
        self.seen: list[wp.Event] = []
        self.name, self.level = name, level
        self.waiting: list[Any] = []
        self.socket.sendall(encode(wp.Hello(self.writer_id, name, level=level, **hello)))
        self.first = self.receive()
        self.instance_id = getattr(self.first, "instance_id", "")
        if isinstance(self.first, wp.Welcome):
            threading.Thread(target=self.serve, daemon=True).start()

    def receive(self) -> Any:
        while not self.waiting:
            data = self.socket.recv(1 << 20)
            if not data:
                return None
            self.waiting += self.decoder.feed(data)
        return self.waiting.pop(0)

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while (event := self.receive()) is not None:
                self.events.append((event.event.value, time.monotonic()))
                self.seen.append(event)
                handler = self.on.get(event.event.value, self.default)
                reply = handler(event)
                if reply is not None:
                    self.send(reply)

    def send(self, reply: wp.Reply) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendall(encode(reply))

    def default(self, event: wp.Event) -> wp.Reply:
        if event.event is WriterEvent.IDENTIFY:
            return wp.Reply(event.seq, metadata=self.metadata())
        return wp.Reply(event.seq)

    def metadata(self) -> WriterMetadata:
        component = ComponentInfo(ComponentType.FILEGROUP, "data", files=(FileSet("/data", "*"),))
        return WriterMetadata(self.writer_id, self.instance_id, self.name, level=self.level, components=(component,))

    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Host:
    """A coordinator process with its directories, volumes and clients; ``clean_up`` removes all of it."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="ss-", dir="/tmp"))
        self.paths = Paths(str(self.base / "run"), str(self.base / "state"), str(self.base / "etc"))
        self.process: subprocess.Popen[bytes] | None = None
        self.clients: list[Any] = []
        self.mounts: list[str] = []
        self.loops: list[str] = []
        self.options: list[str] = []
        self.log = self.base / "daemon.log"

    until = staticmethod(wait_until)

    # ---- the daemon ----

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "SHADOWSET_RUNTIME_DIR": self.paths.runtime,
            "SHADOWSET_STATE_DIR": self.paths.state,
            "SHADOWSET_CONFIG_DIR": self.paths.config,
            "SHADOWSET_PROVIDER_COMMAND": f"{sys.executable} {HERE}/fake_provider.py",
            "SHADOWSET_ATTACH_COMMAND": f"{sys.executable} {HERE}/fake_attach.py",
            "SHADOWSET_FUSE_COMMAND": f"{sys.executable} {HERE}/fake_fuse.py",
        }

    def start(self, *options: str) -> None:
        self.options = list(options) or self.options
        self.process = self.spawn()
        wait_until(self.answers, f"the daemon; its log: {self.log.read_text()}")

    def spawn(self) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            command = [sys.executable, "-m", "shadowset.daemon.main", "--log-level", "debug", *self.options]
            return subprocess.Popen(command, env=self.environment(), stderr=log)

    def answers(self) -> bool:
        assert self.process and self.process.poll() is None, self.log.read_text()
        try:
            Requester(self.paths.requester_socket).close()
        except (OSError, ConnectionError):
            return False
        return True

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            assert self.process.wait(WAIT_S) == 0, self.log.read_text()
            self.process = None

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()
        self.process = None

    # ---- clients ----

    def requester(self, hello: bool = True) -> Requester:
        client = Requester(self.paths.requester_socket, hello)
        self.clients.append(client)
        return client

    def writer(self, *arguments: Any, **named: Any) -> FakeWriter:
        client = FakeWriter(self.paths.writer_socket, *arguments, **named)
        self.clients.append(client)
        return client

    # ---- volumes ----

    def image(self, name: str, file_system: str = "ext4", size: str = "") -> str:
        path = self.base / f"{name}.img"
        with open(path, "wb") as file:
            file.truncate(320 << 20 if file_system == "xfs" else 16 << 20)
        if file_system:
            subprocess.run([f"mkfs.{file_system}", "-q", str(path)], check=True)
        return str(path)

    def storage(self, name: str) -> str:
        return str(self.base / f"{name}.store")

    def volume(self, name: str, file_system: str = "ext4", mounted: bool = True) -> str:
        """Add, attach and mount; the mount point."""
        requester = self.requester()
        requester.call(rp.VolumeAdd, name, self.image(name, file_system), self.storage(name))
        device = requester.call(rp.VolumeAttach, name).device
        self.loops.append(device)
        place = str(self.base / "mnt" / name)
        if mounted:
            os.makedirs(place)
            subprocess.run(["mount", device, place], check=True)
            self.mounts.append(place)
        requester.close()
        return place

    def faults(self, volume: str, **faults: Any) -> None:
        path = f"{self.storage(volume)}/faults.json"
        with open(path + ".new", "w") as file:
            json.dump(faults, file)
        os.rename(path + ".new", path)

    def provider_pid(self, volume: str) -> int:
        requester = self.requester()
        infos = {info.name: info for info in requester.call(rp.VolumeList)}
        requester.close()
        return int(infos[volume].pid)

    @staticmethod
    def is_frozen(place: str) -> bool:
        """By trying to freeze it: busy when it is."""
        descriptor = os.open(place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FIFREEZE, 0)
            fcntl.ioctl(descriptor, FITHAW, 0)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def guardians(self) -> list[int]:
        """Guardian processes whose parent is, or was, this host's daemon: by the mount roots that they hold."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and b"daemon/guardian.py" in (entry / "cmdline").read_bytes():
                    roots = [os.readlink(link) for link in (entry / "fd").iterdir()]
                    if any(root.startswith(f"{self.base}/") for root in roots):
                        found.append(int(entry.name))
            except OSError:
                continue
        return found

    # ---- the end ----

    def clean_up(self) -> None:
        for client in self.clients:
            client.close()
        if self.process:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid in self.own_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for line in Path("/proc/self/mountinfo").read_text().splitlines()[::-1]:
            place = line.split(" ")[4]
            if place.startswith(f"{self.base}/"):
                subprocess.run(["fsfreeze", "--unfreeze", place], capture_output=True, check=False)
                subprocess.run(["umount", "--lazy", place], check=False)
        for device in self.loops:
            backing = Path(f"/sys/block/{device[5:]}/loop/backing_file")
            if backing.exists() and backing.read_text().startswith(f"{self.base}/"):
                subprocess.run(["losetup", "--detach", device], check=False)
        shutil.rmtree(self.base, ignore_errors=True)

    def own_processes(self) -> list[int]:
        """Providers and device layers of this host: all that name its directory as an argument."""
        found = []
        mark = os.fsencode(str(self.base) + "/")
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found


@pytest.fixture
def host() -> Iterator[Host]:
    if os.geteuid() != 0:
        pytest.skip("needs root: the coordinator mounts and freezes file systems")
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("needs loop devices")
    made = Host()
    try:
        yield made
    finally:
        made.clean_up()


class Backup:
    """A backup up to a chosen point."""

    def __init__(self, host: Host, volumes: list[str], context: int = 0, components: bool = True) -> None:
        self.host = host
        self.requester = r = host.requester()
        self.session = r.call(rp.InitializeForBackup)
        r.call(rp.SetContext, context)
        r.call(rp.SetBackupState, components, False, BackupType.FULL)
        self.writers: bool = not context & 0x10
        if self.writers:
            self.metadata = r.call(rp.GatherWriterMetadata)
            for each in self.metadata if components else ():
                r.call(rp.AddComponent, each.writer_id, each.instance_id, ComponentType.FILEGROUP, "", "data")
        self.set_id = r.call(rp.StartSnapshotSet)
        self.ids = [r.call(rp.AddToSnapshotSet, volume) for volume in volumes]

    def prepare(self) -> Backup:
        if self.writers:
            self.requester.call(rp.PrepareForBackup)
        return self

    def make(self) -> Any:
        return self.requester.call(rp.DoSnapshotSet)

    def status(self) -> dict[str, Any]:
        return {each.name: each for each in self.requester.call(rp.GatherWriterStatus)}


@pytest.fixture
def backup(host: Host) -> Callable[..., Backup]:
    return lambda volumes, **named: Backup(host, volumes, **named)
