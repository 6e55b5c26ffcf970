"""The door through which every request that changes the farm goes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_SECONDS = 0.05


class GateShutError(Exception):
    """The farm is stopping; the request was not begun."""


class Gate:
    """Requests pass while it is open, wait while it is closed, and are turned away when it is shut for good."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = True
        self._shut = False
        self._inside = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request from beginning to end.

        Errors: GateShutError.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._open or self._shut)
            if self._shut:
                raise GateShutError
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Lets nobody in; those inside go on."""
        with self._changed:
            self._open = False

    def drain(self, cancelled: Callable[[], bool]) -> bool:
        """Waits until nobody is inside; False when ``cancelled`` says so first."""
        with self._changed:
            while self._inside:
                if cancelled():
                    return False
                self._changed.wait(POLL_SECONDS)
            return True

    def open(self) -> None:
        """Lets requests pass again."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def shut(self) -> None:
        """Turns everybody away from now on."""
        with self._changed:
            self._shut = True
            self._changed.notify_all()
