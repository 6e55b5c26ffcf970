"""Another reader, written from docs/shadow-storage.md alone: it reads every copy as ours does."""

from __future__ import annotations

import os
import random
import struct
import zlib
from pathlib import Path
from uuid import UUID

import pytest

from shadowset.nbd_provider.store.overlay import OpenLayer
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore

SET = UUID(int=77)


class OtherReader:
    """Table, chains and layers as the page says; nothing of ours is imported for it."""

    def __init__(self, storage: Path, origin: Path) -> None:
        self.storage, self.origin = storage, origin.read_bytes()
        table = (storage / "table").read_bytes()
        assert table[:8] == b"SHADOWST" and struct.unpack_from("<I", table, 8) == (1,)
        assert struct.unpack_from("<I", table, 84) == (zlib.crc32(table[:84]),)
        (self.chunk,) = struct.unpack_from("<I", table, 12)
        self.size, capacity = struct.unpack_from("<QQ", table, 16)
        self.head = (storage / "head").read_bytes()
        assert len(self.head) == -(-self.size // self.chunk) * 8
        self.copies: dict[UUID, tuple[int, int]] = {}
        for at in range(4096, 4096 + 128 * capacity, 128):
            row = table[at : at + 128]
            state, _, number, _, size = struct.unpack_from("<IIQQQ", row)
            if state in (1, 2):
                assert struct.unpack_from("<I", row, 64) == (zlib.crc32(row[:64]),)
                self.copies[UUID(bytes=row[32:48])] = number, size

    def slot(self, number: int) -> tuple[tuple[int, int, int, int, int], bytes]:
        """Record and data."""
        segment, index = divmod(number, 1 << 20)
        with (self.storage / "segments" / f"{segment:08x}").open("rb") as file:
            file.seek(index * 32)
            record = struct.unpack("<QQQII", file.read(32))
            file.seek((1 << 20) * 32 + index * self.chunk)
            return record, file.read(self.chunk)

    def content(self, chunk: int, copy: int) -> bytes:
        found, word = None, int.from_bytes(self.head[chunk * 8 : chunk * 8 + 8], "little")
        while word and word >> 40 >= copy:
            record, found = self.slot((word & (1 << 40) - 1) - 1)
            assert record[0] == chunk and record[2] >> 32 == word >> 40 and record[3] & 1
            assert not record[3] & 2 or record[4] == zlib.crc32(found)
            word = record[1]
        return self.origin[chunk * self.chunk :][: self.chunk] if found is None else found

    def read(self, copy: UUID) -> bytes:
        number, size = self.copies[copy]
        image = bytearray(b"".join(self.content(chunk, number) for chunk in range(-(-size // self.chunk)))[:size])
        layer = self.storage / "overlays" / str(copy)
        if layer.is_dir():
            self.lay_over(image, layer)
        return bytes(image)

    def lay_over(self, image: bytearray, layer: Path) -> None:
        listed, data = (layer / "map").read_bytes(), (layer / "data").read_bytes()
        version, block = struct.unpack_from("<II", listed, 8)
        size, runs = struct.unpack_from("<QQ", listed, 16)
        assert (listed[:8], version, size, len(listed)) == (b"SHADOWOL", 1, len(image), 40 + 16 * runs)
        assert struct.unpack_from("<I", listed, 32) == (zlib.crc32(listed[40:]),)
        for first, end in struct.iter_unpack("<QQ", listed[40:]):
            image[first * block : end * block] = data[first * block : end * block]
        del image[size:]


def with_layer(storage: str, origin: str, copy: UUID, content: bytes) -> bytes:
    below = CopyReader(storage, origin, copy)
    layer, image = OpenLayer(storage, copy, below.size, below.read), bytearray(content)
    for offset in (0, 5000, 70000, below.size - 700):
        layer.write(offset, b"recovered" * 60)
        image[offset : offset + 540] = b"recovered" * 60
    layer.seal()
    below.close()
    return bytes(image)


@pytest.mark.parametrize("chunk", [4096, 16384, 1 << 20])
def test_another_reader_reads_the_same(tmp_path: Path, chunk: int) -> None:
    chance, size = random.Random(chunk), min(30 * chunk, 10 << 20) - 512
    origin, storage = tmp_path / "origin", tmp_path / "storage"
    origin.write_bytes(chance.randbytes(size))
    fd = os.open(origin, os.O_RDWR)
    store = ShadowStore(str(storage), fd, size, chunk)
    expected: dict[UUID, bytes] = {}
    for number in range(1, 9):
        copy = UUID(int=number)
        store.commit(copy, SET, 1, number % 3 == 0)
        expected[copy] = origin.read_bytes()
        if number == 5:
            expected[copy] = with_layer(str(storage), str(origin), copy, expected[copy])
        store.finish(copy)
        for _ in range(4):
            offset = chance.randrange(size)
            data = chance.randbytes(min(chance.choice([1, chunk, 3 * chunk]), size - offset))
            store.prepare_write([(offset, len(data))])
            os.pwrite(fd, data, offset)
        if number in (4, 7):
            gone = UUID(int=number - 2)
            store.delete(gone)
            del expected[gone]
            list(store.space.reclaim())
    other = OtherReader(storage, origin)
    assert other.copies.keys() == expected.keys()
    assert {copy: other.read(copy) for copy in expected} == expected
    store.close()
    os.close(fd)
