"""What the server asks of the things it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol, runtime_checkable

from shadowset.nbd_provider import protocol
from shadowset.nbd_provider.block_status import Context
from shadowset.nbd_provider.copy_queue import Errors
from shadowset.nbd_provider.page_cache import PageCache
from shadowset.nbd_provider.plain_writes import PlainWrites
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.volume import Gate

COMMON_FLAGS: Final = (
    protocol.FLAG_HAS_FLAGS | protocol.FLAG_SEND_FLUSH | protocol.FLAG_CAN_MULTI_CONN | protocol.FLAG_SEND_CACHE
)


class Export(Protocol):
    """One export as the transmission phase uses it; errors are OSError with the errno to report."""

    name: str
    description: str
    flags: int
    in_place: int | None
    """A descriptor of a file that has all bytes in their places, whose reads need no second look."""
    page_cache: PageCache | None
    """The same file, where what it has in the page cache can be sent from there."""
    plain_writes: PlainWrites | None
    """Does writes that need nothing else, many at a time."""

    sender: CopyReader | None
    """The copy whose bytes it may send as they are read, where nothing else has to be asked."""

    @property
    def size(self) -> int:
        """Bytes; a live volume may grow."""

    def context_names(self) -> list[str]:
        """The metadata contexts that a client may choose."""

    def open_context(self, name: str) -> Context:
        """One of them."""

    def read_now(self, offset: int, target: memoryview) -> bool:
        """Fill ``target`` without waiting for a disk, or say False."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes, waiting as long as it takes; called from any thread."""

    def ranges(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """Where data is, as sorted (start, end); the rest reads as zeros. Called from any thread."""

    def prefetch(self, offset: int, length: int) -> None:
        """The range will be read soon; called from any thread."""

    def unkept(self, ranges: Sequence[tuple[int, int]]) -> list[int]:
        """Which of the (offset, length) ranges, by index, must not be changed without more ado."""

    def may_write(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether all may be changed now, after what can be done for it at once; if not, ``copy_out`` comes first."""

    def copy_out(self, ranges: Sequence[tuple[int, int]], done: Callable[[Errors], None]) -> None:
        """Do in a thread what a change has to wait for; ``done`` gets an error or None for each range.

        Whoever changes the ranges then asks ``may_write`` again.
        """

    def write(self, offset: int, data: memoryview) -> None:
        """Change bytes."""

    def trim(self, offset: int, length: int) -> None:
        """The range is not needed any more."""

    def zeroes_fast(self, may_punch: bool) -> bool:
        """Whether zeroing may be faster than writing zeros, as far as is known."""

    def zero(self, offset: int, length: int, may_punch: bool, fast: bool) -> bool:
        """Make the range read as zeros. False when ``fast`` is asked for and it could not be."""

    def flush(self) -> None:
        """Make finished changes durable; called from any thread."""

    def close(self) -> None:
        """The last user of this object is gone."""

    @property
    def gate(self) -> Gate | None:
        """What may hold changes back."""


class Directory(Protocol):
    """Which exports there are."""

    def names(self) -> list[str]:
        """Their names, for NBD_OPT_LIST."""

    def find(self, name: str) -> Export | None:
        """One of them; an empty name asks for the default one."""


@runtime_checkable
class DescribedDirectory(Directory, Protocol):
    """A directory that says in words what each export is."""

    def descriptions(self) -> list[tuple[str, str]]:
        """Names as ``names`` gives them, each with its words."""


@runtime_checkable
class GuardedDirectory(Directory, Protocol):
    """A directory that is another one to each client."""

    def seen_by(self, names: frozenset[str]) -> Directory:
        """What a client may see that TLS has shown to have these names."""
