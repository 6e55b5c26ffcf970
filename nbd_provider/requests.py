"""Requests of NBD's transmission phase, cut out of the bytes that a client sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.store.shares import share

BUFFER: Final = share(1 << 20, least=256 << 10)
KEPT_BUFFER: Final = 4 * BUFFER
MAX_REQUESTS: Final = 256
MAX_ANSWER: Final = 512 * 1024
"""A batch ends after so many requests, or when they ask for so many bytes: the client gets them while more are read."""
LEAST_ROOM: Final = 64 * 1024
"""There is always room for this much, so that a whole TLS record fits whatever came before it."""


class ProtocolError(Exception):
    """The client does not speak the protocol; the connection is to be closed."""


class Request(NamedTuple):
    """One request; ``data`` lies in the buffer until the next receive."""

    kind: int
    flags: int
    cookie: int
    offset: int
    length: int
    data: memoryview


def adjoining_reads(batch: Sequence[Request], most: int) -> Iterator[list[Request]]:
    """The batch in its order, reads of ``most`` bytes at most that go on where the one before ends in one list.

    A read of nothing, which is to be refused, stays alone.
    """
    run: list[Request] = []
    end = room = -1
    for request in batch:
        kind, flags, _, offset, length, _ = request
        if offset == end and kind == p.CMD_READ and 0 < length <= room and flags == run[0].flags:
            run.append(request)
        else:
            if run:
                yield run
            run, room = [request], most
        end = offset + length if kind == p.CMD_READ and length else -1
        room -= length
    if run:
        yield run


class RequestBuffer:
    """Where received bytes wait until their request is complete."""

    def __init__(self) -> None:
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self.more = False

    def room(self) -> memoryview:
        """Where to receive; at least LEAST_ROOM bytes."""
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """So many bytes have come."""
        self._end += count

    def take(self) -> bytes:
        """All that is there, for the negotiation."""
        data = bytes(self._view[self._start : self._end])
        self._start = self._end = 0
        return data

    def left(self) -> bytes:
        """What has come and was not taken."""
        return bytes(self._view[self._start : self._end])

    def pass_on(self, do: Callable[[memoryview, int, int], tuple[int, bytes]]) -> bytes:
        """Let somebody else take requests from the front of what has come; returns the replies."""
        self._start, replies = do(self._view, self._start, self._end)
        return replies

    @property
    def front(self) -> int:
        """The command of the request at the front, -1 when it is not there."""
        start = self._start
        return -1 if self._end - start < p.REQUEST.size else self._view[start + 6] << 8 | self._view[start + 7]

    @property
    def waiting(self) -> memoryview:
        """What has come and was not taken."""
        return self._view[self._start : self._end]

    def skip(self, count: int) -> None:
        """So many bytes at the front were taken."""
        self._start += count

    def put(self, data: bytes) -> None:
        """Bytes that came with the end of the negotiation, or to another process."""
        if len(data) + LEAST_ROOM > len(self._buffer):
            self._buffer = bytearray(len(data) + BUFFER)
            self._view = memoryview(self._buffer)
        self._view[: len(data)] = data
        self._end = len(data)

    def requests(self, answer: int = MAX_ANSWER) -> list[Request]:
        """Complete requests, as long as they ask for less than ``answer``; ``more``: there may be others.

        Errors: ProtocolError.
        """
        batch: list[Request] = []
        start, end, view, size = self._start, self._end, self._view, p.REQUEST.size
        unpack, nothing, write = p.REQUEST.unpack_from, self._view[:0], p.CMD_WRITE
        room = MAX_REQUESTS
        new = tuple.__new__  # half the price of Request(...)
        while end - start >= size and room and answer > 0:
            magic, flags, kind, cookie, offset, length = unpack(view, start)
            if magic != p.REQUEST_MAGIC:
                raise ProtocolError("it sent something that is no request")
            if kind == write:
                if length > p.MAXIMUM_PAYLOAD:
                    raise ProtocolError(f"it sent a write of {length} bytes, over the limit of {p.MAXIMUM_PAYLOAD}")
                stop = start + size + length
                if stop > end:
                    break
                batch.append(new(Request, (kind, flags, cookie, offset, length, view[start + size : stop])))
                start = stop
            else:
                start += size
                batch.append(new(Request, (kind, flags, cookie, offset, length, nothing)))
                if kind == p.CMD_READ:
                    answer -= length
                elif kind == p.CMD_DISC:
                    break
            room -= 1
        self._start = start
        self.more = not room or answer <= 0
        return batch

    def make_room(self) -> None:
        """Move an unfinished request to the front, into a larger buffer when it does not fit this one."""
        start, left = self._start, self._end - self._start
        if not left and len(self._buffer) <= KEPT_BUFFER:
            self._start = self._end = 0
            return
        need = max(self._unfinished(), left) + LEAST_ROOM
        if start + need <= len(self._buffer) <= KEPT_BUFFER:
            return
        target = self._buffer
        if need > len(target) or len(target) > KEPT_BUFFER >= need:
            target = bytearray(max(BUFFER, need))
        target[:left] = bytes(self._view[start : self._end])
        if target is not self._buffer:
            self._buffer, self._view = target, memoryview(target)
        self._start, self._end = 0, left

    def _unfinished(self) -> int:
        """Size of the request at the front."""
        if self._end - self._start < p.REQUEST.size:
            return p.REQUEST.size
        _, _, kind, _, _, length = p.REQUEST.unpack_from(self._view, self._start)
        return p.REQUEST.size + (length if kind == p.CMD_WRITE else 0)
