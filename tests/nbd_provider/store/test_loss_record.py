"""Losses that the storage does not take: who sees them, how they come into the table, and when the record goes."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shadowset.nbd_provider.store import layout, loss_record, losses
from shadowset.nbd_provider.store.changes import ChangeReader, ChangesLost
from shadowset.nbd_provider.store.check import check_storage
from shadowset.nbd_provider.store.reader import CopyLost, CopyReader
from shadowset.nbd_provider.store.room import WriteRefused
from shadowset.nbd_provider.store.rows import list_copies
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.nbd_provider.volume import Volume
from shadowset.vss.codes import VssError

CHUNK = 4096
SIZE = CHUNK * 16
FIRST, SECOND = UUID(int=1), UUID(int=2)
CALLS = ("pwrite", "pwritev", "fdatasync", "fsync", "posix_fallocate", "ftruncate", "rename", "unlink")


class Lab:
    """A store whose storage takes nothing while ``dead``; with ``unsynced`` it takes all but never makes it durable."""

    def __init__(self, directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.origin, self.storage, self.losses = (f"{directory}/{name}" for name in ("origin", "storage", "losses"))
        os.makedirs(directory, exist_ok=True)
        Path(self.origin).write_bytes(os.urandom(SIZE))
        self.fd = os.open(self.origin, os.O_RDWR)
        self.dead = self.unsynced = False
        self.store: ShadowStore | None = None
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real: Any) -> Any:
        def call(target: Any, *rest: Any, **keywords: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target
            fails = self.dead or (self.unsynced and name in ("fsync", "fdatasync"))
            if fails and path.startswith(self.storage):
                raise OSError(5, "the storage is dead")
            return real(target, *rest, **keywords)

        return call

    def open(self, *places: str) -> ShadowStore:
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK, losses=places)
        return self.store

    def cut(self, copy: UUID, persistent: bool = True) -> None:
        assert self.store is not None
        self.store.commit(copy, UUID(int=9), 1, persistent)
        self.store.finish(copy)

    def overwrite(self, chunk: int) -> None:
        assert self.store is not None
        self.store.prepare_write([(chunk * CHUNK, CHUNK)])
        os.pwrite(self.fd, os.urandom(CHUNK), chunk * CHUNK)

    def vanish(self) -> None:
        """The end of a process, under the same kernel."""
        store, self.store = self.store, None
        if store is not None:
            store.head.close()
            store.segments.close()
            os.close(store.table._fd)
            os.close(store._lock)

    @property
    def record(self) -> str:
        """Where a loss is recorded, as readers are led there."""
        assert self.store is not None
        return os.path.realpath(f"{self.storage}/losses/{self.store.header.storage_id}")

    def states(self) -> dict[UUID, int]:
        assert self.store is not None
        return {entry.copy_id: entry.state for entry in self.store.table.entries}


@pytest.fixture
def lab(workdir: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    logging.disable(logging.CRITICAL)
    lab = Lab(workdir, monkeypatch)
    yield lab
    logging.disable(logging.NOTSET)
    lab.dead = lab.unsynced = False
    lab.vanish()
    os.close(lab.fd)


def records(place: str) -> list[str]:
    """All files below a place for records."""
    return [str(path) for path in Path(place).glob("*/*")]


def test_everybody_who_reads_sees_a_recorded_loss_and_nobody_else_is_hit(lab: Lab) -> None:
    store = lab.open(lab.losses)
    lab.cut(FIRST)
    lab.overwrite(0)
    lab.cut(SECOND)
    store.set_copy(SECOND, None, 1 << 62)
    store.commit(UUID(int=3), UUID(int=9), 1, False)
    readers = [CopyReader(lab.storage, lab.origin, copy) for copy in (FIRST, SECOND, UUID(int=3))]
    changes = ChangeReader(lab.storage, FIRST)
    before = readers[1].read(0, SIZE)
    lab.dead = True
    with pytest.raises(WriteRefused):  # the held one is never lost, so this write cannot be
        lab.overwrite(1)
    for reader in (readers[0], readers[2]):
        with pytest.raises(CopyLost):
            reader.read(0, 10)
    assert readers[1].read(0, SIZE) == before
    with pytest.raises(ChangesLost):
        list(changes.runs())
    assert [entry.copy_id for entry in list_copies(lab.storage)] == [SECOND]
    with pytest.raises(VssError, match="is not in shadow storage"):
        CopyReader(lab.storage, lab.origin, FIRST)
    lab.vanish()
    report = check_storage(lab.storage)
    assert report.copies == [SECOND] and len(report.notes) == 2 and report.sound
    for each in (*readers, changes):
        each.close()


def test_the_record_goes_once_the_table_durably_says_the_same(lab: Lab) -> None:
    store = lab.open(lab.losses)
    lab.cut(FIRST)
    lab.dead = True
    lab.overwrite(0)
    record = lab.record
    assert records(lab.losses) == [record]
    assert [loss.copy_id for loss in losses.read(record, store.header.storage_id) or []] == [FIRST]
    assert not store.newest
    lab.dead, lab.unsynced = False, True
    with pytest.raises(OSError, match="dead"):
        lab.cut(SECOND)
    assert os.path.exists(record), "the row is in the file and not durable"
    lab.unsynced = False
    store.finish(SECOND)
    assert not os.path.exists(record)
    lab.vanish()
    lab.open()
    assert lab.states() == {FIRST: layout.STATE_LOST, SECOND: layout.STATE_CREATED}


def test_a_loss_that_is_durable_nowhere_refuses_the_write_and_gives_no_space_back(lab: Lab) -> None:
    store = lab.open()
    lab.cut(FIRST)
    lab.overwrite(0)
    used = store.used
    real, os.pwritev = os.pwritev, lambda *_: (_ for _ in ()).throw(OSError(5, "no slot"))  # type: ignore[assignment]
    lab.unsynced = True
    try:
        with pytest.raises(WriteRefused):
            lab.overwrite(1)
    finally:
        os.pwritev = real
    assert lab.states() == {FIRST: layout.STATE_LOST}
    assert [event.kind for event in store.room.events] == ["copy-lost", "writes-refused"]
    assert store.newest == 1, "its old data is kept until the loss is durable"
    for action in (lambda: lab.overwrite(2), lambda: list(store.space.reclaim())):
        with pytest.raises(OSError, match="dead"):
            action()
    assert store.used >= used
    lab.unsynced = False
    lab.overwrite(1)
    assert not store.newest and not store.table.in_doubt


def test_a_loss_whose_row_cannot_be_synced_is_recorded_and_the_write_goes_on(lab: Lab) -> None:
    store = lab.open(lab.losses)
    lab.cut(FIRST)
    real, os.pwritev = os.pwritev, lambda *_: (_ for _ in ()).throw(OSError(5, "no slot"))  # type: ignore[assignment]
    lab.unsynced = True
    try:
        lab.overwrite(1)
    finally:
        os.pwritev = real
    assert records(lab.losses) and not store.newest


def test_a_record_is_durable_before_it_gets_its_name_and_that_before_the_write(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.open(lab.losses)
    lab.cut(FIRST)
    record, steps = lab.record, []
    fsync, rename, pwrite = os.fsync, os.rename, os.pwrite

    def see(step: str, path: str) -> None:
        if path.startswith((lab.losses, lab.origin)):
            steps.append((step, path))

    def write(fd: int, *rest: Any) -> int:
        see("write", os.readlink(f"/proc/self/fd/{fd}"))
        return pwrite(fd, *rest)

    monkeypatch.setattr(os, "fsync", lambda fd: (see("fsync", os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
    monkeypatch.setattr(os, "rename", lambda *names: (see("rename", names[1]), rename(*names))[1])
    monkeypatch.setattr(os, "pwrite", write)
    lab.dead = True
    lab.overwrite(0)
    wanted = [("write", f"{record}.new"), ("fsync", f"{record}.new"), ("rename", record)]
    wanted.append(("fsync", os.path.dirname(record)))
    assert steps == [*wanted, ("write", lab.origin)]


def test_memory_is_no_place_for_the_loss_of_a_persistent_copy(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_record, "_is_volatile", lambda _: True)
    lab.open(lab.losses)
    lab.cut(FIRST, persistent=True)
    lab.cut(SECOND, persistent=False)
    lab.store.set_copy(FIRST, 200, None)
    lab.dead = True
    with pytest.raises(WriteRefused):
        lab.overwrite(0)
    assert lab.states() == {FIRST: layout.STATE_CREATED, SECOND: layout.STATE_LOST}


def test_another_place_is_taken_at_the_next_start(lab: Lab) -> None:
    store = lab.open(lab.losses)
    lab.cut(FIRST)
    lab.cut(SECOND)
    reader = CopyReader(lab.storage, lab.origin, SECOND)
    store.set_copy(SECOND, None, 1 << 62)
    lab.dead = True
    with pytest.raises(WriteRefused):
        lab.overwrite(0)
    lab.vanish()
    lab.dead = False
    other = f"{lab.losses}2"
    store = lab.open(other)
    assert lab.states() == {FIRST: layout.STATE_LOST, SECOND: layout.STATE_CREATED}
    assert not os.listdir(lab.losses), "what was its own there goes"
    store.set_copy(SECOND, None, 0)
    lab.dead = True
    lab.overwrite(0)
    assert records(other)
    with pytest.raises(CopyLost):  # it has looked at the first place up to now
        reader.read(0, 10)
    reader.close()


def test_a_damaged_record_counts_for_every_copy(lab: Lab) -> None:
    store = lab.open(lab.losses)
    lab.cut(FIRST)
    reader = CopyReader(lab.storage, lab.origin, FIRST)
    Path(lab.record).write_bytes(b"nonsense")
    with pytest.raises(CopyLost):
        reader.read(0, 10)
    reader.close()
    lab.vanish()
    store = lab.open(lab.losses)
    [entry] = store.table.entries
    assert (entry.state, entry.cause) == (layout.STATE_LOST, layout.CAUSE_DAMAGED)
    assert [event.cause for event in store.room.events] == ["damaged"]


def test_a_record_of_copies_that_are_gone_is_removed(lab: Lab) -> None:
    store = lab.open(lab.losses)
    lab.cut(FIRST)
    stale = losses.pack(store.header.storage_id, [losses.Loss(UUID(int=77), 1, layout.CAUSE_FULL, 5)])
    Path(lab.record).write_bytes(stale)
    assert len(list_copies(lab.storage)) == 1
    lab.vanish()
    lab.open(lab.losses)
    assert lab.states() == {FIRST: layout.STATE_CREATED} and not records(lab.losses)


def test_a_place_that_is_gone_after_a_kill_stops_everybody(lab: Lab) -> None:
    lab.open(lab.losses)
    lab.cut(FIRST)
    directory = os.path.dirname(lab.record)
    lab.vanish()
    shutil.rmtree(lab.losses)
    for action in (lambda: lab.open(lab.losses), lambda: list_copies(lab.storage)):
        with pytest.raises(VssError, match=r"losses of its copies may be recorded in .*make it anew with 'mkdir"):
            action()
    os.makedirs(directory)
    lab.open(lab.losses)
    assert lab.states() == {FIRST: layout.STATE_CREATED}
    lab.store.close()
    lab.store = None
    shutil.rmtree(lab.losses)
    assert len(list_copies(lab.storage)) == 1, "after a clean end nothing can be recorded there"
    lab.open()
    assert os.path.isdir(lab.losses)


def lose_first(lab: Lab, place: str) -> bytes:
    """A copy whose loss only the record tells; returns what its chunk held before."""
    lab.open(place)
    lab.cut(FIRST)
    before = os.pread(lab.fd, CHUNK, 0)
    lab.dead = True
    lab.overwrite(0)
    lab.dead = False
    return before


def test_a_place_that_another_storage_makes_anew_still_stops_this_one(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the file system of the records is not mounted yet, and another volume's provider starts before."""
    lose_first(lab, lab.losses)
    lab.vanish()
    os.rename(lab.losses, f"{lab.losses}.unmounted")
    other = Lab(os.path.dirname(lab.storage) + "/other", monkeypatch)
    other.open(lab.losses)
    other.vanish()
    os.close(other.fd)
    for action in (lambda: lab.open(lab.losses), lambda: list_copies(lab.storage)):
        with pytest.raises(VssError, match="which is not there"):
            action()
    shutil.rmtree(lab.losses)
    os.rename(f"{lab.losses}.unmounted", lab.losses)
    lab.open(lab.losses)
    assert lab.states() == {FIRST: layout.STATE_LOST}


def test_a_provider_does_not_make_anew_what_it_misses_itself(lab: Lab) -> None:
    lose_first(lab, lab.losses)
    lab.vanish()
    shutil.rmtree(lab.losses)
    with pytest.raises(VssError, match="which is not there"):
        Volume("vol", lab.origin, lab.storage, CHUNK, lab.losses)


def test_a_copied_storage_takes_no_record_from_the_one_it_was_copied_from(lab: Lab) -> None:
    lose_first(lab, lab.losses)
    record = lab.record
    lab.vanish()
    first, lab.storage = lab.storage, f"{lab.storage}2"
    shutil.copytree(first, lab.storage, symlinks=True)
    lab.open(lab.losses)
    assert lab.states() == {FIRST: layout.STATE_LOST}, "the copied table does not know it"
    assert lab.record != record and os.path.exists(record)
    lab.vanish()
    lab.storage = first
    assert list_copies(first) == []
    lab.open(lab.losses)
    assert lab.states() == {FIRST: layout.STATE_LOST} and not os.path.exists(record)


def test_a_renamed_storage_brings_its_losses_along(lab: Lab) -> None:
    lose_first(lab, lab.losses)
    lab.vanish()
    shutil.move(lab.storage, f"{lab.storage}2")
    lab.storage += "2"
    lab.open()
    assert lab.states() == {FIRST: layout.STATE_LOST}
    lab.vanish()
    lab.open(lab.losses)
    lab.cut(SECOND)
    assert len(list_copies(lab.storage)) == 1


def test_a_record_that_an_earlier_version_made_counts(lab: Lab) -> None:
    """It stood in the place itself, to which the link led."""
    lose_first(lab, lab.losses)
    record, own = lab.record, os.path.dirname(lab.record)
    lab.vanish()
    os.rename(record, f"{lab.losses}/{os.path.basename(record)}")
    os.rmdir(own)
    os.unlink(f"{lab.storage}/losses")
    os.symlink(lab.losses, f"{lab.storage}/losses")
    assert list_copies(lab.storage) == []
    lab.open(lab.losses)
    assert lab.states() == {FIRST: layout.STATE_LOST} and os.path.dirname(lab.record) == own


@pytest.mark.parametrize("cut", [1, 20, 40, 71])
def test_half_a_record_is_damaged(cut: int) -> None:
    whole = losses.pack(UUID(int=5), [losses.Loss(FIRST, 3, layout.CAUSE_FULL, 17)])
    assert losses.unpack(whole, UUID(int=5)) == [losses.Loss(FIRST, 3, layout.CAUSE_FULL, 17)]
    with pytest.raises(ValueError, match="checksum"):
        losses.unpack(whole[:cut], UUID(int=5))
    with pytest.raises(ValueError, match="no record of this storage"):
        losses.unpack(whole, UUID(int=6))
