"""What shadow copies cost: our provider beside itself, with and without them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.load import (
    RANDOM_WRITE,
    SEQUENTIAL_READ,
    Control,
    fio,
    fio_command,
    speed,
    speed_once,
)
from benchmarks.row import Plan, Row, medians, ratio
from benchmarks.servers import OURS, SIZE, Served, process, serving, serving_copies

FEW_WRITES = 4000
"""Enough that the slots which a growth takes ahead, 256 at most, weigh little."""


def second_pass(plan: Plan) -> Iterator[Row]:
    """Writes to blocks whose old data is kept already."""
    with serving(OURS) as none, serving(OURS) as one:
        _cut(one)
        for served in (one, none):
            speed_once(served.socket, RANDOM_WRITE)
        names = {"one copy": one, "no copy": none}
        runs = {name: partial(_settled, served, plan.seconds) for name, served in names.items()}
        yield ratio("random write, second pass / no copy", 0.9, medians(plan.rounds, runs))


def many_copies(plan: Plan) -> Iterator[Row]:
    """Hundreds of copies beside one, and the oldest of them beside the newest."""
    with serving(OURS) as one, serving(OURS) as many:
        _cut(one)
        copies = _cut_under_load(many, plan.copies)
        for served in (one, many):
            speed_once(served.socket, RANDOM_WRITE)
        names = {f"{plan.copies} copies": many, "one copy": one}
        writes = {name: partial(_settled, served, plan.seconds) for name, served in names.items()}
        yield ratio(f"random write, {plan.copies} copies / one copy", 0.9, medians(plan.rounds, writes))
        with serving_copies(many) as path:
            places = {"oldest": copies[0], "newest": copies[-1]}
            reads = {name: partial(speed, path, SEQUENTIAL_READ, plan.seconds, c) for name, c in places.items()}
            what = f"256 KiB sequential read, oldest of {plan.copies} copies / newest"
            yield ratio(what, 0.5, medians(plan.rounds, reads))


def read_copy(plan: Plan) -> Iterator[Row]:
    """A copy of which about an eighth was kept, over NBD, beside its origin over NBD."""
    with serving(OURS) as served:
        copy = _cut(served)
        fio(served.socket, [*RANDOM_WRITE, f"--number_ios={SIZE // 16384 // 8}"])
        os.sync()
        with serving_copies(served) as path:
            runs = {
                "copy": partial(speed, path, SEQUENTIAL_READ, plan.seconds, copy),
                "origin": partial(speed, served.socket, SEQUENTIAL_READ, plan.seconds),
            }
            yield ratio("256 KiB sequential read, copy / origin", 0.9, medians(plan.rounds, runs))


def copied_bytes(plan: Plan) -> Iterator[Row]:
    """What the storage takes for writes of 4 KiB to places not written before, at chunks of 16 KiB."""
    figures = medians(plan.rounds, {"copied bytes": _copied})
    yield Row(
        "bytes copied / bytes first touched, 4 KiB at random", figures["copied bytes"] / (FEW_WRITES * 4096), 4.1,
        most=True, medians={**figures, "first touched": FEW_WRITES * 4096},
    )  # fmt: skip


def _copied() -> float:
    with serving(OURS) as served:
        _cut(served)
        fio(served.socket, [*RANDOM_WRITE, f"--number_ios={FEW_WRITES}"])
        segments = Path(served.directory, "storage", "segments").iterdir()
        return float(sum(path.stat().st_blocks * 512 for path in segments))


def _cut(served: Served) -> str:
    with contextlib.closing(Control(served)) as control:
        return control.cut()


def _settled(served: Served, seconds: int) -> float:
    os.sync()  # no run pays for the writes of the one before
    return speed(served.socket, RANDOM_WRITE, seconds)


def _cut_under_load(served: Served, copies: int) -> list[str]:
    """Copies with some old data each: random writes go on meanwhile, slowly enough that the storage stays small."""
    load = [*RANDOM_WRITE, "--time_based", "--runtime=600", "--rate_iops=1000", "--norandommap"]
    with contextlib.closing(Control(served)) as control, process(fio_command(served.socket, load)):
        made = []
        for _ in range(copies):
            made.append(control.cut())
            time.sleep(0.02)
        return made
