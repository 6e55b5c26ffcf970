"""A move that is cut off at each of its steps, by SIGKILL or by a power loss: no copy is wrong, and it goes on."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from crash_disk import Disk, abandon, killed_at
from moving import CHUNK, SET, SIZE, Scene

from shadowset.nbd_provider.store import layout, move, move_steps, place, writer
from shadowset.nbd_provider.store.check import check_storage
from shadowset.nbd_provider.store.move import Mover
from shadowset.nbd_provider.store.move_steps import Phase
from shadowset.nbd_provider.store.place import INCOMING, MOVED, MOVING, locate
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.settings import Limits, Policy
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss.codes import VssError

STEPS = ("pwrite", "pwritev", "fdatasync", "fsync", "posix_fallocate", "ftruncate", "rename", "unlink", "mkdir")
ORDERS = [("none", "none"), ("all", "all"), ("none", "all"), ("all", "none"), ("some", "none"), ("some", "some")]


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch, small_segments: None) -> None:
    monkeypatch.setattr(move_steps, "STEP_SLOTS", 20)
    monkeypatch.setattr(move_steps, "CHASE_SLOTS", 15)
    monkeypatch.setattr(move_steps, "LAST_SLOTS", 4)


def filled(scene: Scene, copies: int = 4) -> None:
    for _ in range(copies):
        scene.cut()
        for _ in range(3):
            scene.write()
    os.fdatasync(scene.fd)


def go_on(scene: Scene, directory: str, persistent: set[UUID], gone: Set[UUID] = frozenset()) -> str:
    """Start again at the old place, let the move end, write and read. Returns how far it had come."""
    fd = os.open(f"{directory}/origin", os.O_RDWR)
    store = ShadowStore(f"{directory}/a", fd, SIZE, CHUNK)
    try:
        there = os.path.basename(store.storage)
        living = {row.copy_id for row in store.table.entries if row.state in layout.LIVE_STATES}
        assert persistent <= living and not gone & living
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


def move_and_write(scene: Scene, in_the_new_place: Callable[[], None] = lambda: None) -> None:
    """Between the steps, and after them, the volume is written."""
    scene.mover.begin(scene.place("b"))
    for number, _ in enumerate(scene.mover.work() or ()):
        if number % 2:
            scene.write()
        if scene.mover.progress and scene.mover.progress.phase is Phase.CLEANING:
            in_the_new_place()
    scene.write()


def test_power_loss_at_every_step(memory_directory: str, small_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    boots = [UUID(int=1)]
    for module in (writer, move, move_steps, place):
        monkeypatch.setattr(module, "session_id", lambda _: boots[-1])
    home = f"{memory_directory}/home"
    os.mkdir(home)
    scene = Scene(home, 5)
    filled(scene)
    persistent = {row.copy_id for row in scene.store.table.entries if row.persistent}
    assert 0 < len(persistent) < len(scene.expected)
    scene.store.close()
    gone: set[UUID] = set()
    disk = Disk(home, scene.origin, ("a", "a/segments", "b", "b/segments"))
    chance = random.Random(3)
    found: list[str] = []

    def in_the_new_place() -> None:
        copy, victim = UUID(int=99), min(persistent)
        scene.expected[copy] = bytes(scene.content)
        scene.store.commit(copy, SET, 1, True)
        scene.store.finish(copy)
        persistent.add(copy)
        persistent.discard(victim)
        scene.store.delete(victim)
        gone.add(victim)

    def crash() -> None:
        disk.look()
        disk.recording = False
        for how in ORDERS:
            image = f"{memory_directory}/image"
            disk.write_image(image, chance, *how)
            os.rename(f"{image}/origin", f"{image}/storage/origin")
            rename_places(f"{image}/storage", home)
            boots.append(UUID(int=len(boots) + 1))
            found.append(go_on(scene, f"{image}/storage", persistent, gone))
            boots.pop()
            shutil.rmtree(image)
        disk.recording = True

    with monkeypatch.context() as patches:
        disk.patch(patches)
        disk.recording = True
        scene.start()
        disk.on_step = crash
        move_and_write(scene, in_the_new_place)
        crash()
        disk.recording = False
    for copy in gone:
        del scene.expected[copy]
        scene.readers.pop(copy).close() if copy in scene.readers else None
    assert {"here", "half", "there"} == set(found)
    scene.compare()
    scene.close()
    disk.close()


def rename_places(image: str, home: str) -> None:
    """The notes of an image name the places of the original."""
    for letter in "ab":
        for name in (MOVING, MOVED, INCOMING):
            path = Path(f"{image}/{letter}/{name}")
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


@pytest.fixture
def scene(memory_directory: str, small_steps: None) -> Iterator[Scene]:
    made = Scene(memory_directory, 8)
    filled(made)
    yield made
    made.close()


def until_the_step(scene: Scene) -> None:
    """Go on with the move until its last step comes next."""
    scene.mover.begin(scene.place("b"))
    steps = scene.mover.work()
    assert steps is not None
    while scene.mover.progress is None or scene.mover.progress.phase is not Phase.SWITCHING:
        next(steps)


def test_the_durable_step_is_taken_back_when_it_fails(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old directory's fsync fails after the renaming; whichever name a power loss leaves, it leads there."""
    until_the_step(scene)
    real, old, seen = os.fsync, scene.place("a"), []

    def fail(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == old and os.path.exists(f"{old}/{MOVED}"):
            seen.append(fd)
            raise OSError(errno.EIO, "no")
        real(fd)
        if seen and os.path.exists(f"{old}/{MOVED}"):
            assert locate(old) == old

    with monkeypatch.context() as patches:
        patches.setattr(os, "fsync", fail)
        scene.end_move()
    assert seen and scene.store.storage == old and scene.mover.progress
    assert scene.mover.progress.phase is Phase.STOPPED and not os.path.exists(scene.place("b"))
    assert locate(old) == old
    scene.write()
    scene.compare()
    scene.mover.begin(scene.place("b"))
    scene.end_move()
    assert scene.store.storage == scene.place("b")
    scene.write()
    scene.compare()


def test_nothing_is_copied_out_before_the_old_readers_are_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    until_the_step(scene)
    inode, real = os.stat(f"{scene.place('a')}/table").st_ino, os.pwrite

    def fail(fd: int, *arguments: Any) -> int:
        if os.fstat(fd).st_ino == inode:
            raise OSError(errno.EIO, "no")
        return real(fd, *arguments)

    with monkeypatch.context() as patches:
        patches.setattr(os, "pwrite", fail)
        steps = scene.mover.work()
        assert steps is not None
        next(steps)
        assert scene.store.storage == scene.place("b")
        newest = max(scene.expected, key=lambda copy: copy.int)
        with pytest.raises(OSError):
            scene.store.prepare_write([(0, SIZE)])
        with pytest.raises(OSError):
            scene.store.delete(newest)
        scene.compare()
    scene.write()
    scene.compare()
    scene.end_move()
    scene.write()
    scene.compare()


@pytest.mark.parametrize("how", ["gone", "another", "covered"])
def test_a_destination_that_is_another_one_by_now(scene: Scene, how: str) -> None:
    there = scene.place("b")
    until_the_step(scene)
    os.rename(there, f"{there}.before")
    if how != "gone":
        os.mkdir(there)
    if how == "covered":
        Path(f"{there}/{INCOMING}").write_text("{}")
    scene.end_move()
    progress = scene.mover.progress
    assert progress is not None and progress.phase is Phase.STOPPED and scene.store.storage == scene.place("a")
    assert MOVING not in os.listdir(scene.place("a")) and not scene.store.moving
    scene.write()
    scene.compare()
    shutil.rmtree(there, ignore_errors=True)
    scene.mover.begin(there)
    scene.end_move()
    assert scene.store.storage == there
    scene.write()
    scene.compare()


def test_a_destination_that_is_not_there_at_the_start(scene: Scene) -> None:
    """An unmounted file system: the volume is served from the old place, and nothing is copied to the mount point."""
    until_the_step(scene)
    scene.die()
    os.rename(scene.place("b"), scene.place("unmounted"))
    os.mkdir(scene.place("b"))
    scene.start()
    scene.end_move()
    assert scene.mover.progress and "mount what belongs there" in scene.mover.progress.reason
    assert not os.listdir(scene.place("b"))
    scene.write()
    scene.compare()


def test_a_storage_whose_place_is_away_is_not_made_anew(scene: Scene) -> None:
    scene.mover.begin(scene.place("b"))
    scene.end_move()
    scene.die()
    os.rename(scene.place("b"), scene.place("unmounted"))
    with pytest.raises(VssError, match=r"was moved to .*/b, and there is no storage there now"):
        scene.start()
    assert sorted(os.listdir(scene.place("a"))) == ["lock", "moved"]
    os.rename(scene.place("unmounted"), scene.place("b"))
    scene.start()
    scene.compare()


class Killed(BaseException):
    """SIGKILL."""


@pytest.mark.parametrize("killed", [False, True])
def test_a_cut_amid_the_last_step_is_not_lost(scene: Scene, monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    """A cut does not wait for the step; its row goes to the old table after that was copied."""
    until_the_step(scene)
    real = os.rename

    def cut_and_die(source: str, target: str) -> None:
        real(source, target)
        if target.endswith(MOVED):
            scene.expected[UUID(int=99)] = bytes(scene.content)
            scene.store.commit(UUID(int=99), SET, 1, True)
            if killed:
                raise Killed

    with monkeypatch.context() as patches:
        patches.setattr(os, "rename", cut_and_die)
        if killed:
            with pytest.raises(Killed):
                scene.end_move()
        else:
            scene.end_move()
    if killed:
        scene.die()
        scene.start()
    assert scene.store.storage == scene.place("b") and scene.store.newest == 5
    scene.write()
    scene.compare()


def test_what_a_failed_copy_out_has_left_is_not_taken_along(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sync failed and the write was refused, so the copy still takes the chunk from the origin."""
    scene.cut()
    scene.store.make_persistent(scene.store.table.entries[-1])
    scene.store.configure(Limits(policy=Policy.PROTECT_COPIES))
    first = scene.store.next_slot

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patches:
        patches.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError):
            scene.store.prepare_write([(0, 4 * CHUNK)])
    assert scene.store.next_slot == first  # the slots are taken again
    number, _, at = layout.slot_position(first, CHUNK)
    os.pwrite(scene.store.segments.get(number).fd, bytes(4 * CHUNK), at)
    scene.compare()
    scene.mover.begin(scene.place("b"))
    scene.end_move()
    assert scene.store.storage == scene.place("b")
    scene.compare()
