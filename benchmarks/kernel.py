"""Transactions of PostgreSQL on ext4 in user-mode-linux, with and without copies made all the time, beside dm-snapshot.

    python -m benchmarks.kernel [--rounds N] [--seconds N] [--output FILE]

The guest has one processor and its system calls are slow, so only the ratios within one run mean something: how much of
its own speed without copies a device keeps while they are made. Needs root, user-mode-linux, dmsetup and postgresql.
Exit status 0 whatever the figures are, 1 when nothing could be measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

_LANE: Final = Path(__file__).resolve().parents[1] / "tests" / "kernel"
_MODULES: Final = ("nbd", "loop", "dm-mod", "dm-snapshot")
_SETUP_S: Final = 600
Results = dict[str, list[dict[str, float]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.kernel", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="alternating rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=5, metavar="N", help="of each run (default: %(default)s)")
    parser.add_argument("--output", metavar="FILE", help="where to write the table as well")
    options = parser.parse_args(arguments)
    uml = _harness()
    if lacking := uml.missing():
        print(f"user-mode-linux cannot run: {lacking}", file=sys.stderr)
        return 1
    result = uml.run(
        _LANE / "guest" / "transactions.py",
        str(options.rounds),
        str(options.seconds),
        modules=_MODULES,
        memory="1500M",
        timeout=_SETUP_S + options.rounds * options.seconds * 30,
    )
    if result.status != 0:
        print(result.console, file=sys.stderr)
        return 1
    line = next(line for line in result.output.splitlines() if line.startswith("results: "))
    text = table(json.loads(line.removeprefix("results: ")), options.rounds, options.seconds)
    print(text, end="")
    if options.output:
        Path(options.output).write_text(text, encoding="utf-8")
    return 0


def _harness() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shadowset_uml", _LANE / "uml.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its data classes look themselves up there
    spec.loader.exec_module(module)
    return module


def table(results: Results, rounds: int, seconds: int) -> str:
    """Medians; each with-copies figure also as a share of the same device's speed without."""
    lines = [
        f"pgbench (TPC-B, two clients) in user-mode-linux: medians of {rounds} alternating rounds, {seconds} s a run.",
        "",
        "| device | tps without copies | tps while copies are made | ratio | without, of plain | copies a run |",
        "|---|---|---|---|---|---|",
    ]
    plain = _median(results["plain"], "without")
    for name, runs in results.items():
        without, beside = _median(runs, "without"), _median(runs, "with")
        cells = [name, f"{without:.0f}", "-", "-", f"{without / plain:.2f}", "-"]
        if beside:
            cells[2:4] = [f"{beside:.0f}", f"{beside / without:.2f}"]
            cells[5] = f"{_median(runs, 'copies'):.0f}"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _median(runs: list[dict[str, float]], key: str) -> float:
    return statistics.median(run.get(key, 0) for run in runs)


if __name__ == "__main__":
    sys.exit(main())
