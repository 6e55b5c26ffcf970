"""What a shadow storage promises, counted: slots per write, copies per volume, what is kept and what is not leaked."""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shadowset.nbd_provider.live_export import LiveExport
from shadowset.nbd_provider.store import copy_out, layout
from shadowset.nbd_provider.store.check import check_storage
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.rows import list_copies
from shadowset.nbd_provider.volume import Volume
from shadowset.vss.codes import Code, VssError

CHUNK = layout.DEFAULT_CHUNK_SIZE
SIZE = 256 * CHUNK
SET = UUID(int=1 << 64)


class Lab:
    """A volume of random bytes."""

    def __init__(self, directory: str, size: int = SIZE) -> None:
        self.origin, self.storage = f"{directory}/origin", f"{directory}/storage"
        Path(self.origin).write_bytes(random.Random(1).randbytes(size))
        self.open()

    def open(self) -> None:
        self.volume = Volume("vol", self.origin, self.storage)
        self.store, self.export = self.volume.store, LiveExport(self.volume)

    def cut(self, number: int, persistent: bool = False) -> bytes:
        self.store.commit(UUID(int=number), SET, 1, persistent)
        self.store.finish(UUID(int=number))
        return Path(self.origin).read_bytes()

    def write(self, offset: int, data: bytes) -> None:
        self.volume.prepare_write([(offset, len(data))])
        self.export.write(offset, memoryview(data))

    def read(self, number: int) -> bytes:
        reader = CopyReader(self.storage, self.origin, UUID(int=number))
        try:
            return reader.read(0, reader.size)
        finally:
            reader.close()

    def slots(self) -> int:
        """Slots in use, as the check counts them in a storage that was closed."""
        self.volume.close()
        report = check_storage(self.storage, self.origin)
        assert report.sound
        self.open()
        return report.linked


@pytest.fixture
def lab(workdir: str) -> Iterator[Lab]:
    made = Lab(workdir)
    yield made
    made.volume.close()


def test_attributes_stay_with_their_copy(lab: Lab) -> None:
    """Whatever else of its row changes; an earlier version of the program reads the row as before."""
    copy = UUID(int=1)
    lab.store.commit(copy, SET, 1, True)
    lab.store.finish(copy, 0x0002001D)
    lab.store.set_copy(copy, 7, None)
    lab.store.finish(copy)
    entry = lab.store.table.find(copy)
    assert struct.unpack_from("<II", entry.pack()) == (layout.STATE_CREATED, 0x0002001D)
    lab.volume.close()
    lab.open()
    (told,) = lab.volume.describe(None).copies
    assert (told.attributes, told.persistent, told.priority) == (0x0002001C, True, 7), "bit 0 says persistent"


@pytest.mark.vss(88)
def test_a_chunk_is_copied_once_whatever_is_written_to_it(lab: Lab) -> None:
    """16 KiB each, by the first write that touches it; the second copy starts anew."""
    assert lab.store.chunk_size == 16 * 1024
    chance = random.Random(2)
    before = dict.fromkeys((1, 2), b"")
    touched: list[set[int]] = []
    for number in before:
        before[number] = lab.cut(number)
        touched.append(set())
        for _ in range(300):
            length = chance.choice([1, 512, 4096, 40000])
            offset = chance.randrange(SIZE // 2 - length)
            lab.write(offset, chance.randbytes(length))
            touched[-1].update(range(offset // CHUNK, (offset + length - 1) // CHUNK + 1))
    assert lab.slots() == sum(map(len, touched))
    assert {number: lab.read(number) for number in before} == before


@pytest.mark.vss(90)
def test_a_hundred_copies_cost_a_write_no_more_than_one_and_any_of_them_goes(lab: Lab) -> None:
    chance = random.Random(3)
    expected = {}
    for number in range(1, 101):
        expected[number] = lab.cut(number, persistent=number % 10 == 0)
        for _ in range(4):
            lab.write(chance.randrange(64) * CHUNK, chance.randbytes(600))
    for number, content in expected.items():
        assert lab.read(number) == content
    slots = lab.slots()
    lab.write(200 * CHUNK, b"untouched so far")
    assert lab.slots() == slots + 1, "one slot, for all hundred copies"
    for number in chance.sample(list(expected), 90):
        lab.store.delete(UUID(int=number))
        del expected[number]
        if number % 7 == 0:
            list(lab.store.space.reclaim())
            for other in chance.sample(list(expected), min(5, len(expected))):
                assert lab.read(other) == expected[other]
    list(lab.store.space.reclaim())
    assert {number: lab.read(number) for number in expected} == expected
    assert lab.slots() < slots * 0.8


@pytest.mark.vss(91)
def test_512_copies_and_no_more(lab: Lab) -> None:
    """All of them stay over a restart, which costs what their rows cost."""
    before = {}
    for number in range(1, 513):
        content = lab.cut(number)
        if number in (1, 256, 512):
            before[number] = content
        lab.write(number % 256 * CHUNK, number.to_bytes(8, "big"))
    for _ in range(2):
        with pytest.raises(VssError, match="maximum of 512") as caught:
            lab.store.commit(UUID(int=600), SET, 1, False)
        assert caught.value.code == Code.VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED
        assert len(list_copies(lab.storage)) == 512
        assert {number: lab.read(number) for number in before} == before
        lab.volume.close()
        lab.open()
    lab.store.delete(UUID(int=300))
    lab.cut(600)
    assert {number: lab.read(number) for number in before} == before


def test_a_storage_for_few_copies_stays_one(tmp_path: Path) -> None:
    (tmp_path / "origin").write_bytes(bytes(SIZE))
    for copies, made in ((3, 3), (None, 0), (9, 0)):
        volume = Volume("vol", f"{tmp_path}/origin", f"{tmp_path}/storage", copies=copies)
        for number in range(1, made + 1):
            volume.store.commit(UUID(int=number), SET, 1, False)
        with pytest.raises(VssError, match="maximum of 3 shadow copies"):
            volume.store.commit(UUID(int=9), SET, 1, False)
        volume.close()
    assert len(list_copies(f"{tmp_path}/storage")) == 3


def test_what_adjoins_or_not_is_copied_out_by_few_calls(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One write of data, one of records and one sync for all chunks of a batch."""
    expected = lab.cut(1, persistent=True)
    lab.write(0, b"room and words are there")
    calls: list[str] = []
    for name in ("pwritev", "pwrite", "fdatasync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
    lab.store.prepare_write([(chunk * CHUNK, 1) for chunk in range(2, 62, 2)])
    lab.store.prepare_write([(100 * CHUNK, 30 * CHUNK)])
    assert calls == ["pwritev", "pwrite", "fdatasync"] * 2
    assert lab.read(1) == expected


@pytest.mark.vss(92)
def test_trimmed_and_zeroed_ranges_are_as_they_were_in_the_copy(lab: Lab) -> None:
    expected = lab.cut(1)
    for offset in range(0, SIZE, SIZE // 8):
        length = SIZE // 8 - 700
        if offset % (SIZE // 4):
            lab.export.trim(offset + 100, length)
        else:
            lab.volume.prepare_write([(offset + 100, length)])
            assert lab.export.zero(offset + 100, length, True, False)
            assert lab.volume.read(offset + 100, length) == bytes(length)
    assert lab.read(1) == expected
    lab.store.delete(UUID(int=1))
    lab.export.trim(0, SIZE)
    assert lab.volume.read(0, SIZE).count(0) > SIZE * 0.99, "nobody needs it any more"


@pytest.mark.vss(93)
def test_what_was_freed_before_the_cut_is_nowhere(lab: Lab) -> None:
    """Neither in the copy nor in its storage, and of a deleted copy the storage keeps nothing either."""
    old, kept = b"freed before the copy" * 200, b"needed by the copy" * 200
    lab.write(10 * CHUNK, old)
    lab.write(50 * CHUNK, kept)
    lab.export.trim(10 * CHUNK, 4 * CHUNK)
    assert lab.cut(1)[10 * CHUNK : 14 * CHUNK] == bytes(4 * CHUNK)
    lab.write(0, os.urandom(64 * CHUNK))
    assert lab.read(1)[10 * CHUNK : 14 * CHUNK] == bytes(4 * CHUNK)
    assert lab.read(1)[50 * CHUNK :].startswith(kept)
    assert not found(lab.storage, old) and found(lab.storage, kept)
    lab.cut(2)
    lab.store.delete(UUID(int=1))
    list(lab.store.space.reclaim())
    assert not found(lab.storage, kept)
    for directory, _, names in os.walk(lab.storage):
        assert all(os.stat(f"{directory}/{name}").st_mode & 0o077 == 0 for name in names)


def found(storage: str, marker: bytes) -> bool:
    """Whether a file of the storage holds these bytes."""
    places = [f"{directory}/{name}" for directory, _, names in os.walk(storage) for name in names]
    return any(marker in Path(place).read_bytes() for place in places)


@pytest.mark.vss(99)
def test_a_storage_that_grows_slowly_makes_writes_wait_and_costs_no_copy(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is taken in steps ahead of its use, and the write that needs the next step waits for it."""
    monkeypatch.setattr(copy_out, "GROWTH_SLOTS", 32)
    real, grown = os.posix_fallocate, []

    def slow(*arguments: Any) -> None:
        grown.append(arguments)
        time.sleep(0.05)
        real(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", slow)
    expected = lab.cut(1, persistent=True)
    for chunk in range(256):
        lab.write(chunk * CHUNK, chunk.to_bytes(4, "big"))
    assert lab.read(1) == expected and not [event for event in lab.store.room.events if event.copy_id]
    assert len(grown) < 256 / 32 * 2 + 4, "two calls for each step, and few for head"
