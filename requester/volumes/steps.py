"""Steps that are taken back in reverse order when a later one fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shadowset.vss.codes import VssError


@dataclass(frozen=True)
class Step:
    """What it does, in words, and how it is done and undone."""

    text: str
    do: Callable[[], object]
    undo: Callable[[], object]


class NotUndone(VssError):
    """A step failed, and what was done before could not all be taken back; the message names both and what is left."""


def run(steps: list[Step], tell: Callable[[str], None]) -> None:
    """All, or none. Errors: what the failed step raised; NotUndone."""
    done: list[Step] = []
    try:
        for step in steps:
            tell(step.text)
            step.do()
            done.append(step)
    except BaseException as error:
        _take_back(done, error, tell)
        raise


def _take_back(done: list[Step], error: BaseException, tell: Callable[[str], None]) -> None:
    for step in reversed(done):
        tell(f"taking back: {step.text}")
        try:
            step.undo()
        except VssError as second:
            reason = error.message if isinstance(error, VssError) else str(error) or type(error).__name__
            left = "; ".join(each.text for each in done[: done.index(step) + 1])
            message = f"{reason}; and it could not be taken back: {second.message}. Done and not undone: {left}"
            raise NotUndone(second.code, message) from error
