"""The observer of a terminal: phases and progress on standard error, nothing where nobody watches."""

from __future__ import annotations

import sys

from shadowset.requester.backup.copy import OnBytes
from shadowset.requester.cli.output import note
from shadowset.requester.progress import Meter
from shadowset.vss.requester_protocol import Notice


def show_notice(notice: Notice) -> None:
    """What the coordinator wants to be known meanwhile, where somebody watches."""
    if sys.stderr.isatty():
        note(f"shadowset: {notice.text}")


class TerminalObserver:
    """Shows on standard error what a backup or restore is doing, when that is a terminal."""

    def __init__(self) -> None:
        self._label = ""
        self._meter: Meter | None = None

    def phase(self, text: str) -> None:
        """Name the part that begins."""
        self._label = text
        if sys.stderr.isatty():
            sys.stderr.write(f"{text} …\n")
            sys.stderr.flush()

    def notice(self, notice: Notice) -> None:
        """Say it."""
        show_notice(notice)

    def begin(self, total: int) -> OnBytes:
        """Show bytes from here on."""
        self._meter = Meter(sys.stderr, self._label, total)
        return self._meter.add

    def end(self) -> None:
        """Leave the line of the bytes."""
        if self._meter is not None:
            self._meter.finish()
        self._meter = None
