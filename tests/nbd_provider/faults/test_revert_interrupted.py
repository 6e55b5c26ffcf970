"""A revert that is cut off at each of its steps by SIGKILL or by a power loss ends right after the next start."""

from __future__ import annotations

import os
import random
import shutil
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from crash_disk import Disk, abandon, killed_at

from shadowset.nbd_provider.store import copy_out, layout, revert, writer
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.revert import Phase, Reverter
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
SIZE = CHUNK * 40 - 1536
SET = UUID(int=1 << 64)
STEPS = ("pwrite", "pwritev", "fdatasync", "fsync", "posix_fallocate")
ORDERS = [("none", "none"), ("all", "all"), ("none", "all"), ("all", "none"), ("some", "none"), ("some", "some")]


class Scene:
    """A storage with five copies, every second one persistent, and what each of them and the volume hold."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.storage, self.origin = f"{directory}/storage", f"{directory}/origin"
        self.chance = random.Random(11)
        self.content = bytearray(self.chance.randbytes(SIZE))
        Path(self.origin).write_bytes(self.content)
        self.fd = os.open(self.origin, os.O_RDWR)
        self.copies: dict[UUID, bytes] = {}
        self.store: ShadowStore | None = None

    def fill(self) -> None:
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK)
        for number in range(1, 6):
            copy = UUID(int=number)
            self.copies[copy] = bytes(self.content)
            self.store.commit(copy, SET, 1, number % 2 == 0)
            self.store.finish(copy)
            for _ in range(3):
                offset = self.chance.randrange(SIZE)
                data = self.chance.randbytes(min(CHUNK * self.chance.randrange(1, 6), SIZE - offset))
                self.store.prepare_write([(offset, len(data))])
                os.pwrite(self.fd, data, offset)
                self.content[offset : offset + len(data)] = data
        os.fdatasync(self.fd)

    def close(self) -> None:
        abandon(self.store)
        os.close(self.fd)


def finish(directory: str, scene: Scene, target: UUID, persistent: set[UUID]) -> str:
    """Start again where a revert was cut off, and let it end. Returns how far it had come."""
    fd = os.open(f"{directory}/origin", os.O_RDWR)
    store = ShadowStore(f"{directory}/storage", fd, SIZE, CHUNK)
    try:
        living = {row.copy_id for row in store.table.entries if row.state in layout.LIVE_STATES}
        assert persistent <= living
        compare(directory, scene, living)
        reverter = Reverter(store, fd)
        if reverter.progress is None:
            content = os.pread(fd, SIZE, 0)
            assert content in (bytes(scene.content), scene.copies[target])
            return "done" if content == scene.copies[target] else "untouched"
        assert reverter.progress.copy_id == target
        for _ in reverter.work() or ():
            compare(directory, scene, living)
        assert reverter.progress is None
        assert os.pread(fd, SIZE, 0) == scene.copies[target]
        compare(directory, scene, living)
        return "half"
    finally:
        abandon(store)
        os.close(fd)


def compare(directory: str, scene: Scene, copies: set[UUID]) -> None:
    for copy in copies:
        reader = CopyReader(f"{directory}/storage", f"{directory}/origin", copy)
        assert reader.read(0, SIZE) == scene.copies[copy], f"copy {copy.int} is wrong"
        reader.close()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch, small_segments: None) -> None:
    monkeypatch.setattr(revert, "STEP_BYTES", CHUNK * 2)
    monkeypatch.setattr(revert, "NOTE_BYTES", CHUNK * 4)


@pytest.mark.parametrize("number", [1, 2, 4, 5])
def test_power_loss_at_every_step(
    memory_directory: str, small_steps: None, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    scene, target = Scene(memory_directory), UUID(int=number)
    boots = [UUID(int=1)]
    monkeypatch.setattr(writer, "session_id", lambda _: boots[-1])
    disk = Disk(scene.storage, scene.origin)
    chance = random.Random(number)
    found: list[str] = []

    def crash() -> None:
        disk.look()
        disk.recording = False
        for how in ORDERS:
            image = f"{memory_directory}/image"
            disk.write_image(image, chance, *how)
            boots.append(UUID(int=len(boots) + 1))
            found.append(finish(image, scene, target, {UUID(int=2), UUID(int=4)}))
            boots.pop()
            shutil.rmtree(image)
        disk.recording = True

    with monkeypatch.context() as patches:
        disk.patch(patches)
        disk.recording = True
        scene.fill()
        disk.on_step = crash
        reverter = Reverter(scene.store, scene.fd)
        reverter.begin(target)
        for _ in reverter.work() or ():
            pass
        crash()
        disk.recording = False
    assert os.pread(scene.fd, SIZE, 0) == scene.copies[target]
    assert {"untouched", "half", "done"} == set(found)
    scene.close()
    disk.close()


@pytest.mark.parametrize("number", [1, 5])
def test_sigkill_at_every_step(memory_directory: str, small_steps: None, number: int) -> None:
    home = f"{memory_directory}/home"
    os.mkdir(home)
    scene, target = Scene(home), UUID(int=number)
    scene.fill()
    scene.close()
    everything, found, step = set(scene.copies), [], 0
    while True:
        step += 1
        place = f"{memory_directory}/{step}"
        shutil.copytree(home, place)
        if not killed_at(step, STEPS, partial(whole_revert, place, target)):
            break
        found.append(finish(place, scene, target, everything))
        shutil.rmtree(place)
    assert step > 20 and found[0] == "untouched" and found.count("half") > 10


def whole_revert(place: str, target: UUID) -> None:
    fd = os.open(f"{place}/origin", os.O_RDWR)
    reverter = Reverter(ShadowStore(f"{place}/storage", fd, SIZE, CHUNK), fd)
    reverter.begin(target)
    for _ in reverter.work() or ():
        pass


@pytest.mark.parametrize(
    ("call", "where"), [("posix_fallocate", "storage"), ("pwrite", "origin"), ("fdatasync", "origin")]
)
def test_an_error_stops_it_and_it_goes_on(
    memory_directory: str, small_steps: None, monkeypatch: pytest.MonkeyPatch, call: str, where: str
) -> None:
    """A full storage or a failing origin in the middle: no copy is lost, nobody may use the volume, then it ends."""
    scene, target = Scene(memory_directory), UUID(int=1)
    scene.fill()
    store = scene.store
    assert store is not None
    reverter, inode = Reverter(store, scene.fd), os.fstat(scene.fd).st_ino
    real, errors = getattr(os, call), []

    def fail(fd: int, *arguments: object) -> object:
        if (
            reverter.progress
            and reverter.progress.done >= SIZE // 3
            and (os.fstat(fd).st_ino == inode) == (where == "origin")
        ):
            errors.append(fd)
            raise OSError(28 if where == "storage" else 5, "no")
        return real(fd, *arguments)

    with monkeypatch.context() as patches:
        patches.setattr(os, call, fail)
        patches.setattr(copy_out, "GROWTH_SLOTS", 1)
        reverter.begin(target)
        assert reverter.blocks
        for _ in reverter.work() or ():
            pass
    assert errors and reverter.progress and reverter.progress.phase is Phase.STOPPED and reverter.blocks
    assert store.room.events[-1].kind == "revert-stopped"
    assert store.table.live == [1, 2, 3, 4, 5]
    compare(memory_directory, scene, set(scene.copies))
    reverter.begin(target)
    for _ in reverter.work() or ():
        pass
    assert reverter.progress is None and not reverter.blocks
    assert os.pread(scene.fd, SIZE, 0) == scene.copies[target]
    compare(memory_directory, scene, set(scene.copies))
    scene.close()
