"""What is said of a provider that dies again and again, and how long it is waited for."""

from __future__ import annotations

from pathlib import Path

import pytest

from shadowset.daemon import deaths
from shadowset.daemon.deaths import FAILED_AFTER, Deaths, cause_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(deaths.time, "monotonic", lambda: now[0])
    return now


def test_quick_deaths_in_a_row_make_it_failed_and_say_why(clock: list[float]) -> None:
    one, waits = Deaths(), []
    for number in range(1, FAILED_AFTER + 1):
        one.lives()
        clock[0] += 2
        one.died("was ended by SIGSEGV")
        assert one.failing == (number == FAILED_AFTER)
        waits.append(one.wait_s)
    assert waits == sorted(waits) and waits[0] < 1 <= waits[-1]
    sentence = one.sentence("/run/x/provider.log")
    assert (
        "died 5 times in 8 s, the last time it was ended by SIGSEGV" in sentence and "/run/x/provider.log" in sentence
    )
    one.lives()
    clock[0] += 60
    one.died("has ended")
    assert (one.restarts, one.quick, one.failing) == (FAILED_AFTER + 1, 0, False)
    assert one.sentence("log") == "its provider has ended and is being restarted"


def test_attempts_that_come_to_nothing_count(clock: list[float]) -> None:
    one = Deaths()
    for _ in range(FAILED_AFTER):
        one.not_started()
    assert one.failing and one.restarts == 0


def test_how_a_process_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("first\nshadowset-provider: no disk\n\n")
    assert cause_of(-9, str(log)) == "was ended by SIGKILL"
    assert cause_of(1, str(log)) == "has ended with status 1 (shadowset-provider: no disk)"
    assert cause_of(None, str(log)) == "has ended unexpectedly"
    assert cause_of(0, str(log)) == "has ended"
