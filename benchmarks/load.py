"""What is done to a server: fio runs over NBD, a cold page cache, shadow copies through the control socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from typing import Any
from uuid import uuid4

from benchmarks.servers import Served
from shadowset.vss import provider_protocol as m
from shadowset.vss.wire import FrameDecoder, encode

RANDOM_READ = ["--rw=randread", "--bs=4k"]
RANDOM_WRITE = ["--rw=randwrite", "--bs=4k"]
SEQUENTIAL_READ = ["--rw=read", "--bs=256k"]


def fio_command(path: str, load: list[str], export: str = "vol") -> list[str]:
    """fio on one export: one connection, queue depth 16, each block once."""
    uri = f"nbd+unix:///{export}?socket={path}"
    # A thread instead of a process of its own: whoever ends fio ends all of it.
    command = ["fio", "--name=bench", "--thread", "--ioengine=nbd", f"--uri={uri}", "--iodepth=16", "--randrepeat=1"]
    return [*command, f"--aux-path={os.path.dirname(path)}", "--output-format=json", *load]


def fio(path: str, load: list[str], export: str = "vol") -> dict[str, Any]:
    """One fio run; returns what fio says of reads or of writes. Errors: RuntimeError."""
    done = subprocess.run(fio_command(path, load, export), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"fio {' '.join(load)} fails: {done.stderr.strip() or done.stdout.strip()[-300:]}")
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    side: dict[str, Any] = job["read"] if job["read"]["total_ios"] else job["write"]
    return side


def speed(path: str, load: list[str], seconds: int, export: str = "vol") -> float:
    """Operations per second over so many seconds."""
    return float(fio(path, [*load, "--time_based", f"--runtime={seconds}"], export)["iops"])


def speed_once(path: str, load: list[str], seconds: int = 0) -> float:
    """Operations per second over each block once, or over so many seconds where that is less."""
    return float(fio(path, [*load, f"--runtime={seconds}"] if seconds else load)["iops"])


def p99(path: str, load: list[str], seconds: int) -> float:
    """The 99th percentile of the completion latency in microseconds."""
    figures = fio(path, [*load, "--time_based", f"--runtime={seconds}"])
    return float(figures["clat_ns"]["percentile"]["99.000000"]) / 1000


def make_cold(path: str) -> None:
    """Drop the file from the page cache, and what the kernel keeps about it."""
    os.sync()  # dirty pages stay, and writing them out would burden the run
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")


class Control:
    """A control connection to a provider of ours."""

    def __init__(self, served: Served) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(f"{served.directory}/control")
        self._decoder: FrameDecoder[m.FromProvider] = FrameDecoder(m.FromProvider)
        self._seq = 0

    def send(self, kind: type[m.ToProvider], **fields: object) -> None:
        """Ask."""
        self._seq += 1
        self._sock.sendall(encode(kind(seq=self._seq, **fields)))  # type: ignore[arg-type]

    def answer(self) -> None:
        """Wait for one answer. Errors: RuntimeError when the provider refuses or ends."""
        while data := self._sock.recv(1 << 20):
            for answer in self._decoder.feed(data):
                if isinstance(answer, m.Failed):
                    raise RuntimeError(answer.message)  # noqa: TRY004 - a refusal, not a wrong type
                return
        raise RuntimeError("the provider ended")

    def call(self, kind: type[m.ToProvider], **fields: object) -> None:
        """Ask and wait. Errors: RuntimeError."""
        self.send(kind, **fields)
        self.answer()

    def cut(self) -> str:
        """Make a shadow copy; returns its id."""
        copy = str(uuid4())
        self.call(m.Hold)
        self.call(m.Commit, copy_id=copy, set_id=copy, created_ns=time.time_ns())
        self.call(m.Release)
        self.call(m.Finish, copy_id=copy)
        return copy

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()
