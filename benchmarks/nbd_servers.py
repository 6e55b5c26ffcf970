"""The live NBD export beside nbdkit and qemu-nbd: same file, same fio lines, alternating runs, medians and ratios.

    python -m benchmarks.nbd_servers [--rounds N] [--seconds N] [--output DIR]

Writes a table (nbd_servers.md) and a plot (nbd_servers.svg). The figures of one run compare with each other, not with
those of another run or machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from shadowset.vss import provider_protocol as m
from shadowset.vss.wire import FrameDecoder, encode

SIZE = 512 << 20
LOADS = {
    "4 KiB random read": ["--rw=randread", "--bs=4k"],
    "4 KiB random write": ["--rw=randwrite", "--bs=4k"],
    "256 KiB read": ["--rw=read", "--bs=256k"],
}
FIRST_TOUCH = "4 KiB random write, first touch"
SECOND_PASS = "4 KiB random write, second pass"


@dataclass
class Peer:
    """A server of one image file on a Unix socket; ``{image}``, ``{socket}`` and ``{dir}`` stand for paths."""

    name: str
    program: str
    command: list[str]
    copies: bool = False


PEERS = [
    Peer(
        "shadowset", sys.executable,
        ["-m", "shadowset.nbd_provider.main", "vol", "--origin", "{image}", "--storage", "{dir}/storage",
         "--nbd", "{socket}", "--control", "{dir}/control", "--log-level", "error"],
        copies=True,
    ),
    Peer("nbdkit file", "nbdkit", ["-f", "-U", "{socket}", "-e", "vol", "file", "{image}"]),
    Peer(
        "qemu-nbd", "qemu-nbd",
        ["-f", "raw", "-x", "vol", "-k", "{socket}", "-t", "-e", "8", "--cache=writeback", "{image}"],
    ),
    Peer(
        "qemu-storage-daemon copy-before-write", "qemu-storage-daemon",
        ["--blockdev", "driver=file,node-name=live,filename={image}",
         "--blockdev", "driver=qcow2,node-name=store,file.driver=file,file.filename={dir}/store.qcow2",
         "--blockdev", "driver=copy-before-write,node-name=cbw,file=live,target=store",
         "--nbd-server", "addr.type=unix,addr.path={socket}",
         "--export", "type=nbd,id=vol,node-name=cbw,name=vol,writable=on"],
        copies=True,
    ),
]  # fmt: skip


@contextlib.contextmanager
def serving(peer: Peer) -> Iterator[str]:
    """Run a peer on a fresh image; yields its directory."""
    with tempfile.TemporaryDirectory(prefix="ss-bench-", dir="/var/tmp") as directory:
        image, path = f"{directory}/image", f"{directory}/nbd.sock"
        with open(image, "wb") as file:
            block = os.urandom(1 << 20)
            for _ in range(SIZE >> 20):
                file.write(block)
        if "{dir}/store" in " ".join(peer.command) and peer.program == "qemu-storage-daemon":
            create = ["qemu-img", "create", "-q", "-f", "qcow2", f"{directory}/store.qcow2", str(SIZE)]
            subprocess.run(create, check=True)
        words = [word.format(image=image, socket=path, dir=directory) for word in peer.command]
        with subprocess.Popen([peer.program, *words]) as process:
            try:
                wait_for(path, process)
                yield directory
            finally:
                process.terminate()


def wait_for(path: str, process: subprocess.Popen[bytes]) -> None:
    """Until the server listens. Errors: RuntimeError."""
    for _ in range(1000):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except OSError:
                if process.poll() is not None:
                    break
                time.sleep(0.02)
            else:
                return
    raise RuntimeError(f"{process.args!r} does not serve")


def fio(directory: str, seconds: int, *arguments: str) -> float:
    """Operations per second of one fio run."""
    uri = f"nbd+unix:///vol?socket={directory}/nbd.sock"
    command = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", "--iodepth=16", f"--size={SIZE}"]
    command += ["--output-format=json", f"--aux-path={directory}", *arguments]
    if seconds:
        command += ["--time_based", f"--runtime={seconds}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    return float(job["read"]["iops"] + job["write"]["iops"])


def cut(directory: str) -> None:
    """Make one auto-release copy of our own volume."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{directory}/control")
        copy = str(uuid4())
        calls = [m.Hold(1), m.Commit(2, copy, copy, time.time_ns()), m.Release(3), m.Finish(4, copy)]
        decoder: FrameDecoder[m.FromProvider] = FrameDecoder(m.FromProvider)
        for call in calls:
            sock.sendall(encode(call))
            answers = []
            while not answers:
                answers = decoder.feed(sock.recv(65536))
            if not isinstance(answers[0], m.Done):
                raise RuntimeError(answers[0].message)  # noqa: TRY004 - a refusal, not a wrong type


def measure(peer: Peer, seconds: int) -> dict[str, float]:
    """All loads on one peer, once."""
    figures = {}
    with serving(peer) as directory:
        if peer.name != "qemu-storage-daemon copy-before-write":
            for name, arguments in LOADS.items():
                figures[name] = fio(directory, seconds, *arguments)
    if peer.copies:
        with serving(peer) as directory:
            if peer.name == "shadowset":
                cut(directory)
            once = ["--rw=randwrite", "--bs=4k", "--randrepeat=1"]
            figures[FIRST_TOUCH] = fio(directory, 0, *once)
            figures[SECOND_PASS] = fio(directory, 0, *once)
    return figures


def table(medians: dict[str, dict[str, float]], rounds: int) -> str:
    """Markdown: operations per second, and ours divided by the best other."""
    peers = list(medians)
    rows = [*LOADS, FIRST_TOUCH, SECOND_PASS]
    lines = [f"Medians of {rounds} alternating rounds, operations per second; one connection, queue depth 16.", ""]
    lines += ["| load | " + " | ".join(peers) + " | shadowset / best other |", "|---" * (len(peers) + 2) + "|"]
    for row in rows:
        cells = [f"{medians[peer][row]:,.0f}" if row in medians[peer] else "-" for peer in peers]
        others = [medians[peer][row] for peer in peers if peer != "shadowset" and row in medians[peer]]
        ratio = f"{medians['shadowset'][row] / max(others):.2f}" if others else "-"
        lines.append(f"| {row} | " + " | ".join(cells) + f" | {ratio} |")
    return "\n".join(lines) + "\n"


def plot(medians: dict[str, dict[str, float]], path: str) -> None:
    """Bars of each load, relative to ours."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = [*LOADS, FIRST_TOUCH, SECOND_PASS]
    figure, axis = pyplot.subplots(figsize=(9, 4))
    width = 0.8 / len(medians)
    for index, (peer, figures) in enumerate(medians.items()):
        places = [i + index * width for i, row in enumerate(rows) if row in figures]
        heights = [figures[row] / medians["shadowset"][row] for row in rows if row in figures]
        axis.bar(places, heights, width, label=peer)
    axis.set_xticks([i + 0.4 - width / 2 for i in range(len(rows))], rows, fontsize=7)
    axis.set_ylabel("operations per second, shadowset = 1")
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def main() -> int:
    """Measure all peers that are installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--output", default=str(Path(__file__).parent / "results"))
    options = parser.parse_args()
    peers = [peer for peer in PEERS if shutil.which(peer.program)]
    for peer in PEERS:
        if peer not in peers:
            print(f"not installed, left out: {peer.program}", file=sys.stderr)
    runs: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in peers}
    for number in range(options.rounds):
        for peer in peers:
            print(f"round {number + 1} of {options.rounds}: {peer.name}", file=sys.stderr)
            runs[peer.name].append(measure(peer, options.seconds))
    medians = {
        name: {row: statistics.median(run[row] for run in figures) for row in figures[0]}
        for name, figures in runs.items()
    }
    os.makedirs(options.output, exist_ok=True)
    text = table(medians, options.rounds)
    Path(f"{options.output}/nbd_servers.md").write_text(text)
    plot(medians, f"{options.output}/nbd_servers.svg")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
