"""A reader that is overtaken by a copy-out between its look at a run of chunks and its reading."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
COPY = UUID(int=1)


def test_a_run_whose_first_chunk_is_copied_out_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin, storage = str(tmp_path / "origin"), str(tmp_path / "storage")
    content = b"".join(bytes([number]) * CHUNK for number in range(1, 9))
    Path(origin).write_bytes(content)
    fd = os.open(origin, os.O_RDWR)
    store = ShadowStore(storage, fd, len(content), CHUNK)
    store.commit(COPY, UUID(int=2), 1, False)

    def write(chunk: int) -> None:
        store.prepare_write([(chunk * CHUNK, CHUNK)])
        os.pwrite(fd, b"n" * CHUNK, chunk * CHUNK)

    write(7)
    reader = CopyReader(storage, origin, COPY)
    look = reader._same_place

    def overtaken(chunk: int, last: int) -> int:
        until = look(chunk, last)
        if chunk == 0 and until > 1:
            write(0)
            write(5)
        return until

    monkeypatch.setattr(reader, "_same_place", overtaken)
    assert reader.read(0, len(content)) == content
    reader.close()
    store.close()
    os.close(fd)
