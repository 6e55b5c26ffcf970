"""A reader that is overtaken by a copy-out between its look at a run of chunks and its reading."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from shadowset.nbd_provider import copy_export
from shadowset.nbd_provider.copy_export import CachedCopyReader
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
COPY = UUID(int=1)


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

    def overtake(self, look: Callable[[memoryview, int, int], int]) -> Callable[[memoryview, int, int], int]:
        """Copy out chunks 0 and 5 between the look at the run and what follows."""

        def overtaken(view: memoryview, chunk: int, last: int) -> int:
            until = look(view, chunk, last)
            if chunk == 0 and until > 1:
                self.write(0)
                self.write(5)
            return until

        return overtaken

    def close(self) -> None:
        self._store.close()
        os.close(self._fd)


@pytest.fixture
def racing(tmp_path: Path) -> Iterator[Racing]:
    made = Racing(tmp_path)
    yield made
    made.close()


def test_a_run_whose_first_chunk_is_copied_out_meanwhile(racing: Racing, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = CopyReader(racing.storage, racing.origin, COPY)
    monkeypatch.setattr(reader, "_same_place", racing.overtake(reader._same_place))
    assert reader.read(0, len(racing.content)) == racing.content
    reader.close()


def read_cached(reader: CachedCopyReader, length: int) -> bytes | None:
    target = bytearray(length)
    return bytes(target) if reader.read_cached(0, memoryview(target)) else None


def test_a_cached_run_whose_first_chunk_is_copied_out_meanwhile(
    racing: Racing, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = CachedCopyReader(racing.storage, racing.origin, COPY)
    assert read_cached(reader, len(racing.content)) == racing.content
    with monkeypatch.context() as patches:
        patches.setattr(reader, "_same_place", racing.overtake(reader._same_place))
        assert read_cached(reader, len(racing.content)) is None, "a closer look is needed"
    assert read_cached(reader, len(racing.content)) == racing.content
    reader.close()


def test_a_cached_run_that_is_overwritten_before_it_is_read(racing: Racing, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = CachedCopyReader(racing.storage, racing.origin, COPY)
    real = copy_export.read_cached

    def late(fd: int, offset: int, target: memoryview) -> bool:
        racing.write(3)
        return real(fd, offset, target)

    with monkeypatch.context() as patches:
        patches.setattr(copy_export, "read_cached", late)
        assert read_cached(reader, 6 * CHUNK) is None, "new bytes were read"
    assert read_cached(reader, len(racing.content)) == racing.content
    reader.close()
