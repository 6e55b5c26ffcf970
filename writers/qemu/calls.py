"""Calls that nothing ends while their daemon hangs: each on a thread of its own, which is left behind when it is late.

They never overlap: a call that is late may be carried out still, and what undoes it must come after it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

from shadowset.vss.codes import Code, VssError

T = TypeVar("T")


class Calls:
    """To one guest; ``run`` and ``interrupt`` may come from two threads, ``run`` from one at a time."""

    def __init__(self, whom: str) -> None:
        """``whom`` is who would answer, in words."""
        self._whom = whom
        self._last: Future[Any] | None = None
        self._interrupted: Future[None] = Future()

    def run(self, work: Callable[[], T], end: float) -> T:
        """What ``work`` returns or raises. Errors: VSS_E_WRITERERROR_TIMEOUT at ``end`` (time.monotonic)."""
        self._interrupted = Future()
        if self._last is not None:
            self._wait_for(self._last, end)
        call: Future[T] = Future()
        self._last = call
        threading.Thread(target=_carry_out, args=(work, call), daemon=True).start()
        self._wait_for(call, end)
        return call.result()

    def _wait_for(self, call: Future[Any], end: float) -> None:
        wait([call, self._interrupted], max(0.0, end - time.monotonic()), FIRST_COMPLETED)
        if not call.done():
            message = f"{self._whom} did not answer in time; see whether it hangs"
            raise VssError(Code.VSS_E_WRITERERROR_TIMEOUT, message)

    def interrupt(self) -> None:
        """Ends a wait of another thread, not the call."""
        if not self._interrupted.done():
            self._interrupted.set_result(None)


def _carry_out(work: Callable[[], T], call: Future[T]) -> None:
    try:
        call.set_result(work())
    except BaseException as error:
        call.set_exception(error)
