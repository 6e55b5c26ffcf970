"""Trying again after a failure that may pass by itself: which ones, how often, and how long to wait between."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from shadowset.vss.codes import Code, VssError, describe
from shadowset.vss.requester_protocol import SetRecord

T = TypeVar("T")

RETRYABLE = frozenset(
    {
        Code.VSS_E_WRITERERROR_RETRYABLE,
        Code.VSS_E_WRITERERROR_TIMEOUT,
        Code.VSS_E_WRITERERROR_OUTOFRESOURCES,
        Code.VSS_E_WRITER_NOT_RESPONDING,
        Code.VSS_E_WRITER_STATUS_NOT_AVAILABLE,
        Code.VSS_E_FLUSH_WRITES_TIMEOUT,
        Code.VSS_E_HOLD_WRITES_TIMEOUT,
        Code.VSS_E_SNAPSHOT_SET_IN_PROGRESS,
        Code.VSS_E_REVERT_IN_PROGRESS,
    }
)
"""Failures whose cause may be gone after a while. All others need somebody to do something first."""


@dataclass(frozen=True)
class Policy:
    """``tries`` in all, ``wait`` seconds between two. VSS recommends three tries and ten minutes."""

    tries: int = 3
    wait: float = 600.0


def retryable(code: int) -> bool:
    """Whether it makes sense to try again after this code."""
    return code in RETRYABLE


def with_retries(
    attempt: Callable[[bool], T],
    policy: Policy,
    note: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """The result of ``attempt``, which begins anew each time and is told whether it is the last one.

    ``note`` takes a sentence before each wait.

    Errors: the last attempt's VssError; at once that of a failure that does not pass.
    """
    for number in range(1, policy.tries):
        try:
            return attempt(False)
        except VssError as error:
            if not retryable(error.code):
                raise
            note(f"try {number} of {policy.tries} failed, the next one is in {policy.wait:g} s: {error}")
            sleep(policy.wait)
    return attempt(True)


def refuse_passing_failures(record: SetRecord) -> None:
    """A set that was made without a writer whose failure may pass counts as failed. Errors: that writer's VssError."""
    for writer in record.writers:
        failure = writer.failure
        if retryable(failure.code):
            why = failure.message or describe(failure.code)
            sentence = f"the set was made without writer {writer.name}: {why}"
            raise VssError(failure.code, sentence, failure.application_code)
