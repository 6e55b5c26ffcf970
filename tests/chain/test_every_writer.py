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
from applications import Application, Fleet, check_numbers, label
from phase_writer import PhaseWriter

ROUNDS = 20
PHASES = ("prepare-backup", "prepare-snapshot", "freeze", "thaw", "post-snapshot", "backup-complete")
FROZEN = ("freeze", "thaw")
COLUMNS = ("writer", "freeze ms", "thaw ms", "longest stall ms", "bytes", "numbers", "result")


@pytest.fixture
def fleet(chain: Any, wait_until: Callable[..., Any]) -> Iterator[Fleet]:
    chain.add_volumes((("data", "ext4", 2 << 30),))
    for directory in (chain.directory, chain.places["data"]):
        os.chmod(directory, 0o755)
    made = Fleet(chain, wait_until)
    try:
        made.start()
        yield made
    finally:
        made.close()
    if made.left_out:
        pytest.skip(f"tested without {made.left_out}")


def lasted(record: Any, writer: str, phase: str) -> float:
    """How long a writer took for an event of a set, in milliseconds."""
    entries = [each for each in record["timeline"] if each["phase"] == phase]
    (entry,) = [each for each in entries if each["actor"].startswith(f"writer {writer} ")]
    return round(float(entry["end_ms"] - entry["start_ms"]), 1)


def table(rows: list[tuple[Any, ...]]) -> str:
    lines = [COLUMNS, *rows]
    widths = [max(len(f"{line[number]}") for line in lines) for number in range(len(COLUMNS))]
    shown = ("  ".join(f"{cell}".rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n" + "\n".join(shown)


def middle(rows: tuple[tuple[Any, ...], ...]) -> tuple[Any, ...]:
    """One application's rounds in one row: the medians of the times, the longest stall, the rest of the last round."""
    times = [sorted(row[number] for row in rows)[len(rows) // 2] for number in (1, 2)]
    return (rows[-1][0], *times, max(row[3] for row in rows), *rows[-1][4:6], f"{len(rows)} times restored")


def a_round(fleet: Fleet, number: int) -> list[tuple[Any, ...]]:
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
    sizes = {label(entry["writer"], entry): entry["bytes"] for entry in done["components"]}
    rows = []
    for each in fleet.applications:
        count = verified(each, before[each.name], after[each.name])
        stall = round(fleet.loads[each.name].longest * 1000)
        times = [lasted(record, each.writer_name, phase) for phase in FROZEN]
        rows.append((each.name, *times, stall, sizes[each.writer_name], count, "restored"))
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
    show(table([middle(rows) for rows in zip(*rounds, strict=True)]))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_kills_in_every_phase(fleet: Fleet) -> None:
    for number, phase in enumerate(PHASES):
        kill_writers(fleet, phase)
        kill_applications(fleet, phase)
        a_round(fleet, number)
        fleet.load()
