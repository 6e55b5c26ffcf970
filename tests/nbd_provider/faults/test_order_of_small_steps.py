"""Orders and refusals that no kill at a system call and no model of contents tells apart."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from moving import CHUNK, SIZE, Scene

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.mapped import Mapped
from shadowset.nbd_provider.store.move_steps import Phase


def overwrite(scene: Scene, *chunks: int) -> None:
    for chunk in chunks:
        length = min(CHUNK, SIZE - chunk * CHUNK)
        scene.store.prepare_write([(chunk * CHUNK, length)])
        data = scene.chance.randbytes(length)
        os.pwrite(scene.fd, data, chunk * CHUNK)
        scene.content[chunk * CHUNK : chunk * CHUNK + length] = data


def test_a_slot_is_out_of_its_chain_before_it_is_marked_free(
    memory_directory: str, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(memory_directory, 3)
    for _ in range(6):
        scene.cut()
        overwrite(scene, 4, 5, 6)
    for copy in (2, 3, 5):
        scene.store.delete(UUID(int=copy))
        del scene.expected[UUID(int=copy)]
    store, real, marked = scene.store, Mapped.put, []

    def put(words: Mapped, index: int, word: int) -> None:
        if word == layout.FREE_CHUNK:
            marked.append(index // layout.SLOT_WORDS)
            for chunk in (4, 5, 6):
                way = store.head.get(chunk)
                while way:
                    assert layout.head_slot(way) != marked[-1], "who is killed here leaves a free slot in a chain"
                    way = store.segments.previous_head(layout.head_slot(way))
        real(words, index, word)

    with monkeypatch.context() as patches:
        patches.setattr(Mapped, "put", put)
        for _ in store.space.reclaim():
            pass
    assert len(marked) == 9
    scene.compare()
    scene.close()


def test_what_lies_beyond_the_volume_is_zeros_in_its_slot(memory_directory: str, small_segments: None) -> None:
    """Not what was copied out before, which may have been deleted since."""
    scene = Scene(memory_directory, 4)
    scene.cut()
    overwrite(scene, 0, 1, SIZE // CHUNK)
    data = scene.store.segments.read(layout.head_slot(scene.store.head.get(SIZE // CHUNK)), 0, CHUNK)
    assert data == scene.expected[UUID(int=1)][-(SIZE % CHUNK) :] + bytes(CHUNK - SIZE % CHUNK)
    scene.close()


def test_slots_keep_their_numbers_while_the_storage_moves(memory_directory: str, small_segments: None) -> None:
    scene = Scene(memory_directory, 5)
    scene.cut()
    overwrite(scene, *range(30))
    scene.mover.begin(scene.place("b"))
    steps = scene.mover.work()
    assert steps is not None
    next(steps)
    next(steps)
    taken = scene.store.next_slot
    scene.store.delete(UUID(int=1))
    scene.expected.clear()
    for reader in scene.readers.values():
        reader.close()
    scene.readers.clear()
    assert scene.store.next_slot == taken == 30
    scene.cut()
    overwrite(scene, *range(20, 40))
    scene.end_move()
    assert scene.store.storage == scene.place("b")
    scene.compare()
    scene.close()


def test_another_directory_in_the_place_of_the_new_one_stops_the_move(
    memory_directory: str, small_segments: None
) -> None:
    """As one that is mounted over it; a table is in it, too."""
    scene = Scene(memory_directory, 6)
    scene.cut()
    overwrite(scene, *range(10))
    new = scene.place("b")
    scene.mover.begin(new)
    for _ in scene.mover.work() or ():
        if scene.mover.progress and scene.mover.progress.phase is Phase.SWITCHING:
            os.rename(new, f"{new}.under")
            shutil.copytree(f"{new}.under", new)
            break
    scene.end_move()
    assert scene.mover.progress is not None and scene.mover.progress.reason
    assert scene.store.storage == scene.place("a")
    scene.compare()
    scene.mover.close()
    scene.close()


@pytest.mark.parametrize("kind", [1, 4, 6])
def test_a_copy_takes_no_change_of_a_client_that_ignores_its_flags(
    provider: Any, nbd_module: Any, random_image: bytes, kind: int
) -> None:
    copy = provider.control().snapshot()
    client = nbd_module.NBD()
    client.set_export_name(copy)
    client.set_strict_mode(0)
    client.connect_unix(provider.export())
    for offset in (0, provider.size):  # also where nothing is
        with pytest.raises(nbd_module.Error) as caught:
            if kind == 1:
                client.pwrite(b"x" * 512, offset)
            else:
                (client.trim if kind == 4 else client.zero)(512, offset)
        assert caught.value.errno == "EPERM"
    assert client.pread(512, 0) == random_image[:512] == Path(provider.origin).read_bytes()[:512]
