"""Who wants to know how far a backup or restore is."""

from __future__ import annotations

from typing import Protocol

from shadowset.requester.backup.copy import OnBytes
from shadowset.vss.requester_protocol import Notice


class Observer(Protocol):
    """Who wants to know how far the job is."""

    def phase(self, text: str) -> None:
        """A new part of the job begins."""

    def notice(self, notice: Notice) -> None:
        """The coordinator wants something to be known."""

    def begin(self, total: int) -> OnBytes:
        """``total`` bytes are about to be copied or checked; returns what is called with each further number done."""

    def end(self) -> None:
        """They are done."""


class Silent:
    """An observer that does not care."""

    def phase(self, text: str) -> None:
        """Ignore it."""

    def notice(self, notice: Notice) -> None:
        """Ignore it."""

    def begin(self, total: int) -> OnBytes:
        """Ignore it."""
        return lambda count: None

    def end(self) -> None:
        """Ignore it."""
