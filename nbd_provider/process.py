"""Discipline of a process that serves the block device of its own host: it must not wait for that device itself."""

from __future__ import annotations

import ctypes
import logging
import sys
from typing import Final

log = logging.getLogger(__name__)

PR_SET_IO_FLUSHER: Final = 57
MCL_CURRENT: Final = 1
OOM_SCORE: Final = -900


def harden() -> None:
    """Do not be swapped out, do not enter reclaim that waits for our own device, do not be the first to be killed.

    Each is best effort, since a container may forbid it; what was refused is logged once.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    refused = []
    if libc.prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0):
        refused.append("PR_SET_IO_FLUSHER")
    if libc.mlockall(MCL_CURRENT):
        refused.append("mlockall")
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(OOM_SCORE))
    except OSError:
        refused.append("oom_score_adj")
    if refused:
        log.info("not allowed here and left out: %s", ", ".join(refused))


def start_logging(level: str) -> None:
    """Log lines on standard error, with the time to the millisecond."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
