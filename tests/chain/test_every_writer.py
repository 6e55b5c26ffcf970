"""Every application that ships with a writer, all at once: loaded, cut at one instant, backed up, destroyed, restored.

Each round prints a table. ``make test`` kills all writers and then all applications while they are frozen, and makes
one round after that; ``make test-long`` makes twenty rounds, and kills all of either kind in every phase.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from applications import Application
from fleet import VOLUMES, Fleet, check_numbers
from phase_writer import PhaseWriter
from rounds import FROZEN, Row, keep, middle, row, table

ROUNDS = 20
PHASES = ("prepare-backup", "prepare-snapshot", "freeze", "thaw", "post-snapshot", "backup-complete")


@pytest.fixture
def fleet(chain: Any, wait_until: Callable[..., Any]) -> Iterator[Fleet]:
    chain.add_volumes(VOLUMES)
    for directory in (chain.directory, *chain.places.values()):
        os.chmod(directory, 0o755)
    made = Fleet(chain, wait_until)
    try:
        made.start()
        yield made
    finally:
        made.close()
    if made.left_out:
        pytest.skip(f"tested without {made.left_out}")


def a_round(fleet: Fleet, number: int) -> list[Row]:
    """Backs everything up under load, destroys it, restores it, and sees that all is there; rows for the table."""
    chain, backup = fleet.chain, f"{fleet.chain.directory}/backup-{number}"
    before = fleet.wait_for_more()
    for load in fleet.loads.values():
        load.longest = 0.0
    record = chain.cli("create", *chain.places)
    done = chain.cli("backup", backup)
    assert all(entry["succeeded"] for entry in done["components"]), done
    after = fleet.wait_for_more()
    fleet.stop_load()
    for each in fleet.applications:
        each.destroy()
    restored = chain.cli("restore", backup)
    assert restored["succeeded"], restored
    rows = []
    for each in fleet.applications:
        count = verified(each, before[each.name], after[each.name])
        rows.append(row(record, done, each.writer_names, each.name, fleet.loads[each.name].longest, count))
    chain.cli("delete", record["set_id"])
    shutil.rmtree(backup)
    return rows


def verified(application: Application, before: int, after: int) -> int:
    """Checks a restored application, and leaves it running; how many numbers it has."""
    application.start()
    numbers = application.numbers()
    check_numbers(application.name, numbers, before, after)
    application.check()
    application.start()
    return len(numbers)


class Robbery:
    """A backup that is brought to a phase, where all writers or all applications are killed."""

    def __init__(self, fleet: Fleet, phase: str) -> None:
        self.fleet, self.phase, self.chain = fleet, phase, fleet.chain
        self.backup = f"{self.chain.directory}/robbed"
        # of the system's level: it freezes last and thaws first, so the others are frozen while it waits
        self._writer = PhaseWriter(self.chain, phase, "SYSTEM")
        try:
            fleet.wait_until("the phase writer", self._writer.registered)
            self._requester = self.chain.module("shadowset.requester.cli", "backup", self.backup)
            fleet.wait_until(f"the set to reach {phase}", self._writer.reached, 60)
        except BaseException:
            self._writer.close()
            raise

    def finish(self) -> None:
        self._writer.leave()
        self._requester.wait(120)
        self._writer.close()
        shutil.rmtree(self.backup, ignore_errors=True)
        self.chain.check_writable()


def kill_writers(fleet: Fleet, phase: str) -> None:
    """Clients of an application whose writer was killed go on, although the set was neither thawed nor aborted yet."""
    robbery = Robbery(fleet, phase)
    try:
        for process in fleet.writers.values():
            process.kill()
            process.wait()
        fleet.wait_for_more()
    finally:
        robbery.finish()
    for each in fleet.applications:
        fleet.start_writer(each)
    fleet.wait_for_writers()
    fleet.wait_for_more()


def kill_applications(fleet: Fleet, phase: str) -> None:
    """Applications that were killed are started again, and go on with what they had answered."""
    robbery = Robbery(fleet, phase)
    try:
        for each in fleet.applications:
            each.kill()
    finally:
        robbery.finish()
    answered = {name: load.done for name, load in fleet.loads.items()}
    fleet.stop_load()
    for each in fleet.applications:
        if each.crash_safe or phase in FROZEN:
            each.start()
            least = answered[each.name] if each.durable else 0
            check_numbers(each.name, each.numbers(), least, answered[each.name])
        else:
            shutil.rmtree(each.data)
            each.start()
    fleet.load()
    fleet.wait_for_writers()


@pytest.mark.vss(137)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_come_back_as_they_were_at_the_cut(fleet: Fleet, show: Callable[[str], None]) -> None:
    kill_writers(fleet, "freeze")
    kill_applications(fleet, "freeze")
    show(table(a_round(fleet, 1)))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_twenty_rounds(fleet: Fleet, show: Callable[[str], None]) -> None:
    rounds = []
    for number in range(ROUNDS):
        rounds.append(a_round(fleet, number))
        fleet.load()
    rows = [middle(rows) for rows in zip(*rounds, strict=True)]
    show(table(rows))
    keep("1-fleet", rows)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_kills_in_every_phase(fleet: Fleet) -> None:
    for number, phase in enumerate(PHASES):
        kill_writers(fleet, phase)
        kill_applications(fleet, phase)
        a_round(fleet, number)
        fleet.load()
