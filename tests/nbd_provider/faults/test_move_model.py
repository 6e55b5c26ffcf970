"""A storage that moves while everything else happens to it, in every order that chance brings, beside plain copies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from moving import CHUNK, Scene

from shadowset.nbd_provider.store import move_steps, reclaim
from shadowset.nbd_provider.store.check import check_storage

OFTEN = ["move"] * 8 + ["write"] * 6 + ["cut"] * 2 + ["delete", "reclaim", "reclaim", "grow", "cancel", "kill"]


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch, small_segments: None) -> None:
    monkeypatch.setattr(move_steps, "STEP_SLOTS", 7)
    monkeypatch.setattr(move_steps, "CHASE_SLOTS", 5)
    monkeypatch.setattr(move_steps, "CHASES", 3)
    monkeypatch.setattr(move_steps, "LAST_SLOTS", 2)
    monkeypatch.setattr(move_steps, "PIECE", 3 * CHUNK)
    monkeypatch.setattr(reclaim, "STEP_SLOTS", 16)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_meanwhile(memory_directory: str, small_steps: None, long: bool, seed: int) -> None:
    finished = 0
    for number in range(500 if long else 3):
        directory = f"{memory_directory}/{number}"
        os.mkdir(directory)
        scene = Scene(directory, seed * 1000 + number)
        for _ in range(150):
            what = scene.chance.choice(OFTEN)
            if what == "kill":
                scene.die()
                scene.start()
            else:
                getattr(scene, what)()
            if scene.chance.random() < 0.3:
                scene.compare()
        scene.end_move()
        scene.compare()
        finished += scene.finished
        storage = scene.store.storage
        scene.store.head.sync()
        scene.close()
        report = check_storage(storage, scene.origin)
        assert report.sound, report.damages
    assert finished


def is_open(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}")


def test_what_is_left_in_the_old_places(memory_directory: str, small_steps: None) -> None:
    scene = Scene(memory_directory, 1)
    for _ in range(5):
        scene.cut()
        for _ in range(4):
            scene.write()
    for name in "bcab":
        scene.mover.begin(scene.place(name))
        scene.end_move()
        assert scene.store.storage == scene.place(name) and scene.mover.progress is None
        scene.compare()
        assert sorted(os.listdir(scene.place(name))) == ["head", "lock", "segments", "table"]
        open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if is_open(fd)]
        places = {os.path.dirname(path) for path in open_files if path.startswith(f"{scene.directory}/")}
        assert places == {scene.directory, scene.place(name), f"{scene.place(name)}/segments"}, [
            path for path in open_files if path.startswith(scene.directory)
        ]
    assert sorted(os.listdir(scene.place("a"))) == sorted(os.listdir(scene.place("c"))) == ["lock", "moved"]
    scene.close()
    assert Path(scene.place("b")).stat().st_mode & 0o777 == 0o700
