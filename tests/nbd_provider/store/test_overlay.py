"""The layer that writers leave in a copy: whole or not at all, part of that copy only, and counted as changed."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shadowset.nbd_provider.store import overlay as overlay_module
from shadowset.nbd_provider.store.changes import changed_runs
from shadowset.nbd_provider.store.move import Mover, Phase
from shadowset.nbd_provider.store.overlay import OpenLayer
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.revert import Reverter
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss.codes import VssError

CHUNK = 16384
SIZE = 40 * CHUNK + 1536
OLDER, COPY, NEWER = (UUID(int=number) for number in (1, 2, 3))


class Volume:
    """Three copies of a volume with a write before each."""

    def __init__(self, directory: Path) -> None:
        self.origin, self.storage = str(directory / "origin"), str(directory / "storage")
        self.random = random.Random(7)
        Path(self.origin).write_bytes(self.random.randbytes(SIZE))
        self.fd = os.open(self.origin, os.O_RDWR)
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK)
        self.cuts: dict[UUID, bytes] = {}
        for copy_id in (OLDER, COPY, NEWER):
            self.write(self.random.randrange(40) * CHUNK)
            self.cut(copy_id)
        self.write(3 * CHUNK)

    def cut(self, copy_id: UUID) -> None:
        self.store.commit(copy_id, UUID(int=9), 1, True)
        self.cuts[copy_id] = Path(self.origin).read_bytes()

    def write(self, offset: int) -> None:
        self.store.prepare_write([(offset, 512)])
        os.pwrite(self.fd, self.random.randbytes(512), offset)

    def read(self, copy_id: UUID) -> bytes:
        reader = CopyReader(self.storage, self.origin, copy_id)
        try:
            return reader.read(0, SIZE)
        finally:
            reader.close()

    def layer(self) -> tuple[CopyReader, OpenLayer]:
        below = CopyReader(self.storage, self.origin, COPY)
        return below, OpenLayer(self.storage, COPY, SIZE, below.read)

    def recover(self) -> bytes:
        """Writes of all shapes into the layer, sealed; what the copy holds then."""
        below, layer = self.layer()
        expected = bytearray(self.cuts[COPY])
        for _ in range(40):
            offset = self.random.randrange(SIZE)
            data = self.random.randbytes(min(self.random.choice((1, 511, 4096, 20000)), SIZE - offset))
            layer.write(offset, data)
            expected[offset : offset + len(data)] = data
        for offset, length in ((0, SIZE), (5, 9000), (SIZE - 700, 700)):
            assert layer.read(offset, length) == expected[offset : offset + length]
        assert self.read(COPY) == self.cuts[COPY], "nobody sees a layer that is not sealed"
        layer.seal()
        below.close()
        return bytes(expected)

    def close(self) -> None:
        self.store.close()
        os.close(self.fd)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    made = Volume(tmp_path)
    yield made
    made.close()


def test_a_sealed_layer_is_part_of_its_copy_and_of_no_other(volume: Volume) -> None:
    recovered = volume.recover()
    for offset in range(0, 40 * CHUNK, 5 * CHUNK):
        volume.write(offset)
    assert volume.read(COPY) == recovered
    assert (volume.read(OLDER), volume.read(NEWER)) == (volume.cuts[OLDER], volume.cuts[NEWER])
    with pytest.raises(VssError, match="sealed"):
        volume.layer()


def test_what_the_layer_touches_counts_as_changed(volume: Volume) -> None:
    recovered = volume.recover()
    for since, until, before, after in (
        (OLDER, COPY, volume.cuts[OLDER], recovered),
        (COPY, NEWER, recovered, volume.cuts[NEWER]),
        (COPY, None, recovered, Path(volume.origin).read_bytes()),
    ):
        told = {chunk for run in changed_runs(volume.storage, since, until) for chunk in range(run.first, run.end)}
        chunks = range(0, SIZE, CHUNK)
        differ = {at // CHUNK for at in chunks if before[at : at + CHUNK] != after[at : at + CHUNK]}
        assert differ <= told
        runs = changed_runs(volume.storage, since, until)
        assert all(one.end < two.first for one, two in itertools.pairwise(runs))


def test_a_revert_brings_the_layer_along(volume: Volume) -> None:
    recovered = volume.recover()
    volume.store.finish(COPY)
    for round_ in range(2):
        reverter = Reverter(volume.store, volume.fd)
        reverter.begin(COPY)
        for _ in reverter.work() or ():
            pass
        assert Path(volume.origin).read_bytes() == recovered, f"revert {round_}"
        volume.write(0)
    assert volume.read(COPY) == recovered
    assert (volume.read(OLDER), volume.read(NEWER)) == (volume.cuts[OLDER], volume.cuts[NEWER])


def test_the_layer_goes_with_its_copy(volume: Volume, tmp_path: Path) -> None:
    volume.recover()
    assert [each.name for each in Path(volume.storage, "overlays").iterdir()] == [str(COPY)]
    volume.store.delete(COPY)
    volume.store.space.make_room()
    assert list(Path(volume.storage, "overlays").iterdir()) == []


def test_a_layer_that_nobody_sealed_is_dropped_or_begun_again(volume: Volume) -> None:
    below, layer = volume.layer()
    layer.write(100, b"x")
    layer.close()
    again = OpenLayer(volume.storage, COPY, SIZE, below.read)
    assert again.read(0, SIZE) == volume.cuts[COPY]
    again.close()
    below.close()
    assert volume.read(COPY) == volume.cuts[COPY]
    volume.store.delete(COPY)
    volume.store.space.make_room()
    assert list(Path(volume.storage, "overlays").iterdir()) == []


def test_a_layer_with_a_failed_write_is_not_sealed(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    below, layer = volume.layer()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(overlay_module, "write_all", full)
        with pytest.raises(OSError, match="no space"):
            layer.write(0, b"y")
    with pytest.raises(OSError, match="cannot be sealed"):
        layer.seal()
    layer.close()
    below.close()
    assert volume.read(COPY) == volume.cuts[COPY]


@pytest.mark.parametrize("damage", [0, 8, 20, 33, -1])
def test_a_damaged_list_of_blocks_is_told(volume: Volume, damage: int) -> None:
    volume.recover()
    path = Path(volume.storage, "overlays", str(COPY), "map")
    content = bytearray(path.read_bytes())
    content[damage] ^= 0xFF
    path.write_bytes(content[:-1] if damage == 20 else content)
    with pytest.raises(VssError, match="damaged"):
        volume.read(COPY)


def test_a_move_takes_layers_along(volume: Volume, tmp_path: Path) -> None:
    recovered = volume.recover()
    reader = CopyReader(volume.storage, volume.origin, COPY)
    old, new = volume.storage, str(tmp_path / "elsewhere")
    mover = Mover(volume.store)
    mover.begin(new)
    late = Path(old, "overlays", str(NEWER))
    for _ in mover.work() or ():
        if mover.progress and mover.progress.phase is Phase.CLEANING and not late.exists():
            assert volume.read(COPY) == recovered, "the new directory counts by now"
            shutil.copytree(f"{old}/overlays/{COPY}", late)  # sealed while the storage was taking its last step
    assert volume.store.storage == new and not Path(old, "overlays").exists()
    assert reader.read(0, SIZE) == volume.read(COPY) == recovered
    reader.close()
    assert sorted(each.name for each in Path(new, "overlays").iterdir()) == [str(COPY), str(NEWER)]
