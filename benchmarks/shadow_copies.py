"""What shadow copies cost: figures of our own provider against itself, each a ratio within one run.

    python -m benchmarks.shadow_copies [--output DIR]

Writes a table (shadow_copies.md). fio drives the live volume over NBD, 4 KiB at queue depth 16 unless said.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

from benchmarks.nbd_servers import PEERS, SIZE, fio, serving
from shadowset.nbd_provider.store.reader import CopyReader, list_copies
from shadowset.vss import provider_protocol as m
from shadowset.vss.wire import FrameDecoder, encode

OURS = PEERS[0]
RANDOM_WRITE = ["--rw=randwrite", "--bs=4k"]
ROUNDS = 3


class Control:
    """A control connection."""

    def __init__(self, directory: str) -> None:
        import socket

        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(f"{directory}/control")
        self._decoder: FrameDecoder[m.FromProvider] = FrameDecoder(m.FromProvider)
        self._seq = 0

    def send(self, kind: type[m.ToProvider], **fields: object) -> None:
        """Ask."""
        self._seq += 1
        self._sock.sendall(encode(kind(seq=self._seq, **fields)))  # type: ignore[arg-type]

    def answer(self) -> m.FromProvider:
        """Wait for one answer."""
        while True:
            for answer in self._decoder.feed(self._sock.recv(1 << 20)):
                return answer

    def call(self, kind: type[m.ToProvider], **fields: object) -> m.FromProvider:
        """Ask and wait."""
        self.send(kind, **fields)
        return self.answer()

    def cut(self) -> str:
        """One auto-release copy."""
        copy = str(uuid4())
        self.call(m.Hold)
        self.call(m.Commit, copy_id=copy, set_id=copy, created_ns=time.time_ns())
        self.call(m.Release)
        self.call(m.Finish, copy_id=copy)
        return copy


def median_ratio(first: Callable[[], float], second: Callable[[], float]) -> tuple[float, float]:
    """Medians of alternating runs of two measurements."""
    pairs = [(first(), second()) for _ in range(ROUNDS)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def many_copies() -> Iterator[tuple[str, str]]:
    """Random write with 512 copies beside one, and reading the oldest beside the newest."""
    with serving(OURS) as one, serving(OURS) as many:
        Control(one).cut()
        control = Control(many)
        for _ in range(512):
            control.cut()
            fio(many, 0, "--rw=randwrite", "--bs=4k", "--number_ios=64", f"--randseed={time.time_ns() % 10**6}")
        for directory in (one, many):
            fio(directory, 0, *RANDOM_WRITE)
        first, second = median_ratio(lambda: fio(one, 3, *RANDOM_WRITE), lambda: fio(many, 3, *RANDOM_WRITE))
        yield "512 copies / one copy, random write of copied chunks", f"{second / first:.2f}"
        entries = list_copies(f"{many}/storage")
        readers = [CopyReader(f"{many}/storage", f"{many}/image", e.copy_id) for e in (entries[0], entries[-1])]
        oldest, newest = median_ratio(lambda: scan(readers[0]), lambda: scan(readers[1]))
        yield "oldest of 512 copies / newest, sequential read", f"{oldest / newest:.2f}"
        origin = readers[1]
        live, copy = median_ratio(lambda: fio(many, 3, "--rw=read", "--bs=256k"), lambda: scan(origin) * 4)
        yield "sequential read of a copy in process / of the origin through the server", f"{copy / live:.2f}"


def scan(reader: CopyReader) -> float:
    """Mebibytes per second of reading a copy from end to end."""
    started = time.monotonic()
    for offset in range(0, reader.size, 1 << 20):
        reader.read(offset, 1 << 20)
    return (reader.size >> 20) / (time.monotonic() - started)


def first_touch() -> Iterator[tuple[str, str]]:
    """Second pass beside no copy at all, and bytes copied for bytes first touched."""
    with serving(OURS) as none, serving(OURS) as some:
        control = Control(some)
        control.cut()
        fio(some, 0, "--rw=randwrite", "--bs=4k", "--number_ios=2000")
        copied = sum(path.stat().st_blocks * 512 for path in Path(f"{some}/storage/segments").iterdir())
        yield "bytes copied / bytes first touched, 2000 random writes", f"{copied / (2000 * 4096):.2f}"
        fio(some, 0, *RANDOM_WRITE)
        without, second = median_ratio(lambda: fio(none, 3, *RANDOM_WRITE), lambda: fio(some, 3, *RANDOM_WRITE))
        yield "second pass over the same blocks / no copy at all", f"{second / without:.2f}"


def hold_times() -> Iterator[tuple[str, str]]:
    """A cut of eight volumes under random write load: hold to release, slowest of 100 but one."""
    with contextlib.ExitStack() as stack:
        directories = [stack.enter_context(serving(OURS)) for _ in range(8)]
        controls = [Control(directory) for directory in directories]
        command = [
            "fio",
            "--name=load",
            "--ioengine=nbd",
            "--iodepth=16",
            "--time_based",
            "--runtime=60",
            *RANDOM_WRITE,
        ]
        loads = [
            subprocess.Popen(
                [*command, f"--size={SIZE}", f"--uri=nbd+unix:///vol?socket={d}/nbd.sock", f"--aux-path={d}"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for d in directories
        ]  # fmt: skip
        time.sleep(2)
        times = []
        for _ in range(100):
            copies = [str(uuid4()) for _ in controls]
            started = time.monotonic()
            for kind, fields in ((m.Hold, {}), (m.Commit, {"created_ns": 1}), (m.Release, {})):
                for control, copy in zip(controls, copies, strict=True):
                    extra = {"copy_id": copy, "set_id": copy, **fields} if kind is m.Commit else {}
                    control.send(kind, **extra)  # type: ignore[arg-type]
                for control in controls:
                    control.answer()
            times.append((time.monotonic() - started) * 1000)
            for control, copy in zip(controls, copies, strict=True):
                control.call(m.Delete, copy_id=copy)
        for load in loads:
            load.terminate()
            load.wait()
        times.sort()
        yield "hold of 8 volumes under load on this machine, ms: median, p99", f"{times[50]:.1f}, {times[98]:.1f}"


def huge_volume() -> Iterator[tuple[str, str]]:
    """Memory and time to open the storage of a 64 TiB sparse volume with 512 copies."""
    with tempfile.TemporaryDirectory(prefix="ss-bench-", dir="/var/tmp") as directory:
        script = """
import os, resource, sys, time
from uuid import uuid4
from shadowset.nbd_provider.store.writer import ShadowStore
directory, rounds = sys.argv[1], int(sys.argv[2])
fd = os.memfd_create("origin")
os.ftruncate(fd, 64 << 40)
started = time.monotonic()
store = ShadowStore(directory, fd, 64 << 40)
opened = time.monotonic() - started
for _ in range(rounds):
    store.commit(uuid4(), uuid4(), 1, False)
    store.prepare_write([(os.urandom(1)[0] << 34, 4096)])
print(opened, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
os._exit(0)
"""
        for rounds in ("512", "0"):
            command = [sys.executable, "-c", script, f"{directory}/storage", rounds]
            opened, memory = subprocess.check_output(command, text=True).split()
        yield "64 TiB, 512 copies: seconds to open, resident MiB", f"{float(opened):.3f}, {float(memory):.0f}"


def latency() -> Iterator[tuple[str, str]]:
    """p99 of a live random write while another process reads a copy at full speed, beside none reading."""
    with serving(OURS) as directory:
        copy = Control(directory).cut()
        fio(directory, 0, *RANDOM_WRITE)
        alone = statistics.median(p99(directory) for _ in range(ROUNDS))
        stop = threading.Event()
        source = (
            "import sys\nfrom uuid import UUID\nfrom shadowset.nbd_provider.store.reader import CopyReader\n"
            "r = CopyReader(sys.argv[1] + '/storage', sys.argv[1] + '/image', UUID(sys.argv[2]))\n"
            "while True:\n    for o in range(0, r.size, 1 << 20):\n        r.read(o, 1 << 20)\n"
        )
        reader = subprocess.Popen([sys.executable, "-c", source, directory, copy])
        try:
            beside = statistics.median(p99(directory) for _ in range(ROUNDS))
        finally:
            stop.set()
            reader.kill()
            reader.wait()
        yield "live random-write p99 while a copy is read / alone", f"{beside / alone:.2f}"


def p99(directory: str) -> float:
    """Completion latency in microseconds."""
    import json

    uri = f"nbd+unix:///vol?socket={directory}/nbd.sock"
    command = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", "--iodepth=16", f"--size={SIZE}", *RANDOM_WRITE]
    command += ["--time_based", "--runtime=4", "--output-format=json", f"--aux-path={directory}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    return float(job["write"]["clat_ns"]["percentile"]["99.000000"]) / 1000


def main() -> int:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=str(Path(__file__).parent / "results"))
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    lines = ["| what | figure |", "|---|---|"]
    for part in (first_touch, many_copies, hold_times, huge_volume, latency):
        for name, value in part():
            print(f"{name}: {value}", file=sys.stderr)
            lines.append(f"| {name} | {value} |")
    os.makedirs(options.output, exist_ok=True)
    Path(f"{options.output}/shadow_copies.md").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
