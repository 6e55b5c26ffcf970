"""All tests in two processes at a time: those over whole installations wait a lot, and all others do not.

Run as ``python tests/side_by_side.py [OPTION…]`` with options for pytest; with a path among them they go to pytest as
they are. The first half's output comes when the second has ended.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

TESTS = Path(__file__).parent
FIRST = "chain"


def main(options: list[str]) -> int:
    """Exit status: that of the first half that failed, or 0."""
    pytest = [sys.executable, "-m", "pytest", *options]
    if any(not option.startswith("-") and Path(option.partition("::")[0]).exists() for option in options):
        return subprocess.run(pytest, check=False).returncode
    others = sorted(str(room) for room in TESTS.iterdir() if room.is_dir() and any(room.rglob("test_*.py")))
    others.remove(str(TESTS / FIRST))
    with tempfile.TemporaryFile() as output:
        halves = [
            subprocess.Popen([*pytest, str(TESTS / FIRST)], stdout=output, stderr=subprocess.STDOUT),
            subprocess.Popen([*pytest, *others]),
        ]
        try:
            second, first = halves[1].wait(), halves[0].wait()
        finally:
            for half in halves:
                if half.poll() is None:
                    half.send_signal(signal.SIGINT)  # so that the test under way takes away what it has made
                    half.wait()
            output.seek(0)
            sys.stdout.buffer.write(output.read())
            sys.stdout.flush()
    return first or second


def terminate(number: int, frame: FrameType | None) -> None:
    """As Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job would ignore it, and so the halves
    sys.exit(main(sys.argv[1:]))
