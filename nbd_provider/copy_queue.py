"""Copy-outs that have to wait for a disk, in a thread beside the event loop.

One job at a time, and it takes all that wait, so that writes which came while a sync was under way share the next one.
The origin is not written here: when the old data is kept, the loop looks again and writes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import cast

from shadowset.nbd_provider.threads import Done, Submit, Work

log = logging.getLogger(__name__)

Range = tuple[int, int]
Errors = Sequence[BaseException | None]


def at_once(work: Work, done: Done) -> None:
    """Do it where there are no threads."""
    result: object
    try:
        result = work()
    except Exception as error:
        result = error
    done(result)


class CopyQueue:
    """All methods belong to the server's thread; ``copy_out`` runs in another, which ``submit`` finds."""

    def __init__(self, copy_out: Callable[[Sequence[Range]], None]) -> None:
        self.submit: Submit = at_once
        self._copy_out = copy_out
        self._waiting: list[tuple[Sequence[Range], Callable[[Errors], None]]] = []
        self.busy = False

    def add(self, ranges: Sequence[Range], done: Callable[[Errors], None]) -> None:
        """Copy out the (offset, length) ranges, then call ``done`` with an error or None for each."""
        self._waiting.append((ranges, done))
        if not self.busy:
            self._start()

    def _start(self) -> None:
        jobs, self._waiting = self._waiting, []
        wanted = [each for ranges, _ in jobs for each in ranges]

        def finished(result: object) -> None:
            self.busy = False
            errors: list[BaseException | None] = (
                [result] * len(wanted) if isinstance(result, BaseException) else list(cast(Errors, result))
            )
            if self._waiting:
                self._start()
            for ranges, done in jobs:
                mine, errors = errors[: len(ranges)], errors[len(ranges) :]
                try:
                    done(mine)
                except Exception:
                    log.exception("requests could not be gone on with after their copy-out")

        self.busy = True
        self.submit(lambda: self._copy(wanted), finished)

    def _copy(self, wanted: Sequence[Range]) -> list[OSError | None]:
        """Together; when that is refused each for itself, since others may go."""
        try:
            self._copy_out(wanted)
        except OSError:
            return [self._refusal(each) for each in wanted]
        return [None] * len(wanted)

    def _refusal(self, wanted: Range) -> OSError | None:
        try:
            self._copy_out([wanted])
        except OSError as error:
            return error
        return None
