"""What a benchmark gives: rows of one table, each with the bar it is measured by."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How much to measure: alternating rounds, seconds of each fio run, cuts under load, copies of one volume."""

    rounds: int = 3
    seconds: int = 3
    cuts: int = 100
    copies: int = 512


QUICK = Plan(rounds=1, seconds=1, cuts=20)


@dataclass(frozen=True)
class Row:
    """A figure beside its bar, which is the least it may be or, with ``most``, the most.

    ``medians`` are what the figure was computed from, by name.
    """

    what: str
    figure: float
    bar: float
    most: bool = False
    unit: str = ""
    medians: Mapping[str, float] | None = None

    @property
    def reached(self) -> bool:
        """Whether the figure is at its bar or better."""
        return self.figure <= self.bar if self.most else self.figure >= self.bar

    @property
    def margin(self) -> float:
        """How many times better than the bar; below 1 the bar is missed."""
        return self.bar / max(self.figure, 1e-9) if self.most else self.figure / self.bar


Group = Callable[[Plan], Iterator[Row]]


def medians(rounds: int, measurements: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """The median of each measurement; all take their turn within each round, and every other round goes backwards."""
    runs: dict[str, list[float]] = {name: [] for name in measurements}
    for number in range(rounds):
        for name in list(measurements)[:: -1 if number % 2 else 1]:
            runs[name].append(measurements[name]())
    return {name: statistics.median(figures) for name, figures in runs.items()}


def ratio(what: str, bar: float, figures: Mapping[str, float], most: bool = False) -> Row:
    """The first figure divided by the best of the others, which here is the highest."""
    first, *others = figures.values()
    return Row(what, first / max(others), bar, most, medians=figures)
