"""What is promised in absolute terms: hold time, memory, opening, the live volume's latency beside a reader."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from uuid import uuid4

from benchmarks.load import RANDOM_WRITE, Control, fio_command, p99, speed_once
from benchmarks.row import Plan, Row, medians, ratio
from benchmarks.servers import DIRECTORY, OURS, Served, process, serving
from shadowset.vss import provider_protocol as m

VOLUMES = 8
HELD_SIZE = 128 << 20


def hold(plan: Plan) -> Iterator[Row]:
    """Cuts of several volumes at once, each under as much random write load as it takes."""
    with contextlib.ExitStack() as stack:
        volumes = [stack.enter_context(serving(OURS, HELD_SIZE)) for _ in range(VOLUMES)]
        controls = [stack.enter_context(contextlib.closing(Control(served))) for served in volumes]
        for served in volumes:
            load = [*RANDOM_WRITE, "--time_based", "--runtime=600"]
            stack.enter_context(process(fio_command(served.socket, load)))
        time.sleep(2)
        times = sorted(_held_ms(controls) for _ in range(plan.cuts))
    what = f"hold of {VOLUMES} volumes under full random write load"
    yield Row(f"{what}, median", statistics.median(times), 50, most=True, unit="ms")
    yield Row(f"{what}, p99", times[int(len(times) * 0.99) - 1], 50, most=True, unit="ms")


def _held_ms(controls: list[Control]) -> float:
    """Cut all at once and delete the copies again; from the first call to hold until the last is released."""
    copies = [str(uuid4()) for _ in controls]
    started = time.monotonic()
    _call_all(controls, m.Hold)
    for control, copy in zip(controls, copies, strict=True):
        control.send(m.Commit, copy_id=copy, set_id=copies[0], created_ns=time.time_ns())
    for control in controls:
        control.answer()
    _call_all(controls, m.Release)
    held = (time.monotonic() - started) * 1000
    for control, copy in zip(controls, copies, strict=True):
        control.call(m.Delete, copy_id=copy)
    return held


def _call_all(controls: list[Control], kind: type[m.ToProvider]) -> None:
    for control in controls:
        control.send(kind)
    for control in controls:
        control.answer()


def huge_volume(plan: Plan) -> Iterator[Row]:
    """A sparse volume of 64 TiB whose storage holds hundreds of copies, opened by a process of its own."""
    runs = [_open_huge(plan.copies) for _ in range(plan.rounds)]
    what = f"64 TiB sparse volume with {plan.copies} copies"
    memory = statistics.median(memory for _, memory in runs)
    yield Row(f"{what}, resident memory", memory, 150, most=True, unit="MiB")
    yield Row(f"{what}, open", statistics.median(seconds for seconds, _ in runs), 1, most=True, unit="s")


def _open_huge(copies: int) -> tuple[float, float]:
    """Seconds to open, and the most MiB that the process took which made the copies or the one that opened them."""
    with tempfile.TemporaryDirectory(prefix="ss-bench-", dir=DIRECTORY) as directory:
        command = [sys.executable, "-m", "benchmarks.huge_volume", f"{directory}/storage"]
        _, made = subprocess.check_output([*command, str(copies)], text=True).split()
        opened, took = subprocess.check_output([*command, "0"], text=True).split()
        return float(opened), max(float(made), float(took))


def latency(plan: Plan) -> Iterator[Row]:
    """The live volume while a process reads a copy as fast as it can."""
    with serving(OURS) as served:
        with contextlib.closing(Control(served)) as control:
            copy = control.cut()
        speed_once(served.socket, RANDOM_WRITE)
        runs = {
            "beside a reader": partial(_beside_reader, served, copy, plan.seconds),
            "alone": partial(p99, served.socket, RANDOM_WRITE, plan.seconds),
        }
        what = "live random write p99 (us) while a copy is read at full speed / alone"
        yield ratio(what, 3, medians(plan.rounds, runs), most=True)


def _beside_reader(served: Served, copy: str, seconds: int) -> float:
    with process([sys.executable, "-m", "benchmarks.copy_reader", served.directory, copy]):
        return p99(served.socket, RANDOM_WRITE, seconds)
