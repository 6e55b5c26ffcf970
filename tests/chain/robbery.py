"""A set that is brought to one of its phases, where writers or applications are killed.

Everybody who is left goes on. Afterwards nothing is frozen, held or locked, and applications have what they answered.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from fleet import Fleet, check_numbers
from phase_writer import PhaseWriter
from rounds import label
from slow_control import SlowControl

PHASES = ("prepare-backup", "prepare-snapshot", "freeze", "hold", "thaw", "post-snapshot", "backup-complete")
QUIET = ("freeze", "hold", "thaw")  # the phases in which applications that were asked to freeze are frozen
VICTIMS = ("writer", "application")


class Outcome(NamedTuple):
    """What the backup said: its exit status, whether each writer's components succeeded, and its words."""

    status: int
    succeeded: dict[str, bool]
    said: str


class Robbery:
    """One backup on its way. In ``hold`` all file systems are frozen and the writes of the first volume are held."""

    def __init__(self, fleet: Fleet, phase: str, slow: SlowControl | None = None) -> None:
        self.fleet, self.phase, self.chain = fleet, phase, fleet.chain
        self.backup = f"{self.chain.directory}/robbed"
        self.answered: dict[str, int] = {}
        # of the system's level: it freezes last and thaws first, so the others are frozen while it waits
        self._writer, self._slow = PhaseWriter(self.chain, phase, "SYSTEM"), slow
        try:
            fleet.wait_until("the phase writer", self._writer.registered)
            if slow is not None and phase == "hold":
                slow.arm()
            self._requester = subprocess.Popen(
                [sys.executable, "-m", "shadowset.requester.cli", "backup", self.backup, "--json"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=self.chain.environment,
            )  # fmt: skip
            self.chain.processes.append(self._requester)
            self._reach()
        except BaseException:
            self._writer.close()
            raise

    def _reach(self) -> None:
        if self.phase == "hold":
            assert self._slow is not None and self._slow.held.wait(60), "the second provider was never asked to hold"
            self.fleet.wait_until("the first volume's hold", lambda: self.chain.describe("data").holding)
        else:
            self.fleet.wait_until(f"the set to reach {self.phase}", self._writer.reached, 60)

    def finish(self) -> Outcome:
        """Lets everybody go on."""
        if self._slow is not None:
            self._slow.leave.set()
        self._writer.leave()
        out, said = self._requester.communicate(timeout=120)
        self._writer.close()
        self.chain.check_writable()
        entries = json.loads(out)["components"] if out.strip() else []
        succeeded: dict[str, bool] = {}
        for entry in entries:
            name = label(entry["writer"], entry)
            succeeded[name] = succeeded.get(name, True) and entry["succeeded"]
        return Outcome(self._requester.returncode, succeeded, said + out)

    def forget(self) -> None:
        shutil.rmtree(self.backup, ignore_errors=True)


def kill(fleet: Fleet, victim: str) -> list[threading.Thread]:
    """SIGKILL to all of one kind. Who writes to a frozen file system ends when it is thawed: so by threads."""
    victims: list[Any] = list(fleet.writers.values()) if victim == "writer" else fleet.applications

    def end(each: Any) -> None:
        each.kill()
        if victim == "writer":
            each.wait(60)

    threads = [threading.Thread(target=end, args=(each,)) for each in victims]
    for thread in threads:
        thread.start()
    return threads


def rob(
    fleet: Fleet, victim: str, phase: str, slow: SlowControl | None = None, look: Callable[[], None] | None = None
) -> tuple[Robbery, Outcome]:
    """One robbery from beginning to end, with a ``look`` before; everything runs again afterwards, under load."""
    robbery = Robbery(fleet, phase, slow)
    threads = []
    try:
        if look is not None:
            look()
        threads = kill(fleet, victim)
        if victim == "writer" and phase != "hold":
            fleet.wait_for_more()  # although the set was neither thawed nor aborted yet
    finally:
        outcome = robbery.finish()
        for thread in threads:
            thread.join()
    if victim == "writer":
        for each in fleet.applications:
            fleet.start_writer(each)
        fleet.wait_for_more()
    else:
        robbery.answered = begin_again(fleet, phase)
    fleet.wait_for_writers()
    return robbery, outcome


def begin_again(fleet: Fleet, phase: str) -> dict[str, int]:
    """Starts killed applications, which go on with what they had answered, or anew where a kill spoils their files.

    Returns the last number that each had answered before.
    """
    answered = {name: load.done for name, load in fleet.loads.items()}
    fleet.stop_load()
    for each in fleet.applications:
        if each.crash_safe or phase in QUIET:
            each.start()
            least = answered[each.name] if each.durable else 0
            check_numbers(each.name, each.numbers(), least, answered[each.name])
        else:
            shutil.rmtree(each.data)
            each.start()
    fleet.load()
    return answered
