"""A client of an application: one number after the other, each answered before the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PAUSE_SECONDS = 0.02  # between two numbers, or several of these are all that the machine does


class Load(threading.Thread):
    """``done`` is the last number that was answered, ``longest`` the longest wait in seconds."""

    def __init__(self, name: str, put: Callable[[int], object], numbers: list[int]) -> None:
        super().__init__(daemon=True)
        self.what, self.problem, self.longest = name, "", 0.0
        self.done = max(numbers, default=-1)
        self._put = put
        self._leaving = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._leaving.is_set():
            started = time.monotonic()
            try:
                self._put(self.done + 1)
            except Exception as error:  # of any driver
                self.problem = repr(error)
                return
            self.longest = max(self.longest, time.monotonic() - started)
            self.done += 1
            self._leaving.wait(PAUSE_SECONDS)

    def wait_for_more(self, count: int = 5) -> int:
        before, end = self.done, time.monotonic() + 90
        while self.done < before + count:
            assert self.is_alive(), f"{self.what}: {self.problem}"
            assert time.monotonic() < end, f"{self.what} stands still"
            time.sleep(0.01)
        return self.done

    def leave(self) -> None:
        """Ends after the next answer."""
        self._leaving.set()

    def stop(self) -> None:
        """``leave``, and waits for it."""
        self.leave()
        self.join(120)
        assert not self.is_alive(), f"{self.what} stands still"
