"""A move that is cut off at each of its steps, by SIGKILL or by a power loss: no copy is wrong, and it goes on."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path
from uuid import UUID

import pytest
from crash_disk import Disk, abandon, killed_at
from moving import CHUNK, SET, SIZE, Scene

from shadowset.nbd_provider.store import layout, move, writer
from shadowset.nbd_provider.store.check import check_storage
from shadowset.nbd_provider.store.move import Mover, Phase
from shadowset.nbd_provider.store.place import INCOMING, MOVED, MOVING
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore

STEPS = ("pwrite", "pwritev", "fdatasync", "fsync", "posix_fallocate", "ftruncate", "rename", "unlink", "mkdir")
ORDERS = [("none", "none"), ("all", "all"), ("none", "all"), ("all", "none"), ("some", "none"), ("some", "some")]


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch, small_segments: None) -> None:
    monkeypatch.setattr(move, "STEP_SLOTS", 20)
    monkeypatch.setattr(move, "CHASE_SLOTS", 15)
    monkeypatch.setattr(move, "LAST_SLOTS", 4)


def filled(scene: Scene, copies: int = 4) -> None:
    for _ in range(copies):
        scene.cut()
        for _ in range(3):
            scene.write()
    os.fdatasync(scene.fd)


def go_on(scene: Scene, directory: str, persistent: set[UUID]) -> str:
    """Start again at the old place, let the move end, write and read. Returns how far it had come."""
    fd = os.open(f"{directory}/origin", os.O_RDWR)
    store = ShadowStore(f"{directory}/a", fd, SIZE, CHUNK)
    try:
        there = os.path.basename(store.storage)
        living = {row.copy_id for row in store.table.entries if row.state in layout.LIVE_STATES}
        assert persistent <= living
        readers = compare(scene, directory, living)
        mover = Mover(store)
        how = "there" if there == "b" else "half" if mover.active else "here"
        for _ in mover.work() or ():
            for copy, reader in readers.items():
                assert reader.read(0, SIZE) == scene.expected[copy], f"copy {copy.int} is wrong amid the move"
        assert mover.progress is None and os.path.basename(store.storage) == ("a" if how == "here" else "b")
        store.commit(UUID(int=1 << 30), SET, 1, False)
        for chunk in range(0, SIZE // CHUNK, 3):
            store.prepare_write([(chunk * CHUNK, CHUNK)])
            os.pwrite(fd, b"n" * CHUNK, chunk * CHUNK)
        for copy, reader in readers.items():
            assert reader.read(0, SIZE) == scene.expected[copy], f"copy {copy.int} is wrong after the move"
            reader.close()
        return how
    finally:
        abandon(store)
        os.close(fd)


def compare(scene: Scene, directory: str, copies: set[UUID]) -> dict[UUID, CopyReader]:
    readers = {copy: CopyReader(f"{directory}/a", f"{directory}/origin", copy) for copy in copies}
    for copy, reader in readers.items():
        assert reader.read(0, SIZE) == scene.expected[copy], f"copy {copy.int} is wrong"
    return readers


def move_and_write(scene: Scene) -> None:
    """Between the steps, and after them, the volume is written."""
    scene.mover.begin(scene.place("b"))
    for number, _ in enumerate(scene.mover.work() or ()):
        if number % 2:
            scene.write()
    scene.write()


def test_power_loss_at_every_step(memory_directory: str, small_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    boots = [UUID(int=1)]
    for module in (writer, move):
        monkeypatch.setattr(module, "boot_id", lambda: boots[-1])
    home = f"{memory_directory}/home"
    os.mkdir(home)
    scene = Scene(home, 5)
    filled(scene)
    persistent = {row.copy_id for row in scene.store.table.entries if row.persistent}
    assert 0 < len(persistent) < len(scene.expected)
    scene.store.close()
    disk = Disk(home, scene.origin, ("a", "a/segments", "b", "b/segments"))
    chance = random.Random(3)
    found: list[str] = []

    def crash() -> None:
        disk.look()
        disk.recording = False
        for how in ORDERS:
            image = f"{memory_directory}/image"
            disk.write_image(image, chance, *how)
            os.rename(f"{image}/origin", f"{image}/storage/origin")
            rename_places(f"{image}/storage", home)
            boots.append(UUID(int=len(boots) + 1))
            found.append(go_on(scene, f"{image}/storage", persistent))
            boots.pop()
            shutil.rmtree(image)
        disk.recording = True

    with monkeypatch.context() as patches:
        disk.patch(patches)
        disk.recording = True
        scene.start()
        disk.on_step = crash
        move_and_write(scene)
        crash()
        disk.recording = False
    assert {"here", "half", "there"} == set(found)
    scene.compare()
    scene.close()
    disk.close()


def rename_places(image: str, home: str) -> None:
    """The notes of an image name the places of the original."""
    for place in "ab":
        for name in (MOVING, MOVED, INCOMING):
            path = Path(f"{image}/{place}/{name}")
            if path.exists():
                path.write_bytes(path.read_bytes().replace(home.encode(), image.encode()))


def test_sigkill_at_every_step(memory_directory: str, small_steps: None) -> None:
    """Readers that had the old place open before go on through the kill and the restart."""
    home = f"{memory_directory}/home"
    os.mkdir(home)
    scene = Scene(home, 6)
    filled(scene)
    scene.die()
    found, step = [], 0
    while True:
        step += 1
        directory = f"{memory_directory}/{step}"
        shutil.copytree(home, directory)
        readers = {copy: CopyReader(f"{directory}/a", f"{directory}/origin", copy) for copy in scene.expected}
        if not killed_before(scene, directory, step):
            break
        for copy, reader in readers.items():
            assert reader.read(0, SIZE) == scene.expected[copy], f"copy {copy.int} is wrong after the kill"
        found.append(go_on(scene, directory, set(scene.expected)))
        for copy, reader in readers.items():
            assert reader.read(0, SIZE) == scene.expected[copy], f"an old reader of copy {copy.int} is wrong"
            reader.close()
        shutil.rmtree(directory)
    assert step > 40 and found[0] == "here" and found.count("half") > 20 and found.count("there") > 5
    for reader in scene.readers.values():
        reader.close()
    os.close(scene.fd)


def killed_before(scene: Scene, directory: str, last: int) -> bool:
    """Open the store there and move, as far as ``killed_at`` lets it."""

    def work() -> None:
        scene.directory, scene.origin = directory, f"{directory}/origin"
        scene.fd = os.open(scene.origin, os.O_RDWR)
        scene.start()
        move_and_write(scene)

    return killed_at(last, STEPS, work)


@pytest.mark.parametrize(("call", "number"), [("pwrite", errno.ENOSPC), ("fdatasync", errno.EIO), ("fsync", errno.EIO)])
def test_an_error_at_any_place_of_the_destination_leaves_the_old_one(
    memory_directory: str, small_steps: None, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Each call on a file of the destination fails once; the volume and its readers go on in the old place."""
    scene = Scene(memory_directory, 7)
    filled(scene)
    real, calls, failures, which = getattr(os, call), 0, 0, 0
    target = scene.place("b")

    def fail(fd: int, *arguments: object) -> object:
        nonlocal calls
        if os.readlink(f"/proc/self/fd/{fd}").startswith(target):
            calls += 1
            if calls == which:
                raise OSError(number, os.strerror(number))
        return real(fd, *arguments)

    while True:
        which, calls = which + 1, 0
        with monkeypatch.context() as patches:
            patches.setattr(os, call, fail)
            try:
                scene.mover.begin(target)
            except OSError:
                failures += 1
                assert not scene.mover.active and scene.store.storage == scene.place("a")
                continue
            scene.end_move()
        if scene.mover.progress is None:
            break
        failures += 1
        assert scene.mover.progress.phase is Phase.STOPPED and scene.store.storage == scene.place("a")
        assert scene.store.room.events[-1].kind == "move-stopped"
        assert not os.path.exists(target) or not os.listdir(target)
        scene.write()
        scene.compare()
    assert failures > 1 and scene.store.storage == target
    scene.write()
    scene.compare()
    storage = scene.store.storage
    scene.close()
    assert check_storage(storage).sound
