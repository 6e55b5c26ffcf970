"""Trying again: a failure that may pass is tried three times, another one is told at once."""

from __future__ import annotations

from typing import Any

import pytest

from shadowset.requester.retry import RETRYABLE, Policy, with_retries
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Failure
from shadowset.vss.enums import WriterState
from shadowset.vss.requester_protocol import DeleteSnapshots, WriterStatus


class Attempts:
    """Fails with these codes one after the other, then gives 7."""

    def __init__(self, *codes: Code) -> None:
        self.codes, self.begun = list(codes), 0
        self.notes: list[str] = []
        self.waits: list[float] = []

    def __call__(self, last: bool) -> int:
        self.begun += 1
        if self.codes:
            raise VssError(self.codes.pop(0), "not now")
        return 7

    def run(self, tries: int) -> int:
        return with_retries(self, Policy(tries, 600), self.notes.append, self.waits.append)


@pytest.mark.vss(27)
def test_a_failure_that_may_pass_is_tried_again_up_to_the_last_try() -> None:
    passing = Code.VSS_E_WRITERERROR_RETRYABLE
    attempts = Attempts(passing, passing)
    assert attempts.run(3) == 7 and attempts.begun == 3 and attempts.waits == [600, 600]
    assert "try 1 of 3 failed, the next one is in 600 s: not now" in attempts.notes[0]
    for tries in (1, 2):
        attempts = Attempts(passing, passing)
        with pytest.raises(VssError):
            attempts.run(tries)
        assert attempts.begun == tries and len(attempts.waits) == tries - 1


@pytest.mark.vss(27)
@pytest.mark.parametrize("code", Code)
def test_which_codes_may_pass(code: Code) -> None:
    attempts = Attempts(code)
    if code in RETRYABLE:
        assert attempts.run(2) == 7
    else:
        with pytest.raises(VssError):
            attempts.run(2)
        assert attempts.begun == 1 and not attempts.notes


@pytest.mark.vss(27)
def test_create_goes_on_trying(coordinator: Any, data: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [VssError(Code.VSS_E_WRITERERROR_RETRYABLE, "the database is busy")] * 2
    make = type(coordinator).do_do_snapshot_set

    def refuse_twice(self: Any, session: Any, call: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return make(self, session, call)

    monkeypatch.setattr(type(coordinator), "do_do_snapshot_set", refuse_twice)
    status, _, err = run("create", "data", "--tries", "3", "--retry-wait", "0s")
    assert status == 0, err
    assert "try 1 of 3 failed" in err and "try 2 of 3 failed" in err and "busy" in err
    assert run("create", "data", "--tries", "0")[0] == 2


def test_a_set_without_a_writer_that_may_come_round_is_made_again(
    coordinator: Any, data: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    make = type(coordinator).do_do_snapshot_set

    def with_failures(self: Any, session: Any, call: Any) -> Any:
        record = make(self, session, call)
        made.append(record)
        if len(made) < 3:
            failure = Failure(int(Code.VSS_E_WRITERERROR_TIMEOUT), 0, "too slow")
            record.writers = [WriterStatus("id", "instance", "Slow", WriterState.FAILED_AT_PREPARE_SNAPSHOT, failure)]
        return record

    monkeypatch.setattr(type(coordinator), "do_do_snapshot_set", with_failures)
    status, _, err = run("create", "data", "--tries", "3", "--retry-wait", "0s")
    assert status == 0 and "made without writer Slow: too slow" in err
    deleted = [call.object_id for call in coordinator.calls if isinstance(call, DeleteSnapshots)]
    assert len(made) == 3 and deleted == [record.set_id for record in made[:2]]
