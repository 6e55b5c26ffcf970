"""Shadow copies as read-only NBD exports, read beside the process that writes their storage."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from uuid import UUID

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.block_status import Allocation, Changes, Context, bitmap_names, copy_ranges, open_bitmap
from shadowset.nbd_provider.copy_queue import Errors
from shadowset.nbd_provider.exports import COMMON_FLAGS
from shadowset.nbd_provider.page_cache import PageCache, will_need
from shadowset.nbd_provider.plain_writes import PlainWrites
from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.volume import Gate


class CopyExport:
    """A shadow copy, read-only."""

    gate: Gate | None = None
    in_place: int | None = None
    page_cache: PageCache | None = None
    plain_writes: PlainWrites | None = None

    def __init__(self, storage: str, origin: str, copy_id: UUID, name: str) -> None:
        self._reader = reader = CopyReader(storage, origin, copy_id)
        self.sender: CopyReader | None = reader
        self._storage = storage
        self._copied_out = Changes(storage, copy_id)
        self._may_try = hasattr(os, "RWF_NOWAIT")
        self.name = name
        self.description = f"shadow copy {reader.entry.copy_id}"
        self.size = reader.size
        self.flags = COMMON_FLAGS | p.FLAG_READ_ONLY

    def context_names(self) -> list[str]:
        """Allocation, and what changed from each older copy to this one."""
        return [p.CONTEXT_ALLOCATION, *bitmap_names(self._storage, self._reader.entry.number)]

    def open_context(self, name: str) -> Context:
        """One of them."""
        if name == p.CONTEXT_ALLOCATION:
            return Allocation(self.ranges)
        return open_bitmap(name, self._storage, self._reader.entry.copy_id)

    def read_now(self, offset: int, target: memoryview) -> bool:
        """Fill ``target`` from the page cache; what is unusual is left to ``read``."""
        if self._may_try:
            try:
                return self._reader.fill_now(offset, target)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._may_try = False
        return False

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the copy."""
        return self._reader.read(offset, length)

    def ranges(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """Where the copy has data."""
        return copy_ranges(self._reader.origin_fd, self._copied_out, offset, end)

    def prefetch(self, offset: int, length: int) -> None:
        """Let the kernel read ahead, in the origin and in the slots."""
        with contextlib.suppress(FileNotFoundError):  # a segment went meanwhile: the read looks again
            for fd, place, count in self._reader.places(offset, length):
                will_need(fd, place, count)

    def _refuse(self) -> OSError:
        return OSError(errno.EPERM, f"{self.description} is read-only")

    def unkept(self, ranges: Sequence[tuple[int, int]]) -> list[int]:
        """Nothing is waited for."""
        return []

    def may_write(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """It waits for nothing: what follows is refused."""
        return True

    def copy_out(self, ranges: Sequence[tuple[int, int]], done: Callable[[Errors], None]) -> None:
        """Refused."""
        raise self._refuse()

    def write(self, offset: int, data: memoryview) -> None:
        """Refused."""
        raise self._refuse()

    def trim(self, offset: int, length: int) -> None:
        """Refused."""
        raise self._refuse()

    def zeroes_fast(self, may_punch: bool) -> bool:
        """It is not zeroed at all."""
        return False

    def zero(self, offset: int, length: int, may_punch: bool, fast: bool) -> bool:
        """Refused."""
        raise self._refuse()

    def flush(self) -> None:
        """Nothing to make durable."""

    def close(self) -> None:
        """Close the files of this reader."""
        self._reader.close()
        self._copied_out.close()


class CopyDirectory:
    """The living copies of one shadow storage, by copy id."""

    def __init__(self, storage: str, origin: str, entries: Callable[[], list[layout.Entry]]) -> None:
        self._storage = storage
        self._origin = origin
        self._entries = entries

    def names(self) -> list[str]:
        """Copy ids, oldest first."""
        return [str(entry.copy_id) for entry in self._entries()]

    def find(self, name: str) -> CopyExport | None:
        """The copy with this id; the newest one by default."""
        for entry in reversed(self._entries()):
            if name.lower() in ("", str(entry.copy_id)):
                return CopyExport(self._storage, self._origin, entry.copy_id, str(entry.copy_id))
        return None
