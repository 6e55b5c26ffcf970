"""Replies of NBD's transmission phase: built in the form that was negotiated, queued, sent many at a time.

Errors carry a sentence when the client takes structured replies. A simple reply is allowed in both forms for what has
no payload, and is the shorter one.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Final

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.block_status import Extent
from shadowset.nbd_provider.page_cache import UNSENDABLE, PageCache
from shadowset.nbd_provider.store.copy_files import memory

MAX_PIECES: Final = 512
LARGEST_ZERO_CHECK: Final = 1 << 20

FIRST_SPACE: Final = 256 * 1024
MOST_SPACE: Final = 4 << 20
CACHE_LINE: Final = 64

Data = bytes | bytearray | memoryview
Piece = tuple[int, int, Data | None]
"""Offset, length and the data, or None for a hole."""


class FilePart:
    """Bytes of a file that go out from the page cache. ``checked`` until something had to be waited for."""

    def __init__(self, cache: PageCache, offset: int, length: int) -> None:
        self.cache, self.offset, self.length = cache, offset, length
        self.checked = True

    def read(self) -> bytes:
        """The bytes, waiting for the disk. Errors: OSError."""
        return self.cache.read(self.offset, self.length)


class NotCached(Exception):
    """The front of the queue has left the page cache: read it in a thread, then put it in place with ``fetched``."""

    def __init__(self, part: FilePart) -> None:
        super().__init__("not in the page cache")
        self.part = part


@lru_cache(maxsize=16)
def _zeros(length: int) -> bytes:
    return bytes(length)


def reads_as_zero(data: Data) -> bool:
    """Whether data that is not too large to look at is all zeros."""
    if data[0] or data[-1] or len(data) > LARGEST_ZERO_CHECK:
        return False
    return bytes(data) == _zeros(len(data))


class Space:
    """Memory that reads fill and replies are sent from, used again when all of them are sent.

    Fresh memory for each read would cost more than a large read from the page cache does.
    """

    def __init__(self) -> None:
        self._all = memory(FIRST_SPACE)
        self._used = self._last = 0
        self._wished = 0

    def take(self, length: int) -> memoryview:
        """Memory for a read."""
        self._last = start = self._used
        end = start + length
        self._used = -(-end // CACHE_LINE) * CACHE_LINE
        if end <= len(self._all):
            return self._all[start:end]
        self._wished = min(end, MOST_SPACE)
        return memory(length)

    def give_back(self) -> None:
        """What was taken last is not needed."""
        self._used = self._last

    def reset(self) -> None:
        """Nothing of it is in use any more."""
        self._used = 0
        if self._wished > len(self._all):
            self._all = memory(self._wished)


class Replies:
    """The bytes that go to one client, in order."""

    def __init__(self) -> None:
        self.structured = False
        self.unsent = 0
        self.space = Space()
        self.socket = -1
        self._out: deque[Data | FilePart] = deque()
        self._files = 0

    def __bool__(self) -> bool:
        return bool(self._out)

    @property
    def sends_files(self) -> bool:
        """Whether ``socket``, a descriptor, takes bytes straight from a file."""
        return self.socket >= 0

    def rest(self) -> bytes:
        """All that was not sent, for who sends it instead; may wait for a disk. Errors: OSError."""
        return b"".join(piece.read() if isinstance(piece, FilePart) else bytes(piece) for piece in self._out)

    def inherit(self, data: bytes) -> None:
        """What another process has not sent, in place of all that is here."""
        self._out.clear()
        self.raw(data)
        self.unsent = len(data)

    def raw(self, data: bytes) -> None:
        """Bytes of the negotiation, or of replies that somebody else has built."""
        if data:
            self._put(data)

    def _put(self, data: Data) -> None:
        """Whatever is queued counts: who takes no answers gets no more done, however small these are."""
        self._out.append(data)
        self.unsent += len(data)

    def done(self, cookie: int) -> None:
        """The request succeeded and has no payload."""
        self._put(p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, 0, cookie))

    def data(self, cookie: int, offset: int, data: Data, whole: bool = False) -> None:
        """All data of a read; ``whole`` when the client wants zeros as data, too."""
        length = len(data)
        if self.structured and not whole and reads_as_zero(data):
            self._chunk(p.REPLY_OFFSET_HOLE, cookie, p.HOLE.pack(offset, length), True)
            return
        self._put(self.header(cookie, offset, length))
        self._put(data)

    def file(self, cookie: int, offset: int, length: int, cache: PageCache) -> None:
        """All data of a read, which a file has in the page cache at the same offset."""
        self._put(self.header(cookie, offset, length))
        self._out.append(FilePart(cache, offset, length))
        self._files += 1
        self.unsent += length

    def header(self, cookie: int, offset: int, length: int) -> bytes:
        """What precedes the data of a read."""
        if not self.structured:
            return p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, 0, cookie)
        magic, done, kind = p.STRUCTURED_REPLY_MAGIC, p.REPLY_FLAG_DONE, p.REPLY_OFFSET_DATA
        return p.DATA_CHUNK.pack(magic, done, kind, cookie, length + 8, offset)

    def in_part(self, unsent: Sequence[Data]) -> None:
        """Replies that somebody else has built, or what is left of them after a sending while there were no others."""
        self._out += unsent
        self.unsent += sum(map(len, unsent))

    def pieces(self, cookie: int, pieces: Sequence[Piece]) -> None:
        """Data and holes of a read, which together are what was asked for; needs structured replies."""
        last = len(pieces) - 1
        for number, (offset, length, data) in enumerate(pieces):
            if data is None:
                self._chunk(p.REPLY_OFFSET_HOLE, cookie, p.HOLE.pack(offset, length), number == last)
            else:
                self._chunk(p.REPLY_OFFSET_DATA, cookie, offset.to_bytes(8, "big"), number == last, length)
                self._put(data)

    def status(self, cookie: int, answers: Sequence[tuple[int, Sequence[Extent]]]) -> None:
        """Extents by context id."""
        last = len(answers) - 1
        for number, (context, extents) in enumerate(answers):
            body = bytearray(context.to_bytes(4, "big"))
            for length, flags in extents:
                body += p.DESCRIPTOR.pack(length, flags)
            self._chunk(p.REPLY_BLOCK_STATUS, cookie, body, number == last)

    def error(self, cookie: int, number: int, sentence: str) -> None:
        """The request failed; ``number`` is the protocol's."""
        if self.structured:
            text = sentence.encode(errors="replace")[: p.MAXIMUM_NAME].decode(errors="ignore").encode()
            self._chunk(p.REPLY_ERROR, cookie, p.CHUNK_ERROR.pack(number, len(text)) + text, True)
        else:
            self._put(p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, number, cookie))

    def _chunk(self, kind: int, cookie: int, body: Data, done: bool, following: int = 0) -> None:
        flags = p.REPLY_FLAG_DONE if done else 0
        length = len(body) + following
        self._put(p.CHUNK.pack(p.STRUCTURED_REPLY_MAGIC, flags, kind, cookie, length) + body)

    def send(self, sendmsg: Callable[[Sequence[Data]], int]) -> None:
        """Send as much as is taken. Errors: BlockingIOError when the rest must wait, NotCached, OSError."""
        try:
            while self._out:
                first = self._out[0]
                if isinstance(first, FilePart):
                    self._send_file(first)
                else:
                    pieces = self._memory()
                    self._drop(sendmsg(pieces), pieces)
        except BlockingIOError:
            if self._files:
                self._doubt()
            raise
        self.unsent = 0
        self.space.reset()

    def _memory(self) -> list[Data]:
        """What comes first of the queue and lies in memory."""
        out = self._out
        if not self._files:
            return list(islice(out, MAX_PIECES))  # type: ignore[arg-type] # there are no others
        pieces: list[Data] = []
        for piece in islice(out, MAX_PIECES):
            if isinstance(piece, FilePart):
                break
            pieces.append(piece)
        return pieces

    def _doubt(self) -> None:
        """Time passes now, so pages may leave the cache."""
        for piece in self._out:
            if isinstance(piece, FilePart):
                piece.checked = False

    def _send_file(self, part: FilePart) -> None:
        """Errors: BlockingIOError, NotCached, OSError with EIO when the file ends early."""
        if not part.checked and not part.cache.holds(part.offset, part.length):
            raise NotCached(part)
        part.checked = True
        try:
            sent = os.sendfile(self.socket, part.cache.fd, part.offset, part.length)
        except OSError as error:
            if error.errno in UNSENDABLE:
                raise NotCached(part) from None
            raise
        if not sent:
            raise OSError(errno.EIO, f"the origin ends at byte {part.offset}")
        part.offset += sent
        part.length -= sent
        if not part.length:
            self._out.popleft()
            self._files -= 1

    def fetched(self, content: bytes) -> None:
        """What NotCached told of, read meanwhile."""
        self._out[0] = content
        self._files -= 1

    def _drop(self, sent: int, pieces: Sequence[Data]) -> None:
        out = self._out
        if len(pieces) == len(out) and sent == sum(map(len, pieces)):
            out.clear()
            return
        for piece in pieces:
            if sent < len(piece):
                if sent:
                    out[0] = memoryview(piece)[sent:]
                return
            sent -= len(piece)
            out.popleft()
