"""What is durable before the origin changes when a sync fails, and a cut in the middle of starting afresh."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shadowset.nbd_provider.store import layout, space
from shadowset.nbd_provider.store.loss_record import LossRecord
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
SIZE = CHUNK * 48
SET = UUID(int=99)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """On a disk: a memory file system has no RWF_NOWAIT, and keeps no loss for good."""
    directory = tempfile.mkdtemp(prefix="ss-disk-", dir="/var/tmp")
    yield Path(directory)
    shutil.rmtree(directory, ignore_errors=True)


class Place:
    """A store whose next ``refusals`` slots and ``failing`` table syncs fail, and what its table goes through."""

    def __init__(self, directory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.origin, self.storage = f"{directory}/origin", f"{directory}/storage"
        with open(self.origin, "wb") as file:
            file.write(os.urandom(SIZE))
        self.fd = os.open(self.origin, os.O_RDWR)
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK, losses=[f"{directory}/losses"])
        self.failing, self.refusals = 0, 1
        self.newest_at: list[tuple[str, int]] = []
        self._table = os.stat(f"{self.storage}/table").st_ino
        self._pwrite, self._pwritev, self._sync = os.pwrite, os.pwritev, os.fdatasync
        monkeypatch.setattr(os, "pwrite", self._see_write)
        monkeypatch.setattr(os, "fdatasync", self._see_sync)
        monkeypatch.setattr(os, "pwritev", self._see_data)

    def _note(self, fd: int, what: str) -> bool:
        concerned = os.fstat(fd).st_ino == self._table
        if concerned:
            self.newest_at.append((what, self.store.newest))
        return concerned

    def _see_write(self, fd: int, data: Any, offset: int) -> int:
        self._note(fd, f"row {(offset - layout.PAGE) // layout.ENTRY_SIZE}" if offset else "header")
        return self._pwrite(fd, data, offset)

    def _see_sync(self, fd: int) -> None:
        if self._note(fd, "sync") and self.failing:
            self.failing -= 1
            self.newest_at.append(("failed", self.store.newest))
            raise OSError(errno.EIO, "injected")
        self._sync(fd)

    def _see_data(self, *arguments: Any) -> int:
        if not self.refusals:
            return self._pwritev(*arguments)
        self.refusals -= 1
        raise OSError(errno.EIO, "injected")

    def overwrite(self, chunk: int) -> None:
        self.store.prepare_write([(chunk * CHUNK, CHUNK)])
        self._pwrite(self.fd, os.urandom(CHUNK), chunk * CHUNK)

    def cut(self, number: int, persistent: bool) -> None:
        self.store.commit(UUID(int=number), SET, 1, persistent)
        self.store.finish(UUID(int=number))


@pytest.fixture
def place(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    logging.disable(logging.CRITICAL)
    place = Place(tmp_path, monkeypatch)
    yield place
    logging.disable(logging.NOTSET)
    place.store.close()
    os.close(place.fd)


def test_a_loss_is_written_and_synced_again_before_it_takes_effect(place: Place) -> None:
    place.cut(1, persistent=True)
    place.cut(2, persistent=True)
    place.store.delete(UUID(int=1))
    place.newest_at.clear()
    place.failing = 1
    place.overwrite(0)
    steps = [step for step, newest in place.newest_at if newest == 2]
    assert steps[:3] == ["row 1", "sync", "failed"]
    assert "row 1" in steps[3:] and steps[-1] == "sync", "the row was not written again before the second sync"
    assert place.store.newest == 0 and not place.store.table.in_doubt


def test_a_loss_in_doubt_is_tried_again_at_the_next_copy_out(place: Place) -> None:
    for number in (1, 2):
        place.cut(number, persistent=True)
    place.failing = 3
    place.overwrite(0)
    assert place.store.table.in_doubt
    place.newest_at.clear()
    place.failing = 0
    place.overwrite(1)
    steps = [step for step, _ in place.newest_at]
    assert "row 0" in steps[: steps.index("sync")]
    assert not place.store.table.in_doubt


def test_a_deletion_takes_effect_when_it_is_durable(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LossRecord, "takes", lambda *_: False)
    place.refusals = 0
    for number in (1, 2):
        place.cut(number, persistent=True)
        place.overwrite(0)
    place.failing = 2
    with pytest.raises(OSError, match="injected"):
        place.store.delete(UUID(int=2))
    assert place.store.space.garbage
    place.newest_at.clear()
    with pytest.raises(OSError, match="injected"):
        next(place.store.space.reclaim())
    assert place.store.newest == 2, "a power loss may bring it back"
    assert sum(place.store.space.reclaim()) == CHUNK and place.store.newest == 1
    steps = [step for step, _ in place.newest_at]
    assert "row 1" in steps[: steps.index("sync")], "it was not written again before it was synced again"


def test_a_cut_while_the_store_starts_afresh_keeps_its_readers_right(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, storage = f"{tmp_path}/origin", f"{tmp_path}/storage"
    with open(origin, "wb") as file:
        file.write(os.urandom(SIZE))
    fd = os.open(origin, os.O_RDWR)
    store = ShadowStore(storage, fd, SIZE, CHUNK)
    store.commit(UUID(int=1), SET, 1, False)
    store.prepare_write([(0, CHUNK)])
    os.pwrite(fd, os.urandom(CHUNK), 0)
    readers: list[CopyReader] = []
    real = space.new_head

    def cut_first(*arguments: Any) -> Any:
        head = real(*arguments)
        store.commit(UUID(int=2), SET, 2, False)
        readers.append(CopyReader(storage, origin, UUID(int=2)))
        return head

    monkeypatch.setattr(space, "new_head", cut_first)
    store.delete(UUID(int=1))
    before = os.pread(fd, SIZE, 0)
    store.prepare_write([(0, 3 * CHUNK)])
    os.pwrite(fd, os.urandom(3 * CHUNK), 0)
    [reader] = readers
    assert reader.read(0, SIZE) == before
    assert store.space.garbage, "what the deleted copy left is still to be given back"
    reader.close()
    store.close()
    os.close(fd)
