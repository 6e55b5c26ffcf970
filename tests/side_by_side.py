"""All tests in two processes at a time: those over whole installations wait a lot, and all others do not.

Run as ``python tests/side_by_side.py [OPTION…]`` with options for pytest; with a path among them they go to pytest as
they are. The first half's output comes when the second has ended.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

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
        first = subprocess.Popen([*pytest, str(TESTS / FIRST)], stdout=output, stderr=subprocess.STDOUT)
        try:
            second = subprocess.run([*pytest, *others], check=False).returncode
            status = first.wait()
        finally:
            if first.poll() is None:
                first.terminate()
                first.wait()
            output.seek(0)
            sys.stdout.buffer.write(output.read())
            sys.stdout.flush()
    return status or second


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
