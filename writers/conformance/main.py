"""``shadowset-writer-conformance``: runs a writer through the protocol and reports each point in one line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from shadowset.vss.codes import VssError
from shadowset.writers.conformance.bench import Bench
from shadowset.writers.conformance.coordinator import Fault
from shadowset.writers.conformance.points import POINTS, Point

EPILOG = """example:
  shadowset-writer-conformance -- perl writer.pl {socket}"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        "shadowset-writer-conformance",
        description="Runs a writer, in whatever language, against a coordinator that does everything that coordinators"
        " do, and what broken ones do. The writer freezes and thaws its application again and again: give it one that"
        " is not in use.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--only", action="append", metavar="POINT", help="only this point; may be repeated")
    arguments.add_argument("--json", action="store_true", help="one JSON object for each point")
    arguments.add_argument(
        "command",
        nargs="+",
        metavar="COMMAND",
        help="how the writer is started; {socket} is where it connects to, below SHADOWSET_RUNTIME_DIR too",
    )
    return arguments


def name_of(point: Point) -> str:
    """The name of a point on the command line and in the report."""
    return str(point.__name__).replace("_", "-")


def try_point(point: Point, bench: Bench) -> tuple[bool, str]:
    """Whether the point is kept, and a remark or what was wrong."""
    try:
        return True, point(bench)
    except (Fault, OSError) as error:
        bench.reset()
        return False, str(error) or type(error).__name__


def report(points: Sequence[Point], bench: Bench, as_json: bool) -> int:
    """Prints the points as they are tried; how many are not kept."""
    failed = 0
    for point in points:
        kept, remark = try_point(point, bench)
        failed += not kept
        name, rule = name_of(point), (point.__doc__ or "").strip()
        if as_json:
            line = json.dumps({"point": name, "passed": kept, "rule": rule, "remark": remark})
        else:
            line = f"{'pass' if kept else 'FAIL'}  {name}: {rule}{f' ({remark})' if remark else ''}"
        print(line, flush=True)
    return failed


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 when all points are kept, 1 when not, 2 when the writer cannot be run."""
    options = parser().parse_args(argv)
    points = [point for point in POINTS if not options.only or name_of(point) in options.only]
    unknown = sorted(set(options.only or []) - {name_of(point) for point in POINTS})
    if unknown:
        known = ", ".join(name_of(point) for point in POINTS)
        print(f"shadowset-writer-conformance: there is no point {unknown[0]}; known are {known}", file=sys.stderr)
        return 2
    bench = Bench(options.command)
    try:
        bench.start()
        failed = report(points, bench, options.json)
    except VssError as error:
        print(f"shadowset-writer-conformance: {error.message}", file=sys.stderr)
        return 2
    finally:
        bench.close()
    if not options.json:
        print(f"{len(points) - failed} of {len(points)} points kept")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
