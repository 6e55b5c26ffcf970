"""The one clock of decisions: the event loop's own, so that a time-out and a look at the clock never disagree."""

from __future__ import annotations

import asyncio


def now() -> float:
    """Seconds; the daemon's loop counts them as ``time.monotonic`` does, and so does the guardian."""
    return asyncio.get_running_loop().time()
