"""Every application that ships with a writer, all at once: loaded, cut at one instant, backed up, destroyed, restored.

Each round prints a table. ``make test`` kills all writers and then all applications while they are frozen, and makes
one round after that; ``make test-long`` makes twenty rounds. ``test_kill_applications.py`` kills each in every phase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from applications import MySqlServer
from fleet import EVERY, Fleet, a_round
from robbery import VICTIMS, rob
from rounds import keep, middle, table

ROUNDS = 20


@pytest.fixture
def fleet(chain: Any, wait_until: Callable[..., Any], request: Any) -> Iterator[Fleet]:
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


@pytest.mark.vss(137)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_come_back_as_they_were_at_the_cut(fleet: Fleet, show: Callable[[str], None]) -> None:
    for victim in VICTIMS:
        robbery, _outcome = rob(fleet, victim, "freeze")
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
