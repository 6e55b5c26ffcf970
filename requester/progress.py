"""How far a long copy has come, on the terminal: bytes, rate, time left. Silent where nobody watches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
INTERVAL = 0.2


def size_text(count: float) -> str:
    """Bytes as people read them: ``0 B``, ``1.5 KiB``, ``640 GiB``."""
    value, unit = float(count), UNITS[0]
    for unit in UNITS:
        if value < 1024 or unit == UNITS[-1]:
            break
        value /= 1024
    if unit == UNITS[0] or value >= 100:
        return f"{value:.0f} {unit}"
    return f"{value:.1f} {unit}".replace(".0 ", " ")


def duration_text(seconds: float) -> str:
    """Hours, minutes and seconds: ``0:00:07``."""
    whole = int(seconds + 0.5)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def progress_text(label: str, done: int, total: int, seconds: float) -> str:
    """One line of progress."""
    rate = done / seconds if seconds > 0 else 0.0
    share = 100 * done // total if total else 100
    line = f"{label}: {size_text(done)} of {size_text(total)} ({share}%), {size_text(rate)}/s"
    if rate > 0 and done < total:
        line += f", {duration_text((total - done) / rate)} left"
    return line


class Meter:
    """Counts bytes and shows them on a terminal a few times a second; ``add`` is the callback of the engines."""

    def __init__(
        self, stream: TextIO | None, label: str, total: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream if stream is not None and stream.isatty() else None
        self._label = label
        self._clock = clock
        self._began = clock()
        self._shown = 0.0
        self.total = total
        self.done = 0

    def add(self, count: int) -> None:
        """``count`` more bytes are done."""
        self.done += count
        now = self._clock()
        if self._stream is not None and now - self._shown >= INTERVAL:
            self._shown = now
            self._show(now)

    def finish(self) -> None:
        """Show the end and leave the line."""
        if self._stream is not None:
            self._show(self._clock())
            self._stream.write("\n")
            self._stream.flush()

    def _show(self, now: float) -> None:
        assert self._stream is not None
        line = progress_text(self._label, self.done, self.total, now - self._began)
        self._stream.write(f"\r\x1b[K{line}")
        self._stream.flush()
