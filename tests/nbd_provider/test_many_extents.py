"""Maps with more extents than one answer has room for: a client that asks on gets all of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shadowset.nbd_provider import block_status
from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.block_status import Allocation, Changes, copy_ranges, first_extents, open_bitmap
from shadowset.nbd_provider.store import slots
from shadowset.nbd_provider.store.changes import ChangeReader, changed_runs
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.reclaim import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from shadowset.nbd_provider.store.slots import Slots
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
CHUNKS = 60
SIZE = CHUNKS * CHUNK - 512
COPY = UUID(int=1)
MOST = 4
CHANGED = [chunk for chunk in range(CHUNKS) if chunk % 3 == 1]


def discard(store: ShadowStore, directory: Path, chunk: int) -> None:
    store.prepare_write([(chunk * CHUNK, 1)])
    with (directory / "origin").open("r+b") as file:
        fallocate(file.fileno(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, chunk * CHUNK, CHUNK)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShadowStore]:
    """Every second chunk has data at the cut; every third one is discarded afterwards."""
    monkeypatch.setattr(block_status, "MAX_EXTENTS", MOST)
    origin = os.open(tmp_path / "origin", os.O_RDWR | os.O_CREAT)
    os.ftruncate(origin, SIZE)
    for chunk in range(0, CHUNKS, 2):
        os.pwrite(origin, b"x" * 512, chunk * CHUNK)
    made = ShadowStore(f"{tmp_path}/storage", origin, SIZE, CHUNK)
    made.commit(COPY, UUID(int=2), 1, False)
    for chunk in CHANGED:
        discard(made, tmp_path, chunk)
    yield made
    made.close()
    os.close(origin)


def ask_on(context: Any, most: int) -> Iterator[tuple[int, int, int]]:
    """Start, end and flags of all extents, as a client learns them by one question after another."""
    offset = 0
    while offset < SIZE:
        answer = first_extents(context.extents(offset, SIZE - offset), most == 1)
        assert 0 < len(answer) <= most
        for length, flags in answer:
            yield offset, offset + length, flags
            offset += length
    assert offset == SIZE


@pytest.mark.parametrize("most", [1, MOST])
def test_no_change_is_left_out(store: ShadowStore, most: int) -> None:
    context = open_bitmap(f"{p.CONTEXT_DIRTY}{COPY}", store.storage)
    found = [(start, end) for start, end, flags in ask_on(context, most) if flags & p.STATE_DIRTY]
    context.close()
    assert found == [(chunk * CHUNK, min((chunk + 1) * CHUNK, SIZE)) for chunk in CHANGED]


@pytest.mark.parametrize("emptied", [False, True])
def test_nothing_of_a_copy_is_told_as_a_hole(store: ShadowStore, tmp_path: Path, emptied: bool) -> None:
    """Asked for one answer after another, and for all ranges at once as a read does it."""
    if emptied:
        for chunk in range(0, CHUNKS, 2):
            discard(store, tmp_path, chunk)
    reader, slots = CopyReader(store.storage, f"{tmp_path}/origin", COPY), Changes(store.storage, COPY)
    ranges = partial(copy_ranges, reader.origin_fd, slots)
    holes = [(start, end) for start, end, flags in ask_on(Allocation(ranges), MOST) if flags & p.STATE_ZERO]
    ends = [0, *(place for data in ranges(0, SIZE) for place in data), SIZE]
    for start, end in [*holes, *zip(ends[::2], ends[1::2], strict=True)]:
        assert not any(reader.read(start, end - start)), (start, end)
    assert holes, "there are some"
    reader.close()
    slots.close()


def test_what_is_discarded_amid_the_question(
    store: ShadowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer comes just before the origin is looked at, so only a later look at the slots finds the data."""
    real = block_status.file_ranges

    def overtaken(*arguments: int) -> Iterator[tuple[int, int]]:
        discard(store, tmp_path, 6)
        return real(*arguments)

    monkeypatch.setattr(block_status, "file_ranges", overtaken)
    reader, slots = CopyReader(store.storage, f"{tmp_path}/origin", COPY), Changes(store.storage, COPY)
    found = list(copy_ranges(reader.origin_fd, slots, 6 * CHUNK, 7 * CHUNK))
    assert found == [(6 * CHUNK, 7 * CHUNK)] and any(reader.read(6 * CHUNK, CHUNK))
    reader.close()
    slots.close()


def test_a_copy_that_is_gone_has_no_answer_however_short(store: ShadowStore) -> None:
    context = open_bitmap(f"{p.CONTEXT_DIRTY}{COPY}", store.storage)
    assert next(context.extents(0, SIZE))
    store.delete(COPY)
    with pytest.raises(OSError, match="make a full backup"):
        next(context.extents(0, SIZE))
    context.close()


def test_changes_far_apart(tmp_path: Path) -> None:
    """Between them the words are holes of their file."""
    origin, size = os.open(tmp_path / "origin", os.O_RDWR | os.O_CREAT), 2 << 30
    os.ftruncate(origin, size)
    store = ShadowStore(f"{tmp_path}/storage", origin, size, CHUNK)
    store.commit(COPY, UUID(int=2), 1, False)
    places = [0, 100 << 20, (100 << 20) + CHUNK, 1 << 30, size - CHUNK]
    store.prepare_write([(place, 1) for place in places])
    found = changed_runs(store.storage, COPY)
    assert [chunk * CHUNK for run in found for chunk in range(run.first, run.end)] == places
    store.close()
    os.close(origin)


def test_an_open_map_takes_in_what_the_volume_gained(store: ShadowStore) -> None:
    larger, changes = SIZE + 5 * CHUNK, Changes(store.storage, COPY)
    assert changes.ranges(SIZE - CHUNK, SIZE)
    store.grow(larger)
    assert changes.ranges(SIZE, larger) == [(SIZE, larger)]
    changes.close()


def test_a_segment_that_goes_amid_the_question_hides_no_change(
    store: ShadowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk that changed between two copies, and again after the second one."""
    later = UUID(int=3)
    store.commit(later, UUID(int=2), 1, False)
    store.prepare_write([(CHANGED[0] * CHUNK, 1)])
    reader, gone = ChangeReader(store.storage, COPY, later), [True]
    real = Slots.previous_head

    def previous_head(slots: Slots, slot: int) -> int:
        if gone:
            gone.clear()
            raise FileNotFoundError(errno.ENOENT, "the segment has just been given back")
        return real(slots, slot)

    monkeypatch.setattr(Slots, "previous_head", previous_head)
    assert [chunk for run in reader.runs() for chunk in range(run.first, run.end)] == CHANGED and not gone
    reader.close()


def test_a_word_that_was_torn_is_read_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([b"half new", b"all new!", b"all new!"])
    monkeypatch.setattr(slots, "read_words", lambda *_: next(looks))
    assert slots.stable_words(-1, 0, 1) == b"all new!"
