"""What the commands on a volume that no provider serves have in common."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from shadowset.nbd_provider.places import require_storage
from shadowset.nbd_provider.volume import Volume
from shadowset.vss.codes import VssError

TELL_SECONDS: Final = 1.0


class Progress(Protocol):
    """How far the work is, in bytes."""

    done: int
    total: int

    @property
    def phase(self) -> str:
        """A word."""


def run(options: argparse.Namespace, work: Callable[[Volume], str], interrupted: str) -> int:
    """Open the volume of ``options``, print what ``work`` returns; exit status 1 with a sentence when it fails."""
    try:
        require_storage(options.storage)
        volume = Volume(options.origin, options.origin, options.storage)
        try:
            result = work(volume)
        finally:
            volume.close()
    except KeyboardInterrupt:
        return complain(f"interrupted; {interrupted}")
    except (VssError, OSError) as error:
        return complain(error)
    print(result)
    return 0


def complain(problem: object) -> int:
    """One sentence on standard error, and exit status 1."""
    print(f"shadowset-provider: {problem}", file=sys.stderr)
    return 1


def go_through(steps: Iterable[int] | None, progress: Callable[[], Progress | None]) -> None:
    """All steps of a work, with its progress on standard error now and then."""
    told = 0.0
    for _ in steps or ():
        now = progress()
        if now is not None and time.monotonic() >= told + TELL_SECONDS:
            told = time.monotonic()
            print(f"{now.phase}: {now.done} of {now.total} bytes", file=sys.stderr, flush=True)
