"""A batch that was never durable, by an error or a power loss, is not taken for damage by any later recovery."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from uuid import UUID

import pytest

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.revert import Reverter
from shadowset.nbd_provider.store.settings import Limits, Policy
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
SIZE = 16 * CHUNK
COPY = UUID(int=1)


def test_the_slots_are_taken_again_and_the_copy_survives_a_power_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.urandom(SIZE)
    (tmp_path / "origin").write_bytes(before)
    origin, storage = os.open(tmp_path / "origin", os.O_RDWR), f"{tmp_path}/storage"
    store = ShadowStore(storage, origin, SIZE, CHUNK)
    store.configure(Limits(policy=Policy.PROTECT_COPIES))
    store.commit(COPY, UUID(int=2), 1, True)
    store.finish(COPY)
    overwrite(store, origin, 0, 1)

    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "injected")

    with monkeypatch.context() as patches:
        patches.setattr(os, "fdatasync", failing)
        with pytest.raises(OSError, match="injected"):
            store.prepare_write([(4 * CHUNK, 6 * CHUNK)])
    assert store.missing([(0, SIZE)]) == set(range(1, 16)), "what is not durable counts as kept"
    scribble(storage)
    overwrite(store, origin, 12, 1)
    again = after_power_loss(store, origin)
    check(tmp_path, again, before)
    again.close()
    os.close(origin)


def test_a_torn_batch_is_no_damage_when_the_power_is_lost_once_more(tmp_path: Path) -> None:
    before = os.urandom(SIZE)
    (tmp_path / "origin").write_bytes(before)
    origin, storage = os.open(tmp_path / "origin", os.O_RDWR), f"{tmp_path}/storage"
    store = ShadowStore(storage, origin, SIZE, CHUNK)
    store.commit(COPY, UUID(int=2), 1, True)
    store.finish(COPY)
    overwrite(store, origin, 0, 1)
    store.prepare_write([(4 * CHUNK, 6 * CHUNK)])
    scribble(storage)
    for chunk in (12, 5, 6):
        store = after_power_loss(store, origin)
        check(tmp_path, store, before)
        overwrite(store, origin, chunk, 1)
    check(tmp_path, store, before)
    store.close()
    os.close(origin)


def test_what_was_durable_and_is_damaged_costs_its_copy(tmp_path: Path) -> None:
    (tmp_path / "origin").write_bytes(os.urandom(SIZE))
    origin, storage = os.open(tmp_path / "origin", os.O_RDWR), f"{tmp_path}/storage"
    store = ShadowStore(storage, origin, SIZE, CHUNK)
    store.commit(COPY, UUID(int=2), 1, True)
    store.finish(COPY)
    overwrite(store, origin, 0, 1)
    overwrite(store, origin, 4, 6)
    overwrite(store, origin, 12, 1)
    scribble(storage)
    store = after_power_loss(store, origin)
    assert [(entry.state, entry.cause) for entry in store.table.entries] == [(layout.STATE_LOST, layout.CAUSE_DAMAGED)]
    store.close()
    os.close(origin)


def test_a_revert_leaves_what_lies_beyond_the_copy(tmp_path: Path) -> None:
    """The copy ends within a chunk that was copied out when the volume had grown."""
    (tmp_path / "origin").write_bytes(os.urandom(SIZE - 512))
    origin, storage = os.open(tmp_path / "origin", os.O_RDWR), f"{tmp_path}/storage"
    before = os.pread(origin, SIZE, 0)
    store = ShadowStore(storage, origin, SIZE - 512, CHUNK)
    store.commit(COPY, UUID(int=2), 1, True)
    store.finish(COPY)
    os.ftruncate(origin, SIZE)
    store.grow(SIZE)
    overwrite(store, origin, 15, 1)
    beyond = os.pread(origin, 512, SIZE - 512)
    reverter = Reverter(store, origin)
    reverter.begin(COPY)
    for _ in reverter.work() or ():
        pass
    assert os.pread(origin, SIZE, 0) == before + beyond and reverter.progress is None
    store.close()
    os.close(origin)


def after_power_loss(store: ShadowStore, origin: int) -> ShadowStore:
    store.header.boot_id = UUID(int=77)
    store.table.write_header()
    store.close(clean=False)
    return ShadowStore(store.storage, origin, SIZE, CHUNK)


def check(directory: Path, store: ShadowStore, expected: bytes) -> None:
    assert [entry.copy_id for entry in store.table.entries] == [COPY] and not store.room.events
    reader = CopyReader(store.storage, f"{directory}/origin", COPY)
    assert reader.read(0, SIZE) == expected
    reader.close()


def overwrite(store: ShadowStore, origin: int, chunk: int, count: int) -> None:
    store.prepare_write([(chunk * CHUNK, count * CHUNK)])
    os.pwrite(origin, os.urandom(count * CHUNK), chunk * CHUNK)


def scribble(storage: str) -> None:
    """What is left of data that was not synced: slots 1 to 6."""
    with open(f"{storage}/segments/00000000", "r+b") as file:
        for slot in range(1, 7):
            file.seek(layout.slot_position(slot, CHUNK)[2])
            file.write(os.urandom(CHUNK))
