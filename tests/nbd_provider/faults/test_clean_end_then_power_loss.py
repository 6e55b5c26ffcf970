"""What the header says is trusted at the next start: a clean end, and a larger size."""

from __future__ import annotations

import os
import random
import shutil
from uuid import UUID

import pytest
from crash_disk import Disk

from shadowset.nbd_provider.store import writer
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
SIZE = 40 * CHUNK - 512
SET, FIRST, SECOND = UUID(int=9), UUID(int=1), UUID(int=2)
IMAGES = [("none", "none"), ("none", "all"), ("all", "none"), *[("some", "some")] * 12]


class Machine:
    """A store on a disk that may lose power."""

    def __init__(self, directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chance = random.Random(5)
        self.storage, self.origin = f"{directory}/storage", f"{directory}/origin"
        self.content = bytearray(self.chance.randbytes(SIZE))
        with open(self.origin, "wb") as file:
            file.write(self.content)
        self.disk = Disk(self.storage, self.origin)
        self.fd = os.open(self.origin, os.O_RDWR)
        self.disk.patch(monkeypatch)
        self.disk.recording = True
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK)

    def cut(self, copy: UUID, persistent: bool) -> bytes:
        self.store.commit(copy, SET, 1, persistent)
        self.store.finish(copy)
        return bytes(self.content)

    def write(self, chunk: int, count: int) -> None:
        data = self.chance.randbytes(count * CHUNK)
        self.store.prepare_write([(chunk * CHUNK, len(data))])
        os.pwrite(self.fd, data, chunk * CHUNK)
        self.content[chunk * CHUNK : chunk * CHUNK + len(data)] = data

    def stop(self) -> None:
        """As ``Volume.close`` does."""
        os.fdatasync(self.fd)
        self.store.close()
        self.disk.look()
        self.disk.recording = False


def found(image: str, copy: UUID, size: int = SIZE) -> bytes:
    """What a copy holds at the next start."""
    fd = os.open(f"{image}/origin", os.O_RDWR)
    store = ShadowStore(f"{image}/storage", fd, size, CHUNK)
    try:
        reader = CopyReader(f"{image}/storage", f"{image}/origin", copy)
        content = reader.read(0, size)
        reader.close()
        return content
    finally:
        store.close()
        os.close(fd)


@pytest.mark.vss(95)
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("afresh", [False, True])
def test_every_copy_is_exact(
    memory_directory: str, small_segments: None, monkeypatch: pytest.MonkeyPatch, persistent: bool, afresh: bool
) -> None:
    """``afresh``: all slots and the words of an earlier copy went at once before."""
    boots = [1]
    monkeypatch.setattr(writer, "session_id", lambda _: UUID(int=boots[0]))
    machine = Machine(memory_directory, monkeypatch)
    if afresh:
        machine.cut(FIRST, persistent)
        machine.write(3, 20)
        machine.store.delete(FIRST)
        assert machine.store.next_slot == 0
    expected = machine.cut(SECOND, persistent)
    machine.write(0, 30)
    machine.stop()
    boots[0] = 2
    for storage, origin in IMAGES:
        image = f"{memory_directory}/image"
        machine.disk.write_image(image, machine.chance, storage, origin)
        assert found(image, SECOND) == expected, (storage, origin)
        shutil.rmtree(image)
    machine.disk.close()
    os.close(machine.fd)


def test_a_volume_that_grows_amid_a_power_loss(
    memory_directory: str, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each durable step; its words need more than one page then."""
    boots, larger, images = [1], SIZE + 700 * CHUNK, []
    monkeypatch.setattr(writer, "session_id", lambda _: UUID(int=boots[0]))
    machine = Machine(memory_directory, monkeypatch)
    expected = machine.cut(SECOND, True)
    machine.write(0, 30)
    os.ftruncate(machine.fd, larger)
    os.fsync(machine.fd)

    def crash() -> None:
        machine.disk.look()
        machine.disk.recording = False
        boots[0] += 1
        for storage in ("none", "all", "some", "some"):
            image = f"{memory_directory}/image"
            machine.disk.write_image(image, machine.chance, storage, "all")
            assert found(image, SECOND, larger) == expected
            shutil.rmtree(image)
            images.append(storage)
        boots[0] -= 1
        machine.disk.recording = True

    machine.disk.on_step = crash
    machine.store.grow(larger)
    crash()
    machine.stop()
    machine.disk.close()
    os.close(machine.fd)
    assert len(images) > 16
