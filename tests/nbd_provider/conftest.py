"""A provider process on an image file, and a client of its control socket."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from shadowset.nbd_provider.listening import answers
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.vss import provider_protocol as m
from shadowset.vss.wire import FrameDecoder, encode

sys.path.append("/usr/lib/python3/dist-packages")

SIZE = 16 << 20


class Control:
    """One connection to the control socket."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(path)
        self._decoder: FrameDecoder[m.FromProvider] = FrameDecoder(m.FromProvider)
        self._seq = 0

    def call(self, kind: type[Any], **fields: Any) -> m.FromProvider:
        self._seq += 1
        self.sock.sendall(encode(kind(seq=self._seq, **fields)))
        while True:
            data = self.sock.recv(65536)
            assert data, "the provider closed the control connection"
            for answer in self._decoder.feed(data):
                assert answer.seq == self._seq
                return answer

    def hear(self) -> m.FromProvider:
        """What comes next without a call."""
        while True:
            for message in self._decoder.feed(self.sock.recv(65536)):
                return message

    def value(self, kind: type[Any], **fields: Any) -> Any:
        answer = self.call(kind, **fields)
        assert isinstance(answer, m.Done), answer
        return answer.value

    def snapshot(self, persistent: bool = False) -> str:
        copy = str(uuid4())
        self.value(m.Hold)
        self.value(m.Commit, copy_id=copy, set_id=str(uuid4()), created_ns=time.time_ns(), persistent=persistent)
        self.value(m.Release)
        self.value(m.Finish, copy_id=copy)
        return copy

    def close(self) -> None:
        self.sock.close()


class Provider:
    """``shadowset-provider`` as a child process; ``kill`` and ``start`` again as a crash and a restart."""

    def __init__(self, directory: str, size: int = SIZE) -> None:
        self.directory = directory
        self.origin = f"{directory}/origin.img"
        self.storage = f"{directory}/storage"
        self.nbd = f"{directory}/nbd.sock"
        self.control_socket = f"{directory}/control.sock"
        self.size = size
        with open(self.origin, "wb") as file:
            file.truncate(size)
        self.process: subprocess.Popen[bytes] | None = None
        self._helpers: list[subprocess.Popen[bytes]] = []

    @property
    def uri(self) -> str:
        return f"nbd+unix:///vol?socket={self.nbd}"

    def start(self) -> None:
        self.process = self._spawn(
            "shadowset.nbd_provider.main", "vol", "--origin", self.origin, "--storage", self.storage,
            "--nbd", self.nbd, "--control", self.control_socket, "--losses", f"{self.directory}/losses",
        )  # fmt: skip
        wait_for_socket(self.process, self.control_socket)

    def _spawn(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        with open(f"{self.directory}/log", "ab") as log:
            return subprocess.Popen([sys.executable, "-m", module, *arguments], stderr=log)

    def log(self) -> str:
        return Path(f"{self.directory}/log").read_text()

    def control(self) -> Control:
        return Control(self.control_socket)

    def content(self, copy: str) -> bytes:
        """All bytes of a copy, read beside the provider."""
        reader = CopyReader(self.storage, self.origin, UUID(copy))
        try:
            return reader.read(0, reader.size)
        finally:
            reader.close()

    def export(self) -> str:
        """Start ``shadowset-export``; returns its socket."""
        path = f"{self.directory}/export.sock"
        process = self._spawn(
            "shadowset.nbd_provider.export", "--storage", self.storage, "--origin", self.origin, "--nbd", path
        )
        self._helpers.append(process)
        wait_for_socket(process, path)
        return path

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def close(self) -> None:
        for process in [*self._helpers, self.process]:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(10)


def wait_for_socket(process: subprocess.Popen[bytes], path: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the process ended with {process.returncode} before it listened on {path}"
        if answers(path):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on {path}")


@pytest.fixture
def workdir() -> Iterator[str]:
    directory = tempfile.mkdtemp(prefix="ss-nbd-", dir="/var/tmp")  # a disk, not memory: holes and RWF_NOWAIT
    yield directory
    shutil.rmtree(directory)


class PatchedProvider(Provider):
    """A provider whose process runs ``code`` first; its last argument is the path of a flag for that code."""

    def __init__(self, directory: str, code: str, flag: str) -> None:
        super().__init__(directory)
        self._code, self.flag = textwrap.dedent(code), Path(flag)
        Path(self.origin).write_bytes(os.urandom(self.size))

    def _spawn(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        if not module.endswith("main"):
            return super()._spawn(module, *arguments)
        with open(f"{self.directory}/log", "ab") as log:
            return subprocess.Popen([sys.executable, "-c", self._code, *arguments, str(self.flag)], stderr=log)


@pytest.fixture
def patched_provider(workdir: str) -> Iterator[Callable[[str], PatchedProvider]]:
    """Start one with this code."""
    made: list[PatchedProvider] = []

    def start(code: str) -> PatchedProvider:
        made.append(PatchedProvider(workdir, code, f"{workdir}/flag"))
        made[-1].start()
        return made[-1]

    yield start
    for each in made:
        each.close()
        assert "Traceback" not in each.log()


@pytest.fixture
def provider(workdir: str) -> Iterator[Provider]:
    made = Provider(workdir)
    made.start()
    yield made
    made.close()
    assert "Traceback" not in made.log()


def need(*programs: str) -> None:
    """Skip when a program is not there, naming it."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture
def nbd_module() -> Any:
    return pytest.importorskip("nbd", reason="not installed: python3-libnbd")


@pytest.fixture
def tools() -> Any:
    return need


@pytest.fixture
def random_image(provider: Provider) -> bytes:
    content = os.urandom(provider.size)
    Path(provider.origin).write_bytes(content)
    return content


@pytest.fixture
def provider_class() -> type[Provider]:
    return Provider


def _openssl(*arguments: str, directory: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=60)


def authority(directory: str, name: str) -> None:
    _openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-keyout", f"{name}-key.pem", "-out", f"{name}-cert.pem", "-subj", f"/CN={name}",
        "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign,cRLSign",
        directory=directory,
    )  # fmt: skip


def issue(directory: str, signer: str, name: str, usage: str, dns: str = "localhost") -> None:
    _openssl(
        "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", f"{name}-key.pem", "-out", f"{name}.csr", "-subj", f"/CN={name}", directory=directory,
    )  # fmt: skip
    Path(f"{directory}/{name}.ext").write_text(
        f"subjectAltName=DNS:{dns},IP:127.0.0.1\nextendedKeyUsage={usage}\nkeyUsage=digitalSignature\n"
    )
    _openssl(
        "x509", "-req", "-in", f"{name}.csr", "-CA", f"{signer}-cert.pem", "-CAkey", f"{signer}-key.pem",
        "-CAcreateserial", "-days", "2", "-out", f"{name}-cert.pem", "-extfile", f"{name}.ext", directory=directory,
    )  # fmt: skip


@pytest.fixture
def certificates() -> SimpleNamespace:
    """``authority(directory, name)`` and ``issue(directory, signer, name, usage, dns)``: NAME-cert.pem and -key.pem."""
    need("openssl")
    return SimpleNamespace(authority=authority, issue=issue)
