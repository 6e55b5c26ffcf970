"""What a disk took and then lost: auto-release copies are lost with it, each told; all else goes on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from uuid import UUID

import pytest

from shadowset.nbd_provider.store import layout, writeback
from shadowset.nbd_provider.store.reader import CopyLost, CopyReader
from shadowset.nbd_provider.store.rows import list_copies
from shadowset.nbd_provider.store.settings import Limits, Policy
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.nbd_provider.volume import LOOK_SECONDS, Volume
from shadowset.vss.codes import VssError

CHUNK = 4096
SIZE = CHUNK * 16
KEPT, FIRST, SECOND, SET = (UUID(int=number) for number in range(1, 5))


class Disk:
    """A store on a disk that has late errors for files: each is told once, as by the kernel."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.origin, self.storage = f"{directory}/origin", f"{directory}/storage"
        self.content = os.urandom(SIZE)
        Path(self.origin).write_bytes(self.content)
        self.fd = os.open(self.origin, os.O_RDWR)
        self.late: dict[str, int] = {}
        self.asked: list[str] = []
        monkeypatch.setattr(writeback, "late_error", self._tell)
        monkeypatch.setattr(writeback, "REST", 0)
        self.open()

    def open(self) -> None:
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK)

    def _tell(self, fd: int) -> int:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        self.asked.append(name)
        return self.late.pop(name, 0)

    def cut(self, copy: UUID, persistent: bool = False) -> None:
        self.store.commit(copy, SET, 1, persistent)
        self.store.finish(copy)

    def write(self, chunk: int) -> None:
        self.store.prepare_write([(chunk * CHUNK, CHUNK)])
        os.pwrite(self.fd, b"n" * CHUNK, chunk * CHUNK)

    def told(self) -> list[tuple[str, str]]:
        return [(each.copy_id, each.cause) for each in self.store.room.events]

    def read(self, copy: UUID) -> bytes:
        reader = CopyReader(self.storage, self.origin, copy)
        try:
            return reader.read(0, SIZE)
        finally:
            reader.close()

    def kill(self) -> None:
        """The end of a process, without what it does at a clean end."""
        self.store.close(clean=False)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(tmp_path, monkeypatch)
    yield made
    made.store.close(clean=False)
    os.close(made.fd)


@pytest.mark.parametrize("name", ["00000000", "head"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_copies_whose_data_was_never_synced_are_lost_each_with_an_event(disk: Disk, name: str, number: int) -> None:
    disk.cut(KEPT, persistent=True)
    disk.write(0)
    for copy in (FIRST, SECOND):
        disk.cut(copy)
        disk.write(copy.int)
    disk.store.configure(Limits(policy=Policy.PROTECT_COPIES))
    reader = CopyReader(disk.storage, disk.origin, FIRST)
    disk.late[name] = number
    assert disk.store.writeback.look()
    cause = "error" if number == errno.EIO else "storage-full"
    assert disk.told() == [(str(FIRST), cause), (str(SECOND), cause)]
    assert "lost on its way to the disk" in disk.store.room.events[0].message
    with pytest.raises(CopyLost):
        reader.read(0, CHUNK)
    reader.close()
    assert disk.read(KEPT) == disk.content
    disk.write(9)
    assert disk.read(KEPT) == disk.content
    assert not disk.store.writeback.look(), "an error counts once"
    disk.store.delete(KEPT)
    assert not disk.store.writeback.wanted


def test_the_loss_tells_what_it_gave_back(disk: Disk) -> None:
    disk.cut(FIRST)
    for chunk in range(8):
        disk.write(chunk)
    disk.late["00000000"] = errno.EIO
    disk.store.writeback.look()
    event = disk.store.room.events[-1]
    assert event.freed >= 8 * CHUNK
    assert disk.store.table.find(FIRST).lost_bytes == event.freed


def test_a_write_that_is_copied_out_asks_and_is_done(disk: Disk) -> None:
    disk.cut(FIRST)
    disk.write(0)
    disk.late["00000000"] = errno.EIO
    disk.write(1)
    assert disk.told() == [(str(FIRST), "error")]
    assert os.pread(disk.fd, CHUNK, CHUNK) == b"n" * CHUNK


def test_a_copy_that_is_finished_has_been_asked_for(disk: Disk) -> None:
    disk.cut(FIRST)
    disk.write(0)
    disk.late["head"] = errno.EIO
    disk.cut(SECOND, persistent=True)
    assert disk.told() == [(str(FIRST), "error")]
    assert disk.store.table.find(SECOND).state == layout.STATE_CREATED


def test_the_loss_stands_after_a_kill(disk: Disk) -> None:
    disk.cut(FIRST)
    disk.cut(SECOND, persistent=True)
    disk.write(0)
    disk.late["00000000"] = errno.EIO
    disk.store.writeback.look()
    disk.kill()
    disk.open()
    assert [each.copy_id for each in list_copies(disk.storage)] == [SECOND]
    assert disk.told() == [(str(FIRST), "error")]
    with pytest.raises((OSError, VssError)):
        disk.read(FIRST)


def test_the_next_process_asks_for_every_segment(disk: Disk) -> None:
    disk.cut(FIRST)
    disk.write(0)
    disk.store._copy_out.start_at(layout.SEGMENT_SLOTS)
    disk.write(1)
    disk.kill()
    disk.late["00000000"] = errno.EIO
    disk.open()
    assert disk.told() == [(str(FIRST), "error")]


def test_the_clean_end_asks_before_it_counts_as_clean(disk: Disk) -> None:
    disk.cut(FIRST)
    disk.write(0)
    disk.late["00000000"] = errno.EIO
    disk.store.close()
    disk.open()
    assert list_copies(disk.storage) == []
    assert disk.store.table.find(FIRST).state == layout.STATE_LOST


def test_a_sync_that_fails_at_the_clean_end_costs_what_it_lost(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.cut(FIRST)
    disk.write(0)

    def failing(fd: int) -> None:
        disk.late["00000000"] = errno.EIO
        raise OSError(errno.EIO, "injected")

    with monkeypatch.context() as patches:
        patches.setattr(os, "fdatasync", failing)
        with pytest.raises(OSError, match="injected"):
            disk.store.close()
    assert list_copies(disk.storage) == []
    assert disk.store.table.find(FIRST).state == layout.STATE_LOST


def test_words_that_were_lost_are_written_again_for_persistent_copies(disk: Disk) -> None:
    disk.cut(KEPT, persistent=True)
    disk.write(3)
    stored: list[int] = []
    put = disk.store.head.put
    disk.store.head.put = lambda index, word: (stored.append(index), put(index, word))[1]  # type: ignore[method-assign]
    disk.late["head"] = errno.EIO
    assert not disk.store.writeback.look()
    assert stored == [0]
    assert disk.read(KEPT) == disk.content


def test_rows_that_were_lost_are_written_again(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.cut(FIRST)
    table = Path(disk.storage) / "table"
    right = table.read_bytes()
    before = bytearray(right)
    before[layout.PAGE : layout.PAGE + layout.ENTRY_SIZE] = bytes(layout.ENTRY_SIZE)
    with open(table, "r+b") as file:
        file.write(before)
    disk.late["table"] = errno.EIO
    assert not disk.store.writeback.look()
    assert table.read_bytes() == right
    assert disk.told() == []


def test_a_loss_that_cannot_be_told_is_told_later(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.cut(FIRST)
    disk.write(0)

    def refused(*_: object) -> str:
        raise OSError(errno.EIO, "injected")

    disk.late["00000000"] = errno.EIO
    with monkeypatch.context() as patches:
        patches.setattr(disk.store._losses, "note", refused)
        assert not disk.store.writeback.look()
        assert disk.store.writeback.wanted
        assert disk.told() == []
    assert disk.store.writeback.look()
    assert disk.told() == [(str(FIRST), "error")]


def test_a_copy_that_was_lost_does_not_become_persistent(disk: Disk) -> None:
    disk.cut(FIRST)
    disk.write(0)
    disk.late["00000000"] = errno.EIO
    with pytest.raises(OSError, match="was lost"):
        disk.store.make_persistent(disk.store.table.find(FIRST))


def test_a_storage_that_moves_gives_nothing_back_meanwhile(disk: Disk) -> None:
    disk.cut(FIRST)
    disk.write(0)
    disk.store.moving = True
    disk.late["00000000"] = errno.EIO
    assert disk.store.writeback.look()
    assert (disk.store.next_slot, disk.store.space.garbage) == (1, True)
    disk.store.moving = False
    assert disk.store.space.make_room()


def test_a_look_that_must_not_wait_does_not(disk: Disk) -> None:
    disk.cut(FIRST)
    disk.asked.clear()
    with disk.store.work:
        thread = Thread(target=disk.store.writeback.look_if_free)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        assert disk.asked == []
    disk.store.writeback.look_if_free()
    assert set(disk.asked) >= {"table", "head"}


def test_the_loop_asks_once_a_second_while_a_copy_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "origin").write_bytes(bytes(SIZE))
    volume = Volume("vol", f"{tmp_path}/origin", f"{tmp_path}/storage", CHUNK)
    now, looks = 100.0, 0

    def look() -> bool:
        nonlocal looks
        looks += 1
        return False

    monkeypatch.setattr(volume.store.writeback, "look", look)
    monkeypatch.setattr("shadowset.nbd_provider.volume.time.monotonic", lambda: now)
    volume.look_for_late_errors()
    assert looks == 0, "no copy, nothing to ask for"
    volume.store.commit(FIRST, SET, 1, False)
    for later, expected in ((1.0, 1), (1.5, 1), (2.0, 2)):
        now = 100.0 + later * LOOK_SECONDS
        volume.look_for_late_errors()
        assert looks == expected
    volume.store.close(clean=False)
    volume.origin.close()
