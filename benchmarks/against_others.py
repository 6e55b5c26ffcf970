"""Our provider beside other NBD servers: the same images, the same fio lines, in turn within each round."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.load import RANDOM_READ, RANDOM_WRITE, SEQUENTIAL_READ, Control, make_cold, speed, speed_once
from benchmarks.row import Plan, Row, medians, ratio
from benchmarks.servers import COPY_BEFORE_WRITE, COW_FILTER, NOTHING, OURS, PLAIN, Served, Server, installed, serving

LOADS = {"random read": RANDOM_READ, "random write": RANDOM_WRITE, "256 KiB sequential read": SEQUENTIAL_READ}
Run = Callable[[Served, list[str], int], float]


def warm(plan: Plan) -> Iterator[Row]:
    """No copy, everything in the page cache."""
    yield from _plain(plan, "no copy, warm", 1.3, _warm_run)


def cold(plan: Plan) -> Iterator[Row]:
    """No copy, nothing in the page cache; no block is asked for twice, as the second time it would be warm.

    A turn of each before the rounds does not count: whoever is first would wait for what the disk has to do still.
    """
    yield from _plain(plan, "no copy, cold", 1.0, _cold_run, settle=True)


def _warm_run(served: Served, load: list[str], seconds: int) -> float:
    os.sync()  # no run pays for the writes of the one before
    return speed(served.socket, load, seconds)


def _cold_run(served: Served, load: list[str], seconds: int) -> float:
    make_cold(served.image)
    return speed_once(served.socket, load, seconds)


def _plain(plan: Plan, state: str, bar: float, run: Run, settle: bool = False) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        compared = [OURS, *installed(PLAIN)]
        running = {s.name: stack.enter_context(serving(s)) for s in [*compared, *installed([NOTHING])]}
        for name, load in LOADS.items():
            servers = running if load is RANDOM_WRITE else [s.name for s in compared]
            runs = {server: partial(run, running[server], load, plan.seconds) for server in servers}
            if settle:
                medians(1, runs)
            figures = medians(plan.rounds, runs)
            row = ratio(f"{name}, {state} / best other server", bar, {s.name: figures[s.name] for s in compared})
            yield dataclasses.replace(row, medians=figures)


def first_touch(plan: Plan) -> Iterator[Row]:
    """Each block written once, at random, so that all old data has to be kept; a fresh image for each run."""
    installed([COPY_BEFORE_WRITE])
    servers = [OURS, *installed([COPY_BEFORE_WRITE, COW_FILTER])]
    figures = medians(plan.rounds, {server.name: partial(_first_touch, server) for server in servers})
    what = "random write, first touch with one copy / qemu copy-before-write"
    yield Row(what, figures[OURS.name] / figures[COPY_BEFORE_WRITE.name], 1.2, medians=figures)


def _first_touch(server: Server) -> float:
    with serving(server) as served:
        if server is OURS:
            with contextlib.closing(Control(served)) as control:
                control.cut()
        return speed_once(served.socket, RANDOM_WRITE)
