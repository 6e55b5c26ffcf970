"""A reader that is overtaken by a copy-out between its look at a run of chunks and its reading."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from shadowset.nbd_provider.store import copy_files, layout, resident
from shadowset.nbd_provider.store.copy_files import Pread, origin_runs, read_whole
from shadowset.nbd_provider.store.reader import CopyLost, CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
COPY = UUID(int=1)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """On a disk: a memory file system has no RWF_NOWAIT, and keeps no loss for good."""
    directory = tempfile.mkdtemp(prefix="ss-disk-", dir="/var/tmp")
    yield Path(directory)
    shutil.rmtree(directory, ignore_errors=True)


class Racing:
    """A copy of eight chunks, the last one kept already, and the writer that overtakes its readers."""

    def __init__(self, directory: Path) -> None:
        self.origin, self.storage = str(directory / "origin"), str(directory / "storage")
        self.content = b"".join(bytes([number]) * CHUNK for number in range(1, 9))
        Path(self.origin).write_bytes(self.content)
        self._fd = os.open(self.origin, os.O_RDWR)
        self._store = ShadowStore(self.storage, self._fd, len(self.content), CHUNK)
        self._store.commit(COPY, UUID(int=2), 1, False)
        self.write(7)

    def write(self, chunk: int) -> None:
        self._store.prepare_write([(chunk * CHUNK, CHUNK)])
        os.pwrite(self._fd, b"n" * CHUNK, chunk * CHUNK)

    def lose(self) -> None:
        self._store.delete(COPY)

    def close(self) -> None:
        self._store.close()
        os.close(self._fd)


@pytest.fixture
def racing(tmp_path: Path) -> Iterator[Racing]:
    made = Racing(tmp_path)
    yield made
    made.close()


@pytest.fixture
def reader(racing: Racing) -> Iterator[CopyReader]:
    made = CopyReader(racing.storage, racing.origin, COPY)
    yield made
    made.close()


@pytest.mark.parametrize("way", ["whole", "cached", "mapped"])
@pytest.mark.parametrize("late", [True, False])
def test_chunks_that_are_copied_out_beside_the_reading(
    racing: Racing, reader: CopyReader, way: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the bytes are read, so that new ones are, and after it, so that the words have changed for nothing."""
    monkeypatch.setattr(resident, "PLAIN_TIMES", 0)
    monkeypatch.setattr(resident, "LEAST", 0)
    pread: Pread = {"whole": read_whole, "cached": resident.read_cached, "mapped": reader._files.windows.read}[way]
    todo = [0, 5, 6]

    def overtaken(fd: int, offset: int, target: memoryview) -> bool:
        filled = late and pread(fd, offset, target)
        while todo:
            racing.write(todo.pop())
        return filled or pread(fd, offset, target)

    target = bytearray(len(racing.content))
    assert reader.fill(0, memoryview(target), overtaken) and not todo
    assert target == racing.content


def test_a_chunk_that_is_copied_out_at_each_look(racing: Racing, reader: CopyReader) -> None:
    """Whatever the writer does, only what changed is read again."""
    reads: list[tuple[int, int]] = []

    def overtaken(fd: int, offset: int, target: memoryview) -> bool:
        reads.append((offset, len(target)))
        if len(reads) < 6:
            racing.write(len(reads))
        return read_whole(fd, offset, target)

    target = bytearray(len(racing.content))
    assert reader.fill(0, memoryview(target), overtaken)
    assert target == racing.content and len(reads) > 6
    assert [length for _, length in reads[2:]] == [CHUNK] * len(reads[2:])


def test_a_whole_read_that_is_overtaken(racing: Racing, reader: CopyReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """``read`` takes what lies in the origin alone straight from there."""
    real, todo = os.pread, [3]

    def overtaken(fd: int, length: int, offset: int) -> bytes:
        if fd == reader.origin_fd and todo:
            racing.write(todo.pop())
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", overtaken)
    assert reader.read(0, 6 * CHUNK) == racing.content[: 6 * CHUNK]
    assert not todo


def test_a_word_that_is_being_stored_is_looked_at_again(
    racing: Racing, reader: CopyReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look sees half of a word, which names a slot that is nowhere."""
    real, torn = copy_files.read_words, [0]

    def half(fd: int, first: int, count: int) -> bytes:
        words = real(fd, first, count)
        if torn:
            place = torn.pop() * layout.WORD
            words = words[:place] + layout.pack_head(1, 1 << 39).to_bytes(8, "little") + words[place + layout.WORD :]
        return words

    monkeypatch.setattr(copy_files, "read_words", half)
    assert reader.read(0, len(racing.content)) == racing.content and not torn


def test_what_is_not_in_memory_is_left_to_others(racing: Racing, reader: CopyReader) -> None:
    assert not reader.fill(0, memoryview(bytearray(CHUNK)), lambda fd, offset, target: False)


def test_a_bad_place_of_the_origin_that_is_not_needed(racing: Racing, reader: CopyReader) -> None:
    """Kept chunks within a run are read along, but not if that fails."""
    racing.write(3)

    def bad(fd: int, offset: int, target: memoryview) -> bool:
        if fd == reader.origin_fd and offset <= 3 * CHUNK < offset + len(target):
            raise OSError(5, "bad sector")
        return read_whole(fd, offset, target)

    target = bytearray(len(racing.content))
    assert reader.fill(0, memoryview(target), bad) and target == racing.content
    reads: list[int] = []
    assert reader.fill(0, memoryview(target), lambda *read: bool(reads.append(read[1])) or read_whole(*read))
    assert len(reads) == 3, "the origin at once, and two slots"


def test_a_reader_of_a_lost_copy(racing: Racing, reader: CopyReader) -> None:
    racing.lose()
    assert not reader.fill(0, memoryview(bytearray(CHUNK)), read_whole)
    with pytest.raises(CopyLost):
        reader.read(0, CHUNK)


def test_runs_of_the_origin() -> None:
    assert origin_runs([], 3) == [(0, 3)]
    assert origin_runs([0, 1, 2], 3) == []
    assert origin_runs([1], 3) == [(0, 3)]
    assert origin_runs([1], 3, 0) == [(0, 1), (2, 3)]
    assert origin_runs([0, 2, 3, 4, 5, 6, 8], 10) == [(1, 2), (7, 10)]
