"""The search service of a farm: owns the index, answers one line of JSON with one line of JSON.

It is a process of its own because tantivy maps its files into memory: when they are truncated behind its back, the
kernel ends the process with SIGBUS, and the farm has to outlive that.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

from shadowset.writers.farm.index import SearchIndex

CALLS = ("put", "delete", "commit", "quiesce", "search", "entries")


def answer(index: SearchIndex, line: str) -> dict[str, Any]:
    """The answer to one request: ``result``, or ``error`` with a sentence."""
    try:
        request = json.loads(line)
        if request["call"] not in CALLS:
            return {"error": f"the search service has no call {request['call']}"}
        return {"result": getattr(index, request["call"])(*request["arguments"])}
    except BaseException as error:  # tantivy's panics are no Exception
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            raise
        return {"error": f"{type(error).__name__}: {error}"}


def main(argv: list[str]) -> int:
    """Serves until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the farm decides when its search service ends
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    try:
        index = SearchIndex(argv[1])
    except BaseException as error:
        print(json.dumps({"error": f"the index {argv[1]} cannot be opened: {error}"}), flush=True)
        return 1
    print(json.dumps({"result": "ready"}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(index, line)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
