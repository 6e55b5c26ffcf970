"""Every application that ships with a writer, all at once: loaded, cut at one instant, backed up, destroyed, restored.

Each round prints a table. ``make test`` kills all writers and then all applications while they are frozen, and makes
one round after that; ``make test-long`` makes twenty rounds. ``test_kill_applications.py`` kills each in every phase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from applications import MySqlServer
from fleet import EVERY, Fleet, a_round
from robbery import VICTIMS, Robbery, rob
from rounds import keep, middle, table
from slow_control import SlowControl
from stillness import changed

ROUNDS = 20


@pytest.fixture
def fleet(chain: Any, slow: SlowControl, wait_until: Callable[..., Any], request: Any) -> Iterator[Fleet]:
    """Without MySQL unless there is much time: Debian 12 does not have it."""
    kinds = (*EVERY, MySqlServer) if request.node.get_closest_marker("long") else EVERY
    made = Fleet(chain, wait_until, kinds)
    try:
        made.start()
        yield made
    finally:
        made.close()
    if made.left_out:
        pytest.skip(f"tested without {made.left_out}")


def still_at_freeze(fleet: Fleet) -> None:
    """No byte of what the writers hold by themselves changes, although no file system is frozen yet."""
    moved = changed(each for each in fleet.applications if each.still_at_freeze)
    assert moved == {}, "frozen means frozen"


def still_in_hold(fleet: Fleet, slow: SlowControl) -> None:
    """No byte of anything changes, and no client fails."""
    robbery = Robbery(fleet, "hold", slow)
    try:
        moved = changed(fleet.applications)
        lasted = fleet.chain.describe("data").holding  # else this machine was too slow to tell
    finally:
        outcome = robbery.finish()
    robbery.forget()
    if lasted:
        assert moved == {}, "frozen means frozen"
        assert not outcome.status and all(outcome.succeeded.values()), outcome
    fleet.wait_for_more()


@pytest.mark.vss(137)
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_come_back_as_they_were_at_the_cut(fleet: Fleet, slow: SlowControl, show: Callable[[str], None]) -> None:
    assert changed(fleet.applications).keys() == fleet.loads.keys(), "files change while nothing is frozen"
    still_in_hold(fleet, slow)
    for victim in VICTIMS:
        robbery, _outcome = rob(fleet, victim, "freeze", look=partial(still_at_freeze, fleet))
        robbery.forget()
    show(table(a_round(fleet, 1)))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_twenty_rounds(fleet: Fleet, show: Callable[[str], None]) -> None:
    rounds = []
    for number in range(ROUNDS):
        rounds.append(a_round(fleet, number))
        keep("1-fleet", rounds[-1], first=not number)
        fleet.load()
    show(table([middle(rows) for rows in zip(*rounds, strict=True)]))
