"""The search: every state that can be reached with a given number of deviations from what is expected.

A state is reached by running the coordinator's code anew along a list of moves, since coroutines cannot be copied. The
first move of each state is the expected one and costs nothing; every other one is a deviation: a refusal, a loss, a
late or double answer, an answer out of turn, a change of mind, time that passes. States that look the same are gone on
with once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from model_world import Setting, World

LONGEST = 400


@dataclass
class Found:
    """How much was looked at; ``violation`` is empty, or a sentence and the moves that lead to it."""

    states: int = 0
    moves: int = 0
    runs: int = 0
    ends: int = 0
    violation: str = ""
    trace: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.states} states, {self.moves} moves, {self.runs} runs, {self.ends} endings"


@dataclass
class Explorer:
    """Breadth-first in the number of deviations."""

    setting: Setting
    deviations: int
    enough: Callable[[Found], bool] = lambda found: False
    found: Found = field(default_factory=Found)
    _seen: dict[int, int] = field(default_factory=dict)

    def walk(self, choices: dict[int, int]) -> Found:
        """One run: at step ``key`` the move of this number, modulo how many there are; else the expected one."""
        with _quietly():
            self._along(choices)
        return self.found

    def _along(self, choices: dict[int, int]) -> None:
        trace = self.found.trace
        world = World(self.setting)
        try:
            while moves := world.moves():
                trace.append(moves[choices.get(len(trace), 0) % len(moves)])
                assert len(trace) < LONGEST, "it does not come to an end"
                world.apply(trace[-1])
                check(world)
            check(world, final=True)
        except AssertionError as error:
            self.found.violation = str(error) or repr(error)
        finally:
            world.put_away()

    def run(self) -> Found:
        """Until everything has been seen, the first violation, or ``enough``."""
        waiting: deque[tuple[tuple[str, ...], int]] = deque([((), 0)])
        with _quietly():
            while waiting and not self.found.violation and not self.enough(self.found):
                prefix, cost = waiting.popleft()
                waiting.extend(self._follow(list(prefix), cost))
                if self.found.runs % 500 == 0:
                    gc.collect()
        return self.found

    def _follow(self, trace: list[str], cost: int) -> list[tuple[tuple[str, ...], int]]:
        """Go along the prefix, then on as expected; the deviations met on the way are for later."""
        self.found.runs += 1
        later: list[tuple[tuple[str, ...], int]] = []
        world = World(self.setting)
        try:
            for move in trace:
                world.apply(move)
            while self._is_new(world, cost):
                check(world)
                moves = world.moves()
                if not moves:
                    check(world, final=True)
                    self.found.ends += 1
                    break
                if cost < self.deviations:
                    later += [((*trace, move), cost + 1) for move in moves[1:]]
                assert len(trace) < LONGEST, "it does not come to an end"
                trace.append(moves[0])
                self.found.moves += 1
                world.apply(moves[0])
        except AssertionError as error:
            self.found.violation = str(error) or repr(error)
            self.found.trace = trace
            return []
        finally:
            world.put_away()
        return later

    def _is_new(self, world: World, cost: int) -> bool:
        mark = world.fingerprint()
        known = self._seen.get(mark)
        if known is not None and known <= cost:
            return False
        self.found.states += known is None
        self._seen[mark] = cost
        return True


def check(world: World, final: bool = False) -> None:
    """Errors: AssertionError with the violations of this step."""
    if final:
        world.watch.final()
    else:
        world.watch.check()
    assert not world.watch.violations, "; ".join(world.watch.violations)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without log lines and without the collector running at every turn."""
    before, hook = logging.root.manager.disable, sys.unraisablehook
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _: None  # what abandoned coroutines do while they are thrown away
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()
        logging.disable(before)
        sys.unraisablehook = hook
        asyncio.events._set_running_loop(None)
