"""Why a provider process ended, how often, and how long to wait before the next attempt."""

from __future__ import annotations

import time
from collections import deque

from shadowset.daemon.process import last_line, signal_name

BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)
"""No longer: applications wait all the while, and a start costs little."""
FAILED_AFTER = 5
STEADY_S = 10.0
REMEMBERED = 32


class Deaths:
    """Of one volume's provider. ``restarts`` since the coordinator began to look after it; ``quick`` in a row."""

    def __init__(self) -> None:
        self.restarts = 0
        self.quick = 0
        self.cause = ""
        self._since = time.monotonic()
        self._times: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def failing(self) -> bool:
        """Whether it was tried so often that it will hardly work by itself."""
        return self.quick >= FAILED_AFTER

    @property
    def wait_s(self) -> float:
        """How long to wait now."""
        return BACKOFF_S[min(self.quick, len(BACKOFF_S) - 1)]

    def lives(self) -> None:
        """It serves."""
        self._since = time.monotonic()

    def not_started(self) -> None:
        """An attempt came to nothing."""
        self.quick += 1

    def died(self, cause: str) -> None:
        """It has ended after it had served."""
        now = time.monotonic()
        self.quick = 0 if now - self._since > STEADY_S else self.quick + 1
        self.restarts += 1
        self.cause = cause
        self._times.append(now)

    def sentence(self, log: str) -> str:
        """What is to be said of it."""
        if not self.failing:
            return f"its provider {self.cause} and is being restarted"
        seconds = max(1, round(time.monotonic() - self._times[-min(self.quick, len(self._times))]))
        return (
            f"its provider has died {self.quick} times in {seconds} s, the last time it {self.cause}; applications "
            f"wait; see {log}, mend the cause, and it is tried again after {self.wait_s:g} s at the most"
        )


def cause_of(status: int | None, log: str) -> str:
    """How a process ended: ``status`` by signal N as -N, None for one that was not our child."""
    if status is None:
        return "has ended unexpectedly"
    if status < 0:
        return f"was ended by {signal_name(-status)}"
    if status == 0:
        return "has ended"
    return f"has ended with status {status} ({last_line(log)})"
