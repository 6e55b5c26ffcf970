"""Requests under way to the NBD server: sent in batches, answered in any order, kept until answered.

Whatever has no answer yet is sent again on the next connection. That is exact because every NBD request means the same
when it is done twice, and because a block device never has two overlapping writes under way.
"""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from shadowset.nbd_provider import protocol
from shadowset.nbd_provider.attach import client

_PIECE = 64 * 1024 * 1024
_VECTORS = 64
_DATALESS = (protocol.CMD_TRIM, protocol.CMD_WRITE_ZEROES)


@dataclass(slots=True)
class Request:
    """One request of the kernel. ``offset`` and ``length`` are of the piece under way, ``rest`` is still to come.

    ``unique`` is FUSE's name for it; ``buffer`` holds ``data`` and goes back to the pool with the answer.
    """

    unique: int
    command: int
    offset: int = 0
    length: int = 0
    flags: int = 0
    data: memoryview | None = None
    buffer: memoryview | None = None
    rest: int = 0
    since: float = 0.0


Done = Callable[[Request, int, memoryview | None], None]


class Pipeline:
    """The connection, or the lack of one, and all requests without an answer.

    ``done(request, errno, data)`` is called with each answer; ``data`` is valid during the call only.
    """

    def __init__(self, done: Done) -> None:
        self.pending: dict[int, Request] = {}
        self.sock: socket.socket | None = None
        self.progress = 0.0
        self._done = done
        self._cookie = 0
        self._out: deque[memoryview] = deque()
        self._in = memoryview(bytearray(2 * (1 << 20) + 4096))
        self._filled = 0

    @property
    def wants_to_send(self) -> bool:
        """Whether something waits for room in the socket."""
        return bool(self._out) and self.sock is not None

    def submit(self, request: Request) -> None:
        """Takes a request; it leaves with the next ``send``. Long ranges without data go in pieces, one at a time."""
        request.since = time.monotonic()
        if request.command in _DATALESS and request.length > _PIECE:
            request.rest = request.length - _PIECE
            request.length = _PIECE
        self._start(request)

    def attach(self, sock: socket.socket) -> None:
        """Goes on over a freshly negotiated connection, with everything that has no answer yet."""
        sock.setblocking(False)
        self.sock = sock
        self.progress = time.monotonic()
        self._filled = 0
        self._out.clear()
        for cookie, request in self.pending.items():
            self._queue(cookie, request)

    def lose(self) -> None:
        """Drops the connection; the requests stay."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None
        self._out.clear()

    def fail_all(self, error: int) -> None:
        """Answers everything that is under way with ``error``."""
        requests = list(self.pending.values())
        self.pending.clear()
        self._out.clear()
        for request in requests:
            self._done(request, error, None)

    def oldest(self) -> float:
        """When the longest waiting request came (monotonic clock), or infinity."""
        return min((request.since for request in self.pending.values()), default=float("inf"))

    def send(self) -> None:
        """Sends as much as the socket takes. Errors: OSError when the connection is gone."""
        while self._out and self.sock is not None:
            vectors = [self._out[index] for index in range(min(_VECTORS, len(self._out)))]
            try:
                sent = self.sock.sendmsg(vectors)
            except BlockingIOError:
                return
            self._sent(sent)

    def receive(self) -> None:
        """Takes what has arrived and reports each whole answer.

        Errors: OSError when the connection is gone or the server is about to leave, NbdError when it talks nonsense.
        """
        assert self.sock is not None
        try:
            count = self.sock.recv_into(self._in[self._filled :])
        except BlockingIOError:
            return
        if count == 0:
            raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
        self._filled += count
        used = self._replies()
        if used:
            self._in[: self._filled - used] = bytes(self._in[used : self._filled])
            self._filled -= used
            self.progress = time.monotonic()

    def _replies(self) -> int:
        """Reports all whole answers in the buffer; returns the number of bytes they took."""
        at = 0
        while self._filled - at >= client.REPLY_BYTES:
            error, cookie = client.unpack_reply(self._in, at)
            request = self.pending.get(cookie)
            if request is None:
                raise client.NbdError(f"the NBD server answered a request that was not asked (cookie {cookie})")
            if error == protocol.ESHUTDOWN:
                raise ConnectionAbortedError(errno.ECONNABORTED, "the server is shutting down")
            end = at + client.REPLY_BYTES
            if request.command == protocol.CMD_READ and not error:
                end += request.length
                if end > self._filled:
                    break
            del self.pending[cookie]
            self._answered(request, error, self._in[at + client.REPLY_BYTES : end])
            at = end
        return at

    def _answered(self, request: Request, error: int, data: memoryview) -> None:
        if error:
            self._done(request, protocol.system_error(error), None)
        elif request.rest:
            request.offset += request.length
            request.length = min(request.rest, _PIECE)
            request.rest -= request.length
            self._start(request)
        else:
            self._done(request, 0, data)

    def _start(self, request: Request) -> None:
        self._cookie += 1
        self.pending[self._cookie] = request
        if self.sock is not None:
            self._queue(self._cookie, request)

    def _queue(self, cookie: int, request: Request) -> None:
        head = client.pack_request(request.command, request.flags, cookie, request.offset, request.length)
        self._out.append(memoryview(head))
        if request.data is not None:
            self._out.append(request.data)

    def _sent(self, count: int) -> None:
        while count:
            head = self._out[0]
            if len(head) > count:
                self._out[0] = head[count:]
                return
            count -= len(head)
            self._out.popleft()
