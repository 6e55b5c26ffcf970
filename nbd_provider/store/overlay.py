"""What was changed inside a fresh copy by its writers: a private layer over it, sealed before anybody else sees it.

While it is open, ``overlays/COPY-ID.part`` belongs to one process, and the copy is pending. Sealing makes the list of
changed blocks and all data durable, then renames the directory to ``overlays/COPY-ID``: from then on it never changes.
So a reader finds the whole layer or none. It goes with its copy.
"""

from __future__ import annotations

import bisect
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from typing import Final
from uuid import UUID

from shadowset.nbd_provider.store.files import sync_directory, write_all
from shadowset.vss.codes import Code, VssError

BLOCK: Final = 4096
DIRECTORY: Final = "overlays"
OPEN: Final = ".part"
PIECE: Final = 1 << 20
MAGIC: Final = b"SHADOWOL"
VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sIIQQII")
_RUN: Final = struct.Struct("<QQ")


def _directory(storage: str, copy_id: UUID) -> str:
    return f"{storage}/{DIRECTORY}/{copy_id}"


class Overlay:
    """A sealed layer; any number of readers, in any thread. Errors: VssError when it is damaged, OSError."""

    def __init__(self, directory: str) -> None:
        self._firsts, self._ends = _read_map(f"{directory}/map")
        self._data = os.open(f"{directory}/data", os.O_RDONLY | os.O_CLOEXEC)

    def runs(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """Changed ranges of bytes, whole blocks cut to (offset, end), in order."""
        at = bisect.bisect_right(self._ends, offset // BLOCK)
        while at < len(self._firsts) and self._firsts[at] * BLOCK < end:
            yield max(offset, self._firsts[at] * BLOCK), min(end, self._ends[at] * BLOCK)
            at += 1

    def touches(self, offset: int, length: int) -> bool:
        """Whether any byte of the range is the layer's."""
        return next(self.runs(offset, offset + length), None) is not None

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of a changed range. Errors: OSError."""
        return os.pread(self._data, length, offset)

    def over(self, offset: int, content: bytes) -> bytes:
        """``content`` of the copy from ``offset`` on, with the layer over it. Errors: OSError."""
        return _over(self._data, self.runs(offset, offset + len(content)), offset, content)

    def close(self) -> None:
        """Close the file."""
        os.close(self._data)


def find_overlay(storage: str, copy_id: UUID) -> Overlay | None:
    """The layer of a copy, when it has one. Errors: VssError, OSError."""
    try:
        return Overlay(_directory(storage, copy_id))
    except FileNotFoundError:
        return None


def _over(data: int, runs: Iterator[tuple[int, int]], offset: int, content: bytes) -> bytes:
    changed = None
    for start, end in runs:
        changed = changed or bytearray(content)
        piece = os.pread(data, end - start, start)
        if len(piece) != end - start:
            raise OSError(5, f"the layer of a shadow copy ends at byte {start + len(piece)}")
        changed[start - offset : end - offset] = piece
    return bytes(changed) if changed else content


def _read_map(path: str) -> tuple[list[int], list[int]]:
    with open(path, "rb") as file:
        content = file.read()
    bad = VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, f"{path} is damaged, so its shadow copy cannot be read")
    if len(content) < _HEADER.size:
        raise bad
    magic, version, block, _, count, crc, _ = _HEADER.unpack_from(content)
    runs = content[_HEADER.size :]
    if (magic, version, block) != (MAGIC, VERSION, BLOCK) or len(runs) != count * _RUN.size or zlib.crc32(runs) != crc:
        raise bad
    pairs = list(_RUN.iter_unpack(runs))
    return [first for first, _ in pairs], [end for _, end in pairs]


class Layer:
    """A layer that is being written, into the file ``data``, over ``size`` bytes that ``below`` (offset, length) reads.

    Errors: OSError.
    """

    def __init__(self, data: int, size: int, below: Callable[[int, int], bytes]) -> None:
        self._data = data
        self._size = size
        self._below = below
        self._changed: set[int] = set()
        self.failed = False
        os.ftruncate(data, size)

    def read(self, offset: int, length: int) -> bytes:
        """The copy as it is by now. Errors: OSError."""
        content = self._below(offset, length)
        end = offset + len(content)
        blocks = range(offset // BLOCK, (end + BLOCK - 1) // BLOCK)
        mine = (block for block in blocks if block in self._changed)
        runs = ((max(offset, block * BLOCK), min(end, (block + 1) * BLOCK)) for block in mine)
        return _over(self._data, runs, offset, content)

    def write(self, offset: int, content: bytes | memoryview) -> None:
        """Change bytes. Errors: OSError; the layer can then no longer be sealed."""
        try:
            self._write(offset, bytes(content))
        except OSError:
            self.failed = True
            raise

    def _write(self, offset: int, content: bytes) -> None:
        begin, end = offset // BLOCK * BLOCK, min(self._size, -(-(offset + len(content)) // BLOCK) * BLOCK)
        head = self.read(begin, offset - begin) if begin < offset else b""
        tail_at = offset + len(content)
        tail = self.read(tail_at, end - tail_at) if tail_at < end else b""
        write_all(self._data, head + content + tail, begin)
        self._changed.update(range(begin // BLOCK, -(-end // BLOCK)))

    def close(self) -> None:
        """Close the file."""
        os.close(self._data)


def scratch_layer(directory: str, size: int, below: Callable[[int, int], bytes]) -> Layer:
    """A layer that goes with its process: its file in ``directory`` has no name. Errors: OSError."""
    import tempfile

    with tempfile.TemporaryFile(dir=directory) as file:
        return Layer(os.dup(file.fileno()), size, below)


class OpenLayer(Layer):
    """The layer of a pending copy, to be sealed. Errors: VSS_E_OBJECT_ALREADY_EXISTS when the copy has one, OSError."""

    def __init__(self, storage: str, copy_id: UUID, size: int, below: Callable[[int, int], bytes]) -> None:
        self._place = _directory(storage, copy_id)
        if os.path.exists(self._place):
            raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"shadow copy {copy_id} is sealed; it stays as it is")
        shutil.rmtree(self._place + OPEN, ignore_errors=True)
        os.makedirs(self._place + OPEN, mode=0o700)
        data = os.open(f"{self._place}{OPEN}/data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        super().__init__(data, size, below)

    def seal(self) -> None:
        """Durable when it returns, and for ever as it is. Errors: OSError, also for a write that failed before."""
        if self.failed:
            raise OSError(5, "a write to the layer of a shadow copy has failed, so it cannot be sealed")
        os.fsync(self._data)
        runs = b"".join(_RUN.pack(first, end) for first, end in _runs(sorted(self._changed)))
        count = len(runs) // _RUN.size
        header = _HEADER.pack(MAGIC, VERSION, BLOCK, self._size, count, zlib.crc32(runs), 0)
        with open(f"{self._place}{OPEN}/map", "wb") as file:
            file.write(header + runs)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(self._place + OPEN)
        os.rename(self._place + OPEN, self._place)
        sync_directory(os.path.dirname(self._place))
        sync_directory(os.path.dirname(os.path.dirname(self._place)))
        self.close()


def _runs(blocks: list[int]) -> Iterator[tuple[int, int]]:
    first = end = -1
    for block in blocks:
        if block != end:
            if end > first:
                yield first, end
            first = block
        end = block + 1
    if end > first:
        yield first, end


def bring_overlays(source: str, target: str) -> None:
    """Copy the sealed layers of one storage directory that are not in another one yet, durably. Errors: OSError."""
    try:
        names = [name for name in os.listdir(f"{source}/{DIRECTORY}") if not name.endswith(OPEN)]
    except FileNotFoundError:
        return
    for name in names:
        place = f"{target}/{DIRECTORY}/{name}"
        if not os.path.exists(place):
            shutil.rmtree(place + OPEN, ignore_errors=True)
            os.makedirs(place + OPEN, mode=0o700)
            _copy(f"{source}/{DIRECTORY}/{name}", place + OPEN)
            os.rename(place + OPEN, place)
    sync_directory(f"{target}/{DIRECTORY}")
    sync_directory(target)


def _copy(source: str, target: str) -> None:
    with open(f"{source}/map", "rb") as file, open(f"{target}/map", "wb") as new:
        new.write(file.read())
        new.flush()
        os.fsync(new.fileno())
    layer = Overlay(source)
    try:
        data = os.open(f"{target}/data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.stat(f"{source}/data").st_size
            os.ftruncate(data, size)
            for start, end in layer.runs(0, size):
                for at in range(start, end, PIECE):
                    write_all(data, layer.read(at, min(PIECE, end - at)), at)
            os.fsync(data)
        finally:
            os.close(data)
    finally:
        layer.close()
    sync_directory(target)


def drop_overlays(storage: str, living: Collection[UUID]) -> None:
    """Remove the layers, sealed or open, of copies that do not live. Errors: OSError."""
    try:
        names = os.listdir(f"{storage}/{DIRECTORY}")
    except FileNotFoundError:
        return
    kept = {str(copy_id) for copy_id in living}
    for name in names:
        if name.removesuffix(OPEN) not in kept:
            shutil.rmtree(f"{storage}/{DIRECTORY}/{name}")
