"""Each system call of the store and of the live path fails in turn: once, from then on, half way, or amid a write."""

from __future__ import annotations

import errno
import logging
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from crash_disk import abandon

from shadowset.nbd_provider.store import layout, loss_record, reclaim
from shadowset.nbd_provider.store.reader import CopyLost, CopyReader
from shadowset.nbd_provider.store.room import WriteRefused
from shadowset.nbd_provider.store.rows import list_copies
from shadowset.nbd_provider.volume import Volume
from shadowset.vss.codes import VssError

CHUNK = 4096
SIZE = CHUNK * 40 - 512
SET = UUID(int=1 << 64)
READS, WRITES = ("pread", "preadv"), ("pwrite", "pwritev")
CALLS = (*READS, *WRITES, "fdatasync", "fsync", "posix_fallocate", "ftruncate", "rename", "unlink")


class Faults:
    """Lets the nth call fail, or all from it on, for calls on the storage, on the origin or on the record of losses.

    "everywhere" is the storage and the record; where the record fails, the storage is ``dead`` from some step on.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nth: int, how: str, where: str, run: Run) -> None:
        self.active, self.count, self.hits, self.failed = False, 0, 0, ""
        self._nth, self._how, self._where = nth, how, where
        self._run, self.dead = run, False
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))
        monkeypatch.setattr(reclaim, "fallocate", self._wrap("fallocate", reclaim.fallocate))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if not self.active or not self._concerns(name, arguments):
                return real(*arguments)
            self.count += 1
            if not self._nth <= self.count < self._nth + {"dead": 1 << 30, "torn": 2}.get(self._how, 1):
                return real(*arguments)
            if self._how == "short" or (self._how == "torn" and self.count == self._nth):
                return self._half(name, real, arguments)
            self.hits += 1
            self.failed = f"call {self.count}: {name}"
            number = errno.ENOSPC if self._how == "full" else errno.EIO
            raise OSError(number, os.strerror(number))

        return call

    def _concerns(self, name: str, arguments: Any) -> bool:
        if self._how == "full" and name in (*READS, "unlink", "fdatasync", "fsync"):
            return False
        if self._how == "short" and name not in (*READS, *WRITES):
            return False
        if self._how == "torn" and name not in WRITES:
            return False
        path = arguments[0] if isinstance(arguments[0], str) else os.readlink(f"/proc/self/fd/{arguments[0]}")
        place = next((place for place in ("origin", "losses") if path.startswith(getattr(self._run, place))), "storage")
        if place == "storage" and self._where == "losses" and self.dead:
            raise OSError(errno.EIO, "the storage is dead")
        return place == self._where or (self._where == "everywhere" and place != "origin")

    def _half(self, name: str, real: Callable[..., Any], arguments: Any) -> Any:
        self.hits += 1
        self.failed = f"call {self.count}: {name}"
        fd, what, offset = arguments[:3]
        if name == "preadv":
            return real(fd, [what[0][: max(len(what[0]) // 2, 1)]], *arguments[2:])
        if name == "pread":
            return real(fd, max(what // 2, 1), offset)
        if name == "pwritev":
            what = b"".join(what)
            return os.pwrite(fd, what[: max(len(what) // 2, 1)], offset)
        return real(fd, what[: max(len(what) // 2, 1)], offset)


class Run:
    """The same work for every fault; ``copies`` are what each living copy must be."""

    def __init__(self, directory: str) -> None:
        self.origin, self.storage, self.losses = (f"{directory}/{name}" for name in ("origin", "storage", "losses"))
        self.chance = random.Random(7)
        self.content = bytearray(self.chance.randbytes(SIZE))
        with open(self.origin, "wb") as file:
            file.write(self.content)
        self.copies: dict[UUID, bytes] = {}
        self.deleted: set[UUID] = set()
        self.write_errors = self.refused = 0
        self.volume: Volume | None = None

    def try_(self, action: Callable[..., Any], *arguments: Any) -> bool:
        try:
            action(*arguments)
        except (OSError, VssError):
            return False
        return True

    def open(self) -> None:
        self.volume = Volume("vol", self.origin, self.storage, CHUNK, self.losses)

    def stop(self) -> None:
        volume, self.volume = self.volume, None
        try:
            volume.close()
        except OSError:  # the process ends with this error, and its descriptors with it
            abandon(volume.store)
            volume.origin.close()
            raise

    def write(self, chunk: int, count: int) -> None:
        offset = chunk * CHUNK + 700
        data = self.chance.randbytes(min(count * CHUNK, SIZE - offset))
        assert self.volume is not None
        try:
            self.volume.prepare_write([(offset, len(data))])
            self.volume.write(offset, memoryview(data))
        except WriteRefused:
            self.refused += 1
            return
        except OSError:
            self.write_errors += 1
            data = os.pread(self.volume.origin.fd, len(data), offset)
        self.content[offset : offset + len(data)] = data

    def cut(self, number: int, persistent: bool) -> None:
        store = self.volume.store
        self.copies[UUID(int=number)] = bytes(self.content)
        self.try_(store.commit, UUID(int=number), SET, 1, persistent)
        self.try_(store.finish, UUID(int=number))

    def delete(self, number: int) -> None:
        if self.try_(self.volume.store.delete, UUID(int=number)):
            self.deleted.add(UUID(int=number))

    def reclaim(self) -> None:
        self.try_(list, self.volume.store.space.reclaim())

    def steps(self) -> Iterator[tuple[Any, ...]]:
        yield (self.cut, 1, False)
        yield (self.write, 0, 5)
        yield (self.cut, 2, True)
        yield (self.write, 3, 12)
        yield (self.write, 38, 2)
        yield (self.cut, 3, False)
        yield (self.write, 2, 20)
        yield (self.delete, 3)
        yield (self.reclaim,)
        yield (self.write, 1, 3)
        yield (self.delete, 2)
        yield (self.cut, 4, True)
        yield (self.reclaim,)
        yield (self.write, 0, 30)
        yield (self.delete, 1)
        yield (self.delete, 4)
        yield (self.write, 0, 9)
        yield (self.cut, 5, True)
        yield (self.write, 6, 9)

    def work(self, faults: Faults) -> None:
        for step in [(self.open,), *self.steps(), (self.stop,), (self.open,), (self.write, 0, 33)]:
            if self.volume is None and step[0] != self.open:
                continue
            faults.active = True
            faults.dead |= step == (self.write, 38, 2)
            try:
                self.try_(*step) if step[0] in (self.open, self.stop) else step[0](*step[1:])
            finally:
                faults.active = False
            self.check(f"{faults.failed}, then {step[0].__name__} {step[1:]}")

    def check(self, when: str) -> None:
        with open(self.origin, "rb") as file:
            assert file.read() == self.content, f"the live volume is wrong: {when}"
        if self.volume is None:
            return
        for entry in self.volume.store.table.entries:
            assert entry.copy_id not in self.deleted
            if entry.state in layout.LIVE_STATES:
                reader = CopyReader(self.storage, self.origin, entry.copy_id)
                same = reader.read(0, SIZE) == self.copies[entry.copy_id]
                assert same, f"copy {entry.number}: {when}"
                reader.close()


@pytest.mark.parametrize(
    ("how", "where"),
    [
        ("once", "storage"), ("dead", "storage"), ("full", "storage"), ("short", "storage"), ("torn", "storage"),
        ("once", "origin"), ("short", "origin"), ("dead", "everywhere"), ("once", "losses"), ("torn", "losses"),
        ("dead", "losses"),
    ],
)  # fmt: skip
def test_every_call_fails_in_turn(
    memory_directory: str, small_segments: None, monkeypatch: pytest.MonkeyPatch, how: str, where: str
) -> None:
    monkeypatch.setattr(layout, "DEFAULT_CAPACITY", 16)
    monkeypatch.setattr(loss_record, "VOLATILE", ())
    logging.disable(logging.CRITICAL)
    errors = refused = nth = 0
    try:
        while True:
            nth += 1
            directory = f"{memory_directory}/{nth}"
            os.mkdir(directory)
            run = Run(directory)
            with monkeypatch.context() as patches:
                faults = Faults(patches, nth, how, where, run)
                run.work(faults)
            if run.volume is not None:
                run.volume.close()
            run.open()
            run.check(faults.failed)
            assert not run.refused or where in ("everywhere", "losses"), f"an error reached a writer: {faults.failed}"
            refused += run.refused
            lost = [entry for entry in run.volume.store.table.entries if entry.state == layout.STATE_LOST]
            if not faults.hits:
                assert where == "losses" or (not lost and set(run.copies) - run.deleted == {UUID(int=5)})
                break
            run.volume.close()
            errors += run.write_errors
        run.volume.close()
    finally:
        logging.disable(logging.NOTSET)
    assert nth > (2 if where == "losses" else 10)
    assert bool(refused) or (how, where) not in (("dead", "everywhere"), ("dead", "losses"))
    assert bool(errors) == (where == "origin" and how == "once")
    print(f"{nth - 1} faults of kind {how} beneath the {where}, {errors} reached the writer")


@pytest.mark.parametrize("persistent", [False, True])
def test_storage_that_takes_nothing_any_more_does_not_stop_the_live_volume(
    memory_directory: str, workdir: str, small_segments: None, monkeypatch: pytest.MonkeyPatch, persistent: bool
) -> None:
    run = Run(memory_directory)
    run.losses = f"{workdir}/losses"
    run.open()
    run.cut(1, persistent)
    reader = CopyReader(run.storage, run.origin, UUID(int=1))
    with monkeypatch.context() as patches:
        faults = Faults(patches, 1, "dead", "storage", run)
        faults.active = True
        run.write(0, 3)
        run.write(8, 3)
        faults.active = False  # a dead disk may still be read, from memory at least
        assert not run.refused and list(Path(run.losses).glob("*/*"))
        with pytest.raises(CopyLost):
            reader.read(0, SIZE)
        assert not list_copies(run.storage)
        [event] = run.volume.store.room.events
        assert (event.kind, event.cause, event.copy_id) == ("copy-lost", "error", str(UUID(int=1)))
        assert run.losses in event.message
    abandon(run.volume.store)
    run.volume.origin.close()
    run.open()
    [entry] = run.volume.store.table.entries
    assert (entry.state, entry.cause) == (layout.STATE_LOST, layout.CAUSE_ERROR)
    [event] = run.volume.store.room.events
    assert (event.kind, event.cause) == ("copy-lost", "error")
    assert not list(Path(run.losses).glob("*/*")), "the table says it by now"
    reader.close()
    run.volume.close()
