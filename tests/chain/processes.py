"""Processes that are nobody's children here."""

from __future__ import annotations

import os
import time
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended counts as gone although nobody has waited for it yet."""
    try:
        ended = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
        return not ended or len(os.listdir(f"/proc/{pid}/task")) > 1  # its threads end in any order
    except OSError:
        return False


def wait_for_end(pid: int, seconds: float = 60.0, waited_for: bool = False) -> None:
    """Until a process that was killed is gone; ``waited_for``: by its parent too, so that its number leads nowhere."""
    end = time.monotonic() + seconds
    while os.path.exists(f"/proc/{pid}") if waited_for else alive(pid):
        assert time.monotonic() < end, f"process {pid} does not end"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue  # a thread that has ended
    return found
