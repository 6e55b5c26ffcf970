"""Every figure that Shadowset is measured by, each beside its bar, in one table and one plot.

    python -m benchmarks [--quick] [--rows NAME ...] [--rounds N] [--output DIR]

Prints rows as they come. The table (bench.md) and the plot (bench.svg) go to benchmarks/results after a whole run, and
to DIR after any. The figures of one run compare with each other, not with those of another run or machine. Exit status
0 whatever the figures are, 1 when a row could not be measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import against_itself, against_others, promises, report
from benchmarks.row import QUICK, Group, Plan, Row

GROUPS: Final[dict[str, Group]] = {
    "warm": against_others.warm,
    "cold": against_others.cold,
    "first-touch": against_others.first_touch,
    "second-pass": against_itself.second_pass,
    "many-copies": against_itself.many_copies,
    "read-copy": against_itself.read_copy,
    "copied-bytes": against_itself.copied_bytes,
    "hold": promises.hold,
    "huge-volume": promises.huge_volume,
    "latency": promises.latency,
}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round, to see that every row runs")
    parser.add_argument("--rows", nargs="+", choices=GROUPS, metavar="NAME", help=f"only these: {', '.join(GROUPS)}")
    parser.add_argument("--rounds", type=_count, metavar="N", help=f"alternating rounds (default: {Plan.rounds})")
    parser.add_argument("--output", metavar="DIR", help="where to write table and plot")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than one round")
    return number


def measure(names: Sequence[str], plan: Plan) -> tuple[list[Row], list[str]]:
    """The rows of these groups, and the names of groups that could not be measured."""
    rows: list[Row] = []
    failed = []
    for name in names:
        print(f"measuring {name}", file=sys.stderr)
        try:
            for row in GROUPS[name](plan):
                print(f"  {row.what}: {row.figure:.2f} {row.unit}", file=sys.stderr)
                rows.append(row)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            print(f"{name} could not be measured: {error}", file=sys.stderr)
            failed.append(name)
    return rows, failed


SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end(*_: object) -> None:
    """End by way of every clean-up, which no second signal interrupts."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report."""
    options = parse_arguments(arguments)
    plan = QUICK if options.quick else Plan()
    if options.rounds:
        plan = dataclasses.replace(plan, rounds=options.rounds)
    output = options.output
    if output is None and not options.quick and not options.rows:
        output = str(Path(__file__).parent / "results")
    for number in SIGNALS:
        signal.signal(number, end)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        rows, failed = measure(options.rows or list(GROUPS), plan)
    except KeyboardInterrupt:
        print("ended before everything was measured; nothing is written", file=sys.stderr)
        return 130
    text = report.markdown(rows, plan)
    print(text)
    if output:
        os.makedirs(output, exist_ok=True)
        Path(output, "bench.md").write_text(text, encoding="utf-8")
        report.plot(rows, f"{output}/bench.svg")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
