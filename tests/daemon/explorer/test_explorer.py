"""Every state of a set's creation, within a number of deviations, by the coordinator's own code.

What must hold is in ``model_watch``: nothing stays frozen or held, no part of a set, every session ends, every writer
hears once how it ended, freeze and thaw in their order. The planted faults show that a violation is found.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from explore import Explorer, Found
from hypothesis import given, settings
from hypothesis import strategies as st
from model_world import Setting, World

from shadowset.daemon import cut, freeze, snapshot_set
from shadowset.daemon.backup_session import BackupSession
from shadowset.daemon.creation import Footprint
from shadowset.daemon.cut import Cut
from shadowset.daemon.quiet import Quiet
from shadowset.daemon.snapshots import Snapshots
from shadowset.daemon.writer_states import WriterProgress
from shadowset.vss.codes import VssError
from shadowset.vss.enums import FREEZE_ORDER, Context, Level, SnapshotState

LONG = bool(os.environ.get("SHADOWSET_LONG_TESTS"))
FRONT, BACK, SYSTEM = FREEZE_ORDER

SMALL = Setting((FRONT,), (("one",),))
PAIR = Setting((FRONT, BACK), (("one", "two"),))
SETTINGS = {
    "pair": PAIR,
    "without writers": Setting((), (("one", "two"),), context=Context.FILE_SHARE_BACKUP),
    "kept copies": Setting((FRONT, BACK), (("one", "two"),), context=Context.APP_ROLLBACK),
    "full catalogue": Setting((FRONT, SYSTEM), (("one", "two"),), broken_catalogue=True),
    "no thread to thaw": Setting((FRONT,), (("one", "two"),), no_thread_for=("_thaw",)),
    "two sets side by side": Setting((FRONT, BACK), (("one",), ("two",)), enabled=((0,), (1,)), beside=True),
    "two sets, one writer": Setting((FRONT,), (("one",), ("two",)), beside=True),
    "two sets, one volume": Setting((), (("one",), ("one",)), context=Context.FILE_SHARE_BACKUP, beside=True),
    "from hello on": Setting((FRONT, BACK), (("one",),), from_hello=True),
}


def show(found: Found) -> str:
    return "\n  ".join([found.violation, *found.trace])


def enough(runs: int) -> Callable[[Found], bool]:
    return lambda found: not LONG and found.runs >= runs


@pytest.mark.vss(7)
@pytest.mark.timeout(0 if LONG else 180)
@pytest.mark.parametrize("name", SETTINGS)
def test_one_deviation_at_any_step(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = Explorer(SETTINGS[name], 1).run()
    assert not found.violation, show(found)
    with capsys.disabled():
        print(f"\n{name}, one deviation: {found}", end="")
    assert found.states > 300 and found.ends > 30


@pytest.mark.timeout(0 if LONG else 180)
@pytest.mark.parametrize(("name", "setting", "runs"), [("small", SMALL, 3000), ("pair", PAIR, 1500)])
def test_two_deviations(name: str, setting: Setting, runs: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = Explorer(setting, 3 if LONG and setting is SMALL else 2, enough(runs)).run()
    assert not found.violation, show(found)
    with capsys.disabled():
        print(f"\n{name}, two deviations: {found}", end="")


LARGE = Setting((FRONT, FRONT, BACK, SYSTEM), (("one", "two", "three"),))
CHOICES = st.dictionaries(st.integers(0, 90), st.integers(1, 40), max_size=8)


@pytest.mark.timeout(0 if LONG else 180)
@settings(max_examples=20_000 if LONG else 100, deadline=None, derandomize=not LONG)
@given(CHOICES)
def test_many_deviations_in_a_larger_set(choices: dict[int, int]) -> None:
    found = Explorer(LARGE, 0).walk(choices)
    assert not found.violation, show(found)


@pytest.mark.vss(83)
@pytest.mark.parametrize("most", [64, 3])
def test_a_set_holds_as_many_volumes_as_are_allowed(most: int) -> None:
    for count in (most, most + 1):
        names = tuple(f"v{number:02}" for number in range(count))
        world = World(Setting((), (names,), context=Context.NAS_ROLLBACK, volumes_per_set=most))
        try:
            while moves := world.moves():
                world.apply(moves[0])
                world.watch.check()
            world.watch.final()
            assert not world.watch.violations
            (results, sets) = world.requesters[0].results, world.house.catalogue.sets  # type: ignore[attr-defined]
            if count == most:
                (record,) = sets.values()
                assert record.status is SnapshotState.CREATED and len(record.snapshots) == most
            else:
                assert not sets and results[-1].endswith("VSS_E_MAXIMUM_NUMBER_OF_VOLUMES_REACHED")
        finally:
            world.put_away()


# ---- planted faults ----


async def thaw_nothing(roots: Any, on_thawed: Any) -> list[str]:
    return []


async def thaw_what_is_frozen(root: Any, on_thawed: Any) -> str:
    if root.frozen:
        await root.kernel.run(lambda: freeze._thaw(root))
    return ""


async def release_nothing(self: Any, each: Any) -> None:
    return None


async def commit_what_works(self: Any, each: Any, commit: Any = Cut._commit_one) -> None:
    try:
        await commit(self, each)
    except VssError:
        each.cut_at = 1.0


async def arm_nobody(self: Any, deadline: float) -> None:
    return None


async def finish_all(self: Any, provider: Any, volume: str, told: Any, known: Any = None) -> None:
    for info in told:
        await provider.post_final_commit(volume, info.copy_id)


FAULTS = {
    "thaw skipped": (cut, "thaw_roots", thaw_nothing),
    "release skipped": (Cut, "_release_one", release_nothing),
    "guardian not armed": (Cut, "arm", arm_nobody),
    "a failed commit passed over": (Cut, "_commit_one", commit_what_works),
    "files written meanwhile": (Quiet, "enter", lambda self: None),
    "order turned round": (snapshot_set, "FREEZE_ORDER", (Level.SYSTEM, Level.BACK_END, Level.FRONT_END)),
    "a shared writer passed over": (Footprint, "meets", lambda self, other: False),
    "abort said twice": (WriterProgress, "sent", lambda self, event: setattr(self, "prepared_snapshot", True)),
    "pending copies all finished": (Snapshots, "reconcile", finish_all),
    "turn kept": (BackupSession, "_end_turn", lambda self: None),
    "a freeze under way forgotten": (freeze, "_thaw_one", thaw_what_is_frozen),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, what, instead = FAULTS[name]
    assert hasattr(where, what)
    monkeypatch.setattr(where, what, instead)
    setting = SETTINGS["two sets, one writer"] if "shared" in name else PAIR
    found = Explorer(setting, 1).run()
    assert found.violation and found.trace, found
