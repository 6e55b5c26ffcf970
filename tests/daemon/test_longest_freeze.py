"""How long file systems stand still when somebody is killed or stopped at each step between freeze and thaw.

With the release of the writes the file systems are thawed, so there are two steps at which they are frozen.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from typing import Any

import pytest

from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import VssError
from shadowset.vss.enums import Context, SnapshotState

pytestmark = [pytest.mark.host, pytest.mark.timeout(0)]

DEADLINE_S = 2.0
SLACK_S = 5.0
"""A busy machine may let everybody wait, the thread that measures included."""
STEPS = ("hold", "commit")
VICTIMS = ("coordinator", "guardian", "provider")
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)
SHORT = (
    ("hold", "coordinator", signal.SIGSTOP),
    ("commit", "guardian", signal.SIGKILL),
    ("hold", "provider", signal.SIGKILL),
    ("commit", "provider", signal.SIGSTOP),
)
ALL = tuple(itertools.product(STEPS, VICTIMS, SIGNALS))
Cases = tuple[tuple[str, str, signal.Signals], ...]


class Probe:
    """Writes to a file system all the time; ``longest`` is the longest that one write took, in seconds."""

    def __init__(self, place: str) -> None:
        self.longest = 0.0
        self._place = place
        self._began = 0.0
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        descriptor = os.open(f"{self._place}/probe", os.O_WRONLY | os.O_CREAT)
        while not self._ended:
            started = self._began = time.monotonic()
            os.pwrite(descriptor, b"x" * 4096, 0)
            self.longest = max(self.longest, time.monotonic() - started)
            time.sleep(0.002)
        os.close(descriptor)

    def waits(self, seconds: float) -> bool:
        return time.monotonic() - self._began > seconds

    def end(self) -> float:
        self._ended = True
        self._thread.join(60)
        assert not self._thread.is_alive(), f"{self._place} stays frozen"
        return self.longest


def online(host: Any) -> bool:
    requester = host.requester()
    states = {info.state for info in requester.call(rp.VolumeList)}
    requester.close()
    return states == {"online"}


def pid_of(host: Any, victim: str) -> int:
    if victim == "coordinator":
        return int(host.process.pid)
    return int(host.guardians()[0]) if victim == "guardian" else int(host.provider_pid("two"))


def play(host: Any, backup: Any, places: tuple[str, str], step: str, victim: str, number: signal.Signals) -> float:
    """The longest that a write waited; a set can be made afterwards."""
    mark = f"{host.base}/reached"
    host.faults("two", **{step: {"delay": DEADLINE_S * 2, "mark": mark}})
    provider = pid_of(host, "provider")
    run = backup(["one", "two"], context=Context.FILE_SHARE_BACKUP)
    probes = [Probe(place) for place in places]
    seq = run.requester.send(rp.DoSnapshotSet)
    host.until(lambda: os.path.exists(mark), f"the set to be at {step}")
    assert all(map(host.is_frozen, places))
    pid = provider if victim == "provider" else pid_of(host, victim)
    os.kill(pid, number)
    host.until(lambda: not any(probe.waits(0.05) for probe in probes), "the file systems to be thawed")
    longest = max(probe.end() for probe in probes)
    host.faults("two")
    os.unlink(mark)
    if number is signal.SIGSTOP:
        os.kill(pid, signal.SIGCONT)
    if victim == "coordinator" and number is signal.SIGKILL:
        host.kill()
        host.start()
    else:
        with contextlib.suppress(VssError):
            run.requester.result(seq, rp.DoSnapshotSet)
    run.requester.close()
    host.until(lambda: online(host), "the volumes to be online")
    return longest


@pytest.mark.parametrize("cases", [SHORT, pytest.param(ALL, marks=pytest.mark.long)], ids=["some", "all"])
def test_nothing_stands_still_for_longer_than_the_deadline(
    host: Any, backup: Any, figures: list[str], cases: Cases
) -> None:
    host.start("--limit", f"frozen_ms={DEADLINE_S * 1000:.0f}", "--limit", "hold_ms=1500")
    places = host.volume("one", "ext4"), host.volume("two", "xfs")
    longest = {}
    for step, victim, number in cases:
        what = f"{victim} {number.name} at {step}"
        longest[what] = play(host, backup, places, step, victim, number)
        assert longest[what] < DEADLINE_S + SLACK_S, what
    assert backup(["one", "two"], context=Context.FILE_SHARE_BACKUP).make().status is SnapshotState.CREATED
    what, seconds = max(longest.items(), key=lambda item: item[1])
    figures.append(f"longest freeze of {len(longest)} cases: {seconds:.3f} s ({what}), deadline {DEADLINE_S:g} s")
