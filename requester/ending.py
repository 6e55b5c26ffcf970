"""Ending processes that are no children of ours: by a descriptor each, since a number may be given anew."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable

END_S = 10.0


def end_all(pids: Iterable[int], seconds: float = END_S) -> None:
    """Ask them to end, and make them after some seconds."""
    watched = []
    for pid in pids:
        try:
            watched.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue
    for number in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + seconds
        for descriptor in watched:
            _signal(descriptor, number)
        while time.monotonic() < end and any(_signal(descriptor, 0) for descriptor in watched):
            time.sleep(0.05)
    for descriptor in watched:
        os.close(descriptor)


def _signal(descriptor: int, number: int) -> bool:
    """Whether the process was there to get it; one that ended counts as gone although nobody has waited for it."""
    ended = select.poll()
    ended.register(descriptor, select.POLLIN)
    if ended.poll(0):
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    return True
