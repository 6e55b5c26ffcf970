"""A reader that knows the way to a slot, which was another one when it learnt it."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
CHUNKS = 400
SET = UUID(int=1 << 64)


@pytest.mark.usefixtures("small_segments")
def test_the_way_led_through_a_segment_that_is_gone(memory_directory: str) -> None:
    """Three segments, one for each copy; the middle copy goes and takes its segment along."""
    storage, origin = f"{memory_directory}/storage", f"{memory_directory}/origin"
    Path(origin).write_bytes(b"a" * CHUNK * CHUNKS)
    fd = os.open(origin, os.O_RDWR)
    store = ShadowStore(storage, fd, CHUNK * CHUNKS, CHUNK)

    def cut_and_write(number: int) -> None:
        store.commit(UUID(int=number), SET, 1, False)
        store.finish(UUID(int=number))
        for chunk in range(layout.SEGMENT_SLOTS):
            store.prepare_write([(chunk * CHUNK, CHUNK)])
            os.pwrite(fd, bytes([number]) * CHUNK, chunk * CHUNK)

    for number in (1, 2, 3):
        cut_and_write(number)
    reader = CopyReader(storage, origin, UUID(int=3))
    oldest = CopyReader(storage, origin, UUID(int=1))
    files = oldest._files
    newest_slot = layout.head_slot(store.head.view[5])
    files._slots.previous_head(newest_slot + 20)  # the page of the newest slots, and nothing on from there
    assert len(os.listdir(f"{storage}/segments")) == 3
    store.delete(UUID(int=2))
    for _ in store.space.reclaim():
        pass
    assert len(os.listdir(f"{storage}/segments")) == 2
    assert oldest.read(5 * CHUNK, CHUNK) == b"a" * CHUNK
    assert reader.read(5 * CHUNK, CHUNK) == b"\2" * CHUNK
    for each in (reader, oldest):
        each.close()
    store.close()
    os.close(fd)
