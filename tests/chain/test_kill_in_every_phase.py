"""kill -9 of each party in each phase of a set: nothing stays frozen or held, and the next set works."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from phase_writer import PhaseWriter
from slow_control import SlowControl, slowly_reached

PHASES = ("prepare-backup", "prepare-snapshot", "freeze", "hold", "thaw", "post-snapshot", "backup-complete")
VICTIMS = ("requester", "writer", "daemon", "provider")


def online(chain: Any) -> bool:
    return all(entry["state"] == "online" for entry in chain.cli("volume", "list"))


class Attempt:
    """One backup that is brought to a phase and robbed of one of its parties there."""

    def __init__(self, chain: Any, phase: str, slow: SlowControl, wait_until: Any) -> None:
        self._chain, self._phase, self._slow, self._wait_until = chain, phase, slow, wait_until
        self._writer = PhaseWriter(chain, phase)
        wait_until("the writer to be registered", self._writer.registered)
        self._provider = chain.describe("one").pid
        if phase == "hold":
            slow.arm()
        self._requester = chain.module(
            "shadowset.requester.cli", "backup", f"{chain.directory}/backup-{phase}", "--json"
        )

    def reach(self) -> None:
        """Wait for the phase. In ``hold`` both file systems are frozen and the first volume's writes are held."""
        if self._phase == "hold":
            assert self._slow.held.wait(30), "the second provider was never asked to hold"
            self._wait_until("the first volume's hold", lambda: self._chain.describe("one").holding)
        else:
            self._wait_until(f"the set to reach {self._phase}", self._writer.reached)

    def kill(self, victim: str) -> None:
        pids = {
            "requester": self._requester.pid,
            "writer": self._writer.process.pid,
            "daemon": self._chain.daemon.pid,
            "provider": self._provider,
        }
        os.kill(pids[victim], signal.SIGKILL)

    def let_go(self) -> None:
        """Let everybody who is left go on, to whatever end."""
        self._slow.leave.set()
        self._writer.leave()
        self._requester.wait(90)

    def close(self) -> None:
        self._writer.close()


def robbed(chain: Any, phase: str, victim: str, slow: SlowControl, wait_until: Any) -> None:
    """Bring a backup to the phase and kill the victim there."""
    attempt = Attempt(chain, phase, slow, wait_until)
    try:
        attempt.reach()
        attempt.kill(victim)
    finally:
        attempt.let_go()
    chain.check_writable()
    if victim == "daemon":
        chain.daemon.wait(10)
        chain.start_daemon()
    attempt.close()


@pytest.fixture
def slow(volumes: Any) -> Iterator[SlowControl]:
    """The coordinator reaches the second provider through ``SlowControl``."""
    with slowly_reached(volumes, "two") as made:
        yield made


@pytest.mark.vss(22, 23)
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", VICTIMS)
def test_kill(volumes: Any, slow: SlowControl, wait_until: Any, victim: str) -> None:
    chain = volumes
    for phase in PHASES:
        robbed(chain, phase, victim, slow, wait_until)
        wait_until("the volumes to be online", lambda: online(chain))
        chain.check_writable()
        try:
            wait_until(f"the copies to go after {victim} was killed in {phase}", lambda: not chain.cli("list"))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{chain.cli('list')}\n{chain.log()[-4000:]}") from None
        record = chain.cli("create", *chain.places)
        assert len(record["snapshots"]) == len(chain.places), f"no next set after {victim} was killed in {phase}"
        chain.cli("delete", record["set_id"])
        for name in chain.places:
            assert chain.describe(name).copies == [], f"{victim} killed in {phase} left a copy on {name}"
