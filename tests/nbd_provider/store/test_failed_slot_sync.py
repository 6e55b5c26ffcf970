"""A sync of slots that fails leaves nothing behind that a recovery would take for damage."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from uuid import UUID

import pytest

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.reader import CopyReader
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
    segment = Path(storage, "segments", "00000000")
    scribble(segment)
    overwrite(store, origin, 12, 1)
    store.header.boot_id = UUID(int=77)
    store.table.write_header()
    store.close(clean=False)
    again = ShadowStore(storage, origin, SIZE, CHUNK)
    assert [entry.copy_id for entry in again.table.entries] == [COPY] and not again.room.events
    reader = CopyReader(storage, f"{tmp_path}/origin", COPY)
    assert reader.read(0, SIZE) == before
    reader.close()
    again.close()
    os.close(origin)


def overwrite(store: ShadowStore, origin: int, chunk: int, count: int) -> None:
    store.prepare_write([(chunk * CHUNK, count * CHUNK)])
    os.pwrite(origin, os.urandom(count * CHUNK), chunk * CHUNK)


def scribble(segment: Path) -> None:
    """What the sync that failed left of the data: slots 1 to 6."""

    with open(segment, "r+b") as file:
        for slot in range(1, 7):
            file.seek(layout.slot_position(slot, CHUNK)[2])
            file.write(os.urandom(CHUNK))
