"""A loss is durable before the origin changes, and a reclaim pass does not outlive the slots that it looks at."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
from uuid import UUID

import pytest
from crash_disk import Disk, abandon

from shadowset.nbd_provider.store import layout, writer
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
SIZE = CHUNK * 48
SET = UUID(int=99)


@pytest.fixture
def files(memory_directory: str) -> tuple[str, str]:
    with open(f"{memory_directory}/origin", "wb") as file:
        file.write(os.urandom(SIZE))
    os.mkdir(f"{memory_directory}/storage")
    return f"{memory_directory}/storage", f"{memory_directory}/origin"


def cut(store: ShadowStore, number: int, persistent: bool = False) -> None:
    store.commit(UUID(int=number), SET, 1, persistent)
    store.finish(UUID(int=number))


def overwrite(store: ShadowStore, fd: int, chunk: int, count: int) -> None:
    store.prepare_write([(chunk * CHUNK, count * CHUNK)])
    os.pwrite(fd, os.urandom(count * CHUNK), chunk * CHUNK)


def test_a_lost_persistent_copy_is_not_back_after_a_power_loss(
    memory_directory: str, files: tuple[str, str], small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, origin = files
    fd = os.open(origin, os.O_RDWR)
    disk = Disk(storage, origin)
    boot = UUID(int=1)
    monkeypatch.setattr(writer, "session_id", lambda _: boot)
    logging.disable(logging.CRITICAL)
    with monkeypatch.context() as patches:
        disk.patch(patches)
        disk.recording = True
        store = ShadowStore(storage, fd, SIZE, CHUNK)
        cut(store, 1, persistent=True)
        overwrite(store, fd, 0, 5)
        cut(store, 2, persistent=True)
        real = os.pwritev

        def full(*_: object) -> int:
            patches.setattr(os, "pwritev", real)
            raise OSError(errno.ENOSPC, "no space")

        patches.setattr(os, "pwritev", full)
        overwrite(store, fd, 10, 5)
        disk.recording = False
    logging.disable(logging.NOTSET)
    abandon(store)
    os.close(fd)
    disk.look()
    chance = random.Random(1)
    for how in ("none", "all", *["some"] * 50):
        boot = UUID(int=boot.int + 1)
        image = f"{memory_directory}/image"
        disk.write_image(image, chance, how, "all")
        fd = os.open(f"{image}/origin", os.O_RDWR)
        again = ShadowStore(f"{image}/storage", fd, SIZE, CHUNK)
        assert again.table.live == [2], "the lost copy is back"
        abandon(again)
        os.close(fd)
        shutil.rmtree(image)
    disk.close()


def test_reclaiming_ends_when_all_slots_go_at_once(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadowset.nbd_provider.store.reclaim.STEP_SLOTS", 8)
    storage, origin = files
    fd = os.open(origin, os.O_RDWR)
    store = ShadowStore(storage, fd, SIZE, CHUNK)
    for number in (1, 2):
        cut(store, number)
        overwrite(store, fd, 0, 30)
    store.delete(UUID(int=1))
    pass_under_way = store.space.reclaim()
    next(pass_under_way)
    store.delete(UUID(int=2))
    cut(store, 3)
    overwrite(store, fd, 0, 20)
    with open(origin, "rb") as file:
        expected = file.read()
    cut(store, 4)
    overwrite(store, fd, 0, 40)
    store.delete(UUID(int=3))
    for _ in pass_under_way:
        pass
    for _ in store.space.reclaim():
        pass
    reader = CopyReader(storage, origin, UUID(int=4))
    assert reader.read(0, SIZE) == expected
    reader.close()
    assert [entry.state for entry in store.table.entries] == [layout.STATE_CREATED]
    store.close()
    os.close(fd)
