"""Calls of drivers that would wait for ever get a limit."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator

GRACE_SECONDS = 0.5


@contextlib.contextmanager
def interrupting(seconds: float, interrupt: Callable[[], None]) -> Iterator[None]:
    """Calls ``interrupt`` from another thread when the body takes longer than ``seconds`` (and a little)."""
    timer = threading.Timer(seconds + GRACE_SECONDS, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def shut_down(fd: int) -> None:
    """Ends the connection of a socket that another thread may be using; never fails."""
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            sock.shutdown(socket.SHUT_RDWR)
    except (OSError, ValueError):
        return  # it is lost already
