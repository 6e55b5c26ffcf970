"""The servers that are measured, each run on a fresh image file of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from shadowset.nbd_provider.listening import answers

SIZE = 512 << 20
DIRECTORY = "/var/tmp"
PRIORITY = ("nice", "-n", "-10")
"""The provider takes this priority by itself, so all that stand beside it are given it."""


@dataclass(frozen=True)
class Server:
    """A server of one image file on a Unix socket; ``{image}``, ``{socket}``, ``{dir}``, ``{size}`` stand in."""

    name: str
    command: list[str]
    prepare: list[str] = field(default_factory=list)

    @property
    def installed(self) -> bool:
        """Whether its program is there."""
        return shutil.which(self.command[0]) is not None


@dataclass(frozen=True)
class Served:
    """A running server: its directory, image, and the socket on which it serves the export ``vol``."""

    directory: str
    image: str
    socket: str


OURS = Server(
    "shadowset",
    [sys.executable, "-m", "shadowset.nbd_provider.main", "vol", "--origin", "{image}", "--storage", "{dir}/storage",
     "--nbd", "{socket}", "--control", "{dir}/control", "--losses", "{dir}/losses", "--log-level", "error"],
)  # fmt: skip
QEMU_EXPORT = ["--nbd-server", "addr.type=unix,addr.path={socket}"]
PLAIN = [
    Server("nbdkit file", ["nbdkit", "-f", "-U", "{socket}", "-e", "vol", "file", "{image}"]),
    Server(
        "qemu-nbd",
        ["qemu-nbd", "-f", "raw", "-x", "vol", "-k", "{socket}", "-t", "-e", "8", "--cache=writeback", "{image}"],
    ),
    Server(
        "qemu-storage-daemon",
        ["qemu-storage-daemon", "--blockdev", "driver=file,node-name=live,filename={image}", *QEMU_EXPORT,
         "--export", "type=nbd,id=vol,node-name=live,name=vol,writable=on"],
    ),
]  # fmt: skip
NOTHING = Server("nbdkit null", ["nbdkit", "-f", "-U", "{socket}", "-e", "vol", "null", "{size}"])
"""Takes writes and does nothing with them: how fast the client can be."""
COPY_BEFORE_WRITE = Server(
    "qemu-storage-daemon copy-before-write",
    ["qemu-storage-daemon", "--blockdev", "driver=file,node-name=live,filename={image}",
     "--blockdev", "driver=qcow2,node-name=store,file.driver=file,file.filename={dir}/store.qcow2",
     "--blockdev", "driver=copy-before-write,node-name=cbw,file=live,target=store", *QEMU_EXPORT,
     "--export", "type=nbd,id=vol,node-name=cbw,name=vol,writable=on"],
    prepare=["qemu-img", "create", "-q", "-f", "qcow2", "{dir}/store.qcow2", "{size}"],
)  # fmt: skip
COW_FILTER = Server("nbdkit cow", ["nbdkit", "-f", "-U", "{socket}", "-e", "vol", "--filter=cow", "file", "{image}"])


def installed(servers: Sequence[Server]) -> list[Server]:
    """Those whose programs are there. Errors: RuntimeError when there is none."""
    found = [server for server in servers if server.installed]
    for server in servers:
        if server not in found:
            print(f"not installed, left out: {server.command[0]}", file=sys.stderr)
    if not found:
        raise RuntimeError("no other server is installed to compare with; make bench installs them")
    return found


@contextlib.contextmanager
def serving(server: Server, size: int = SIZE) -> Iterator[Served]:
    """Run a server on an image of ``size`` bytes; all of it is gone afterwards. Errors: RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="ss-bench-", dir=DIRECTORY) as directory:
        served = Served(directory, f"{directory}/image", f"{directory}/nbd.sock")
        make_image(served.image, size)
        values = {"image": served.image, "socket": served.socket, "dir": directory, "size": size}
        if server.prepare:
            subprocess.run([word.format(**values) for word in server.prepare], check=True)
        with process([*PRIORITY, *(word.format(**values) for word in server.command)], served.socket):
            yield served


@contextlib.contextmanager
def serving_copies(served: Served) -> Iterator[str]:
    """Run ``shadowset-export`` over a volume of ours; yields its socket, where copies are exports named by their id."""
    path = f"{served.directory}/copies.sock"
    command = [sys.executable, "-m", "shadowset.nbd_provider.export", "--log-level", "error"]
    command += ["--storage", f"{served.directory}/storage", "--origin", served.image, "--nbd", path]
    with process([*PRIORITY, *command], path):
        yield path


def make_image(path: str, size: int) -> None:
    """A file of random bytes, so that no server profits from zeros, written out before anything is measured.

    In pieces of 4 KiB: Linux caches a file in pieces as large as they were written, and ext4 looks at each block of a
    piece at each write into it, so after writes of 1 MiB every server would be measured by that.
    """
    block = os.urandom(1 << 20)
    with open(path, "wb", buffering=0) as file:
        for start in range(0, size, 4096):
            file.write(block[start % len(block) : start % len(block) + 4096])
        os.fsync(file.fileno())


@contextlib.contextmanager
def process(command: list[str], path: str = "") -> Iterator[None]:
    """Run a program and end it; with ``path``, wait until it listens on that socket. Errors: RuntimeError."""
    with tempfile.TemporaryFile() as log:  # noise while it works, as of the probe's broken connection
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            if path and not listens(path, running):
                log.seek(0)
                raise RuntimeError(f"{command[0]} does not serve {path}: {log.read().decode(errors='replace').strip()}")
            yield
        finally:
            end(running)


def end(running: subprocess.Popen[bytes]) -> None:
    """Ask a program to end, and make it when it does not."""
    running.terminate()
    try:
        running.wait(10)
    except subprocess.TimeoutExpired:
        print(f"{running.args!r} does not end and is killed", file=sys.stderr)
    finally:
        running.kill()
        running.wait()


def listens(path: str, running: subprocess.Popen[bytes]) -> bool:
    """Whether the server comes to listen."""
    limit = time.monotonic() + 20
    while time.monotonic() < limit and running.poll() is None:
        if answers(path):
            return True
        time.sleep(0.02)
    return False
