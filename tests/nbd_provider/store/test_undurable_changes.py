"""What the table's file says, and its disk may or may not, after a sync that failed."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest

from shadowset.nbd_provider.store import layout, reclaim
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.revert import Reverter
from shadowset.nbd_provider.store.settings import Limits, Policy
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
SIZE = CHUNK * 16
FIRST, SECOND, SET = (UUID(int=number) for number in (1, 2, 3))


class Disk:
    """A store whose ``failing`` next syncs of its table fail; ``durable`` is the table as the disk has it."""

    def __init__(self, directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.origin, self.storage = f"{directory}/origin", f"{directory}/storage"
        Path(self.origin).write_bytes(os.urandom(SIZE))
        self.fd = os.open(self.origin, os.O_RDWR)
        self.failing = 0
        self.durable = b""
        self.losses: list[str] = []
        self.rows_written = False
        self._sync, self._pwrite = os.fdatasync, os.pwrite
        self.open()
        monkeypatch.setattr(os, "fdatasync", self._see_sync)
        monkeypatch.setattr(os, "pwrite", self._see_write)

    def open(self) -> None:
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK, losses=self.losses)
        self.reverter = Reverter(self.store, self.fd)

    def _is_table(self, fd: int) -> bool:
        return os.readlink(f"/proc/self/fd/{fd}") == f"{self.storage}/table"

    def _see_sync(self, fd: int) -> None:
        if self._is_table(fd):
            if self.failing:
                self.failing -= 1
                self.rows_written = False  # the kernel takes them for written
                raise OSError(5, "injected")
            self.durable = Path(f"{self.storage}/table").read_bytes()
        self._sync(fd)

    def _see_write(self, fd: int, data: bytes, offset: int) -> int:
        if self._is_table(fd) and offset <= layout.PAGE < offset + len(data):
            self.rows_written = True
        return self._pwrite(fd, data, offset)

    def cut(self, copy: UUID, persistent: bool) -> None:
        self.store.commit(copy, SET, 1, persistent)
        self.store.finish(copy)

    def overwrite(self, chunk: int) -> None:
        self.store.prepare_write([(chunk * CHUNK, CHUNK)])
        os.pwrite(self.fd, os.urandom(CHUNK), chunk * CHUNK)

    def revert(self) -> None:
        self.reverter.begin(FIRST)
        for _ in self.reverter.work() or ():
            pass

    def kill(self) -> None:
        """The end of the process."""
        store = self.store
        store.head.close()
        store.segments.close()
        os.close(store.table._fd)
        os.close(store._lock)

    def lose_power(self) -> None:
        """The table goes back to what was last synced; all else was lucky."""
        self.kill()
        header = layout.Header.unpack(self.durable[: layout.PAGE])
        header.boot_id = UUID(int=77)
        Path(f"{self.storage}/table").write_bytes(header.pack() + self.durable[layout.PAGE :])
        self.failing = 0
        self.open()

    def content(self, copy: UUID) -> bytes:
        reader = CopyReader(self.storage, self.origin, copy)
        try:
            return reader.read(0, SIZE)
        finally:
            reader.close()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    logging.disable(logging.CRITICAL)
    directory = tempfile.mkdtemp(prefix="ss-disk-", dir="/var/tmp")
    disk = Disk(directory, monkeypatch)
    yield disk
    logging.disable(logging.NOTSET)
    disk.failing = 0
    disk.kill()
    os.close(disk.fd)
    shutil.rmtree(directory)


@pytest.mark.parametrize("failing", [1, 99])
def test_a_revert_that_could_not_be_noted_does_not_begin_at_the_next_start(disk: Disk, failing: int) -> None:
    """It would undo what was written meanwhile; where that may happen, nothing can be."""
    disk.cut(FIRST, True)
    disk.overwrite(3)
    disk.failing = failing
    disk.revert()
    assert disk.reverter.progress is not None and "injected" in disk.reverter.progress.reason
    assert disk.reverter.blocks == (failing > 1)
    if disk.reverter.blocks:
        disk.failing = 0
        disk.reverter.cancel(force=True)
    disk.overwrite(4)
    written = os.pread(disk.fd, SIZE, 0)
    disk.kill()
    disk.open()
    assert disk.reverter.progress is None and not disk.reverter.work()
    assert os.pread(disk.fd, SIZE, 0) == written


def test_a_revert_whose_end_fails_can_be_started_again(disk: Disk) -> None:
    disk.cut(FIRST, True)
    before = os.pread(disk.fd, SIZE, 0)
    disk.overwrite(3)
    disk.reverter.begin(FIRST)
    steps = disk.reverter.work()
    assert steps is not None and next(steps)
    disk.failing = 1
    with pytest.raises(OSError, match="injected"):
        disk.reverter.cancel(force=True)
    disk.revert()
    assert disk.reverter.progress is None and os.pread(disk.fd, SIZE, 0) == before


def test_a_copy_whose_deletion_may_be_undone_keeps_its_data(disk: Disk) -> None:
    """Also when a later copy came and went, which no sync belongs to."""
    disk.store.configure(Limits(policy=Policy.PROTECT_COPIES))
    disk.cut(FIRST, True)
    seen = os.pread(disk.fd, SIZE, 0)
    disk.overwrite(0)
    disk.failing = 99
    with pytest.raises(OSError, match="injected"):
        disk.store.delete(FIRST)
    disk.cut(SECOND, False)
    disk.store.delete(SECOND)
    with suppress(OSError):
        disk.overwrite(1)
    disk.lose_power()
    assert disk.content(FIRST) == seen


def test_a_deletion_that_only_the_record_of_losses_takes(disk: Disk) -> None:
    """Nothing is kept for a copy that cannot come back, so its storage, which fails, stops nobody."""
    disk.kill()
    disk.losses = [f"{disk.storage}-losses"]
    disk.open()
    disk.cut(FIRST, True)
    disk.overwrite(0)
    disk.failing = 99
    with pytest.raises(OSError, match="injected"):
        disk.store.delete(FIRST)
    assert not disk.store.newest
    disk.overwrite(1)
    disk.lose_power()
    assert [entry.state for entry in disk.store.table.entries] == [layout.STATE_LOST]


def test_nothing_is_given_back_once_a_deletion_is_in_doubt(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the pass over the slots had begun before."""
    monkeypatch.setattr(reclaim, "STEP_SLOTS", 1)
    disk.cut(FIRST, True)
    disk.cut(SECOND, True)
    seen = os.pread(disk.fd, SIZE, 0)
    for chunk in range(3):
        disk.overwrite(chunk)
    disk.store.delete(FIRST)
    steps = disk.store.space.work()
    assert steps is not None and next(steps) == 0
    disk.failing = 99
    with pytest.raises(OSError, match="injected"):
        disk.store.delete(SECOND)
    with pytest.raises(OSError, match="injected"):
        list(steps)
    disk.lose_power()
    assert disk.content(SECOND) == seen


def test_a_start_after_a_kill_writes_the_rows_again(disk: Disk) -> None:
    """The process that was killed may have met an error, after which the kernel has nothing more to write."""
    disk.cut(FIRST, True)
    disk.failing = 1
    with pytest.raises(OSError, match="injected"):
        disk.store.delete(FIRST)
    disk.kill()
    disk.open()
    assert disk.rows_written and layout.Entry.unpack(disk.durable[layout.PAGE :][: layout.ENTRY_SIZE]) is not None
