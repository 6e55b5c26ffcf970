"""Power loss and SIGKILL at every durable step of the store, with any order of what had not been synced."""

from __future__ import annotations

import collections
import os
import random
import shutil
import time
from itertools import count
from uuid import UUID

import pytest
from crash_disk import SECTOR, Disk, PowerLost, abandon

from shadowset.nbd_provider.store import layout, writer
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
CHUNKS = 48
SIZE = CHUNK * CHUNKS - 1536
LIVES = 30
SECONDS = 15
LEAST = 200
STEPS_IN_A_LIFE = 160
ORDERS = 3
FIXED_ORDERS = [("none", "none"), ("all", "all"), ("none", "all"), ("all", "none")]


class Machine:
    """A store under random work on a disk that may lose power, and what must be found afterwards."""

    def __init__(self, directory: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.chance = random.Random(seed)
        self.boot = UUID(int=1)
        monkeypatch.setattr(writer, "session_id", lambda _: self.boot)
        self.monkeypatch = monkeypatch
        self.images: collections.Counter[str] = collections.Counter()
        self.ids = 0
        self.must: dict[UUID, bytes] = {}
        self.may: dict[UUID, bytes] = {}
        self.automatic: dict[UUID, bytes] = {}
        self.gone: set[UUID] = set()
        os.makedirs(f"{directory}/0/storage")
        with open(f"{directory}/0/origin", "wb") as file:
            file.write(self.chance.randbytes(SIZE))

    # ---- a life: from one start of the machine to its power loss ----

    def live(self, number: int) -> None:
        self.home = f"{self.directory}/{number}"
        self.storage, self.origin = f"{self.home}/storage", f"{self.home}/origin"
        self.fd = os.open(self.origin, os.O_RDWR)
        self.content = bytearray(os.pread(self.fd, SIZE, 0))
        self.unflushed: set[int] = set()
        self.disk = Disk(self.storage, self.origin)
        self.steps_left = self.chance.randrange(STEPS_IN_A_LIFE // 4, STEPS_IN_A_LIFE)
        self.next_home = f"{self.directory}/{number + 1}"
        with self.monkeypatch.context() as patches:
            self.disk.patch(patches)
            self.disk.on_step = self.crash_here
            self.disk.recording = True
            self.store = None
            try:
                self.open()
                while True:
                    self.work()
                    self.crash_here()
            except PowerLost:
                self.disk.recording = False
        abandon(self.store)
        self.disk.close()
        os.close(self.fd)
        shutil.rmtree(self.home)

    def open(self) -> None:
        self.store = None
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK)
        found = {entry.copy_id for entry in self.store.table.entries if entry.state in layout.LIVE_STATES}
        for copy in set(self.may) - found:
            self.gone.add(copy)
            del self.may[copy]
        self.automatic = {copy: content for copy, content in self.automatic.items() if copy in found}

    def work(self) -> None:
        kinds = [self.write, self.flush, self.cut, self.finish_late, self.delete, self.reclaim, self.trim]
        weights = [30, 3, 6, 2, 3, 4, 2]
        kinds += [self.killed, self.stopped]
        weights += [1, 1]
        self.chance.choices(kinds, weights)[0]()

    def write(self) -> None:
        ranges = []
        for _ in range(self.chance.choice([1, 1, 1, 2, 4])):
            offset = self.chance.randrange(SIZE)
            length = self.chance.choice([512, 5000, CHUNK * 3, CHUNK * 40])
            ranges.append((offset, min(length, SIZE - offset)))
        before = self.disk.origin.current
        self.store.prepare_write(ranges)
        self.disk.look()
        assert self.disk.origin.current == before, "the store wrote to the origin"
        for offset, length in ranges:
            self.change(offset, self.chance.randbytes(length))

    def change(self, offset: int, data: bytes) -> None:
        self.unflushed |= set(range(offset // SECTOR, (offset + len(data) - 1) // SECTOR + 1))
        os.pwrite(self.fd, data, offset)
        self.content[offset : offset + len(data)] = data

    def trim(self) -> None:
        offset = self.chance.randrange(SIZE)
        for start, length in self.store.preserved(offset, min(CHUNK * 5, SIZE - offset)):
            self.change(start, bytes(length))

    def flush(self) -> None:
        os.fdatasync(self.fd)
        self.unflushed.clear()

    def cut(self) -> None:
        if len(self.store.table.entries) > 7:
            self.delete()
        self.ids += 1
        copy, persistent = UUID(int=self.ids), self.chance.random() < 0.6
        content = bytes(self.content)
        if persistent:
            self.may[copy] = content
        self.store.commit(copy, UUID(int=1 << 64), 1, persistent)
        if not persistent:
            self.automatic[copy] = content
        for _ in range(self.chance.choice([0, 0, 1, 2])):
            self.write()
        if self.chance.random() < 0.9:
            self.finish(copy)

    def finish(self, copy: UUID) -> None:
        self.store.finish(copy)
        if copy in self.may:
            self.must[copy] = self.may.pop(copy)

    def finish_late(self) -> None:
        pending = [entry.copy_id for entry in self.store.table.entries if entry.state == layout.STATE_PENDING]
        if pending:
            self.finish(self.chance.choice(pending))

    def delete(self) -> None:
        entries = self.store.table.entries
        for entry in entries if self.chance.random() < 0.15 else self.chance.sample(entries, min(len(entries), 1)):
            copy = entry.copy_id
            if copy in self.must:
                self.may[copy] = self.must.pop(copy)
            kept = self.automatic.pop(copy, None)
            assert kept is not None or copy in self.may or entry.state == layout.STATE_LOST
            self.store.delete(copy)
            self.may.pop(copy, None)
            self.gone.add(copy)

    def reclaim(self) -> None:
        for _, _ in zip(range(self.chance.randrange(1, 4)), self.store.space.reclaim(), strict=False):
            pass

    def killed(self) -> None:
        abandon(self.store)
        self.open()

    def stopped(self) -> None:
        self.flush()
        self.store.close()
        self.open()

    # ---- its end, in every way ----

    def crash_here(self) -> None:
        self.steps_left -= 1
        changed = self.disk.look()
        self.disk.recording = False
        try:
            if changed:
                for storage, origin in FIXED_ORDERS:
                    self.crash(storage, origin)
                for _ in range(ORDERS):
                    self.crash("some", self.chance.choice(["none", "all", "some"]))
                self.kill()
            if self.steps_left <= 0:
                self.lose_power()
        finally:
            self.disk.recording = True

    def crash(self, storage: str, origin: str) -> None:
        self.images["power loss"] += 1
        image = f"{self.home}/image"
        self.disk.write_image(image, self.chance, storage, origin)
        now, self.boot = self.boot, UUID(int=self.boot.int + 1)
        try:
            self.check(image, self.must, self.may)
        finally:
            self.boot = now
        shutil.rmtree(image)

    def kill(self) -> None:
        self.images["SIGKILL"] += 1
        image = f"{self.home}/image"
        self.disk.write_image(image, self.chance, "all", "all")
        self.check(image, self.must, self.may | self.automatic)
        shutil.rmtree(image)

    def lose_power(self) -> None:
        how = self.chance.choice(["none", "all", "some", "some"])
        self.disk.write_image(self.next_home, self.chance, how, self.chance.choice(["none", "all", "some"]))
        self.boot = UUID(int=self.boot.int + 1)
        raise PowerLost

    def check(self, image: str, must: dict[UUID, bytes], may: dict[UUID, bytes]) -> None:
        fd = os.open(f"{image}/origin", os.O_RDWR)
        origin = os.pread(fd, SIZE, 0)
        for sector in set(range(SIZE // SECTOR)) - self.unflushed:
            place = slice(sector * SECTOR, (sector + 1) * SECTOR)
            assert origin[place] == self.content[place], f"sector {sector} of the origin was flushed and is not there"
        store = ShadowStore(f"{image}/storage", fd, SIZE, CHUNK)
        try:
            states = {entry.copy_id: entry.state for entry in store.table.entries}
            for copy in must:
                assert states.get(copy) == layout.STATE_CREATED, f"copy {copy.int} is not there: {states.get(copy)}"
            found = {}
            for entry in store.table.entries:
                if entry.state in layout.LIVE_STATES:
                    assert entry.copy_id not in self.gone, f"copy {entry.copy_id.int} was deleted and is back"
                    expected = must.get(entry.copy_id) or may.get(entry.copy_id) or self.automatic.get(entry.copy_id)
                    assert expected is not None, f"copy {entry.copy_id.int} came from nowhere"
                    found[entry.copy_id] = expected
            assert os.pread(fd, SIZE, 0) == origin, "the store wrote to the origin"
            compare(image, found)
            self.go_on(image, store, fd, found)
        finally:
            abandon(store)
            os.close(fd)

    def go_on(self, image: str, store: ShadowStore, fd: int, found: dict[UUID, bytes]) -> None:
        """The storage works on: a new copy, writes, a deletion, and all are exact."""
        new = UUID(int=(1 << 65) + 1)
        content = os.pread(fd, SIZE, 0)
        store.commit(new, UUID(int=1 << 64), 2, self.chance.random() < 0.5)
        store.finish(new)
        for offset in range(0, SIZE, CHUNK * 10):
            length = min(CHUNK * 9, SIZE - offset)
            store.prepare_write([(offset, length)])
            os.pwrite(fd, bytes(length), offset)
        found = {**found, new: content}
        if self.chance.random() < 0.5:
            victim = self.chance.choice(list(found))
            store.delete(victim)
            del found[victim]
            for _ in store.space.reclaim():
                pass
        compare(image, found)


def compare(image: str, copies: dict[UUID, bytes]) -> None:
    for copy, expected in copies.items():
        reader = CopyReader(f"{image}/storage", f"{image}/origin", copy)
        content = reader.read(0, SIZE)
        reader.close()
        if content != expected:
            wrong = [
                at // CHUNK for at in range(0, SIZE, CHUNK) if content[at : at + CHUNK] != expected[at : at + CHUNK]
            ]
            raise AssertionError(f"copy {copy.int} has wrong data in chunks {wrong}")


@pytest.mark.vss(94, 95)
@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_prefix(
    memory_directory: str, small_segments: None, monkeypatch: pytest.MonkeyPatch, long: int, seed: int
) -> None:
    machine = Machine(memory_directory, random.SystemRandom().getrandbits(32) if long else seed, monkeypatch)
    started = time.monotonic()
    for number in count() if long else range(LIVES):
        machine.live(number)
        if time.monotonic() > started + (long * 60 or SECONDS) and machine.images["power loss"] > LEAST:
            break
    print(f"{dict(machine.images)} crash images in {time.monotonic() - started:.1f} s")
    assert machine.images["power loss"] > LEAST
