"""The live volume as an NBD export."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.block_status import Allocation, Context, bitmap_names, file_ranges, open_bitmap
from shadowset.nbd_provider.copy_queue import Errors
from shadowset.nbd_provider.exports import COMMON_FLAGS
from shadowset.nbd_provider.origin import FALLOC_FL_ZERO_RANGE, UNSUPPORTED
from shadowset.nbd_provider.page_cache import PageCache, will_need
from shadowset.nbd_provider.plain_writes import PlainWrites
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.reclaim import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from shadowset.nbd_provider.store.resident import read_cached
from shadowset.nbd_provider.volume import Gate, Volume

WRITE_FLAGS: Final = p.FLAG_SEND_FUA | p.FLAG_SEND_TRIM | p.FLAG_SEND_WRITE_ZEROES | p.FLAG_SEND_FAST_ZERO


class LiveExport:
    """The live volume."""

    sender: CopyReader | None = None

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._fd = volume.origin.fd
        self.in_place: int | None = self._fd
        self.plain_writes: PlainWrites | None = PlainWrites(volume)
        self._may_try = hasattr(os, "RWF_NOWAIT")
        cache = PageCache(self._fd, volume.read)
        self.page_cache: PageCache | None = cache if cache.supported else None
        self._slow_modes: set[int] = set()
        self._own = -1
        self.name = volume.name
        self.description = f"live volume {volume.name}"
        self.flags = COMMON_FLAGS | WRITE_FLAGS

    @property
    def size(self) -> int:
        """As large as the volume is now: clients that are there already may use what was added."""
        return self._volume.origin.size

    @property
    def gate(self) -> Gate | None:
        """The volume's gate."""
        return self._volume.gate

    def context_names(self) -> list[str]:
        """Allocation, and what changed since each living copy."""
        return [p.CONTEXT_ALLOCATION, *bitmap_names(self._volume.store.storage)]

    def open_context(self, name: str) -> Context:
        """One of them."""
        if name == p.CONTEXT_ALLOCATION:
            return Allocation(self.ranges)
        return open_bitmap(name, self._volume.store.storage)

    def read_now(self, offset: int, target: memoryview) -> bool:
        """Fill ``target`` from the page cache; where that cannot be asked for, from wherever the bytes are."""
        if self._may_try:
            try:
                return read_cached(self._fd, offset, target)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._may_try = False
        return os.preadv(self._fd, (target,), offset) == len(target)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes, waiting for the disk."""
        return self._volume.read(offset, length)

    def ranges(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """Where the origin has data."""
        return file_ranges(self._fd, offset, end)

    def prefetch(self, offset: int, length: int) -> None:
        """Let the kernel read ahead."""
        will_need(self._fd, offset, length)

    def unkept(self, ranges: Sequence[tuple[int, int]]) -> list[int]:
        """Which of the ranges a copy takes from the origin in part."""
        return self._volume.store.unkept(ranges)

    def may_write(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether the old content is kept, after a copy-out where that is cheap."""
        return self._volume.may_write(ranges)

    def copy_out(self, ranges: Sequence[tuple[int, int]], done: Callable[[Errors], None]) -> None:
        """Keep the old content, in a thread."""
        self._volume.copies.add(ranges, done)

    def write(self, offset: int, data: memoryview) -> None:
        """Overwrite."""
        self._volume.write(offset, data)

    def trim(self, offset: int, length: int) -> None:
        """Discard what no copy needs; the rest keeps its content, so that a discard never fills the shadow storage."""
        for start, count in self._volume.store.preserved(offset, length):
            self._volume.origin.trim(start, count)

    def _fast_mode(self, may_punch: bool) -> int:
        """How to zero without writing. A block device may write when it must not punch, so that is never tried."""
        if may_punch:
            return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        return 0 if self._volume.origin.is_block else FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE

    def zeroes_fast(self, may_punch: bool) -> bool:
        """Until it was tried once without success."""
        return self._fast_mode(may_punch) not in (0, *self._slow_modes)

    def zero(self, offset: int, length: int, may_punch: bool, fast: bool) -> bool:
        """Make the range read as zeros."""
        if not fast:
            self._volume.origin.zero(offset, length, may_punch)
            return True
        mode = self._fast_mode(may_punch)
        try:
            fallocate(self._fd, mode, offset, length)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self._slow_modes.add(mode)
            return False
        return True

    def flush(self) -> None:
        """fdatasync of the origin, which covers the writes of all connections. Errors: OSError."""
        if self._own < 0:
            self._volume.flush()
        else:
            os.fdatasync(self._own)

    def for_client(self) -> LiveExport:
        """The same with a description of its own of the open file: the kernel tells each of them once that writes were
        lost, so no client's flush, nor anybody else's sync, takes that from another client."""
        own = copy.copy(self)
        with contextlib.suppress(OSError):
            own._own = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        return own

    def close(self) -> None:
        """Nothing but what is the client's: the volume outlives its connections."""
        own, self._own = self._own, -1
        if own >= 0:
            os.close(own)


class LiveDirectory:
    """The one live volume, under its name and as the default."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._export = LiveExport(volume)

    def names(self) -> list[str]:
        """The volume's name."""
        return [self._export.name]

    def find(self, name: str) -> LiveExport | None:
        """The live volume. Errors: VSS_E_REVERT_IN_PROGRESS."""
        self._volume.check_usable()
        return self._export.for_client() if name in ("", self._export.name) else None
