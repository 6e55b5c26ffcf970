"""One NBD connection: takes all requests that are waiting in one receive and answers them in one send.

Python pays per system call, so a batch is the unit: its overwritten chunks are copied out together, its replies leave
together. Whatever would wait for a disk goes to a thread and is answered later; NBD leaves the order of replies free.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.exports import Directory, Export
from shadowset.nbd_provider.handshake import Negotiation, NegotiationError

log = logging.getLogger(__name__)

BUFFER = 1 << 20
MAX_UNSENT = 16 << 20
MAX_HELD = 64 << 20
MAX_PIECES = 512
ZERO_STEP = 4 << 20

Work = Callable[[], bytes | None]


class Request(NamedTuple):
    """One request of the transmission phase."""

    kind: int
    flags: int
    cookie: int
    offset: int
    length: int
    data: memoryview


MODIFYING = (p.CMD_WRITE, p.CMD_TRIM, p.CMD_WRITE_ZEROES)


class Connection:
    """A client. ``submit(work, done)`` runs ``work`` in a thread, then ``done(result or error)`` in the server's."""

    def __init__(
        self, sock: socket.socket, directory: Directory, submit: Callable[[Work, Callable[[object], None]], None]
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.closed = False
        self._submit = submit
        self._negotiation: Negotiation | None = Negotiation(directory)
        self._export: Export | None = None
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._out: deque[bytes | bytearray | memoryview] = deque([Negotiation.greeting()])
        self._unsent = 0
        self._held: deque[Request] = deque()
        self._held_bytes = 0
        self._in_threads = 0
        self._leaving = False

    # ---- what the event loop asks ----

    @property
    def negotiating(self) -> bool:
        """Whether the client has not chosen an export yet."""
        return self._negotiation is not None

    @property
    def wants_read(self) -> bool:
        """Whether more requests may be taken."""
        return not self._leaving and self._unsent < MAX_UNSENT and self._held_bytes < MAX_HELD

    @property
    def wants_write(self) -> bool:
        """Whether replies are waiting for room in the socket."""
        return bool(self._out)

    def on_readable(self) -> None:
        """Take what is there."""
        try:
            count = self.sock.recv_into(self._view[self._end :])
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self.close()
            return
        self._end += count
        try:
            if self._negotiation is not None:
                self._negotiate()
            else:
                self._transmit()
        except NegotiationError as error:
            log.warning("a client is disconnected: %s", error)
            self.flush()
            self.close()

    def close(self) -> None:
        """End the connection; what threads still do for it is dropped."""
        if not self.closed:
            self.closed = True
            self.sock.close()
            self._held.clear()
            if self._export is not None and not self._in_threads:
                self._export.close()

    # ---- negotiation ----

    def _negotiate(self) -> None:
        negotiation = self._negotiation
        assert negotiation is not None
        answer = negotiation.feed(bytes(self._view[self._start : self._end]))
        self._start = self._end = 0
        if answer:
            self._out.append(answer)
        if negotiation.ended:
            self._leaving = True
        elif negotiation.export is not None:
            self._export, self._negotiation = negotiation.export, None
            rest = negotiation.rest
            self._view[: len(rest)] = rest
            self._end = len(rest)
            self._transmit()
        self.flush()

    # ---- transmission ----

    def _transmit(self) -> None:
        batch = self._parse()
        if batch:
            self._process(batch)
        self._make_room()
        self.flush()

    def _parse(self) -> list[Request]:
        """All complete requests of the buffer; their data stays in it until the next receive."""
        batch = []
        start, end, view, size = self._start, self._end, self._view, p.REQUEST.size
        unpack = p.REQUEST.unpack_from
        while end - start >= size:
            magic, flags, kind, cookie, offset, length = unpack(view, start)
            if magic != p.REQUEST_MAGIC:
                raise NegotiationError("it sent something that is no request")
            data_start = start + size
            if kind == p.CMD_WRITE:
                if length > p.MAXIMUM_PAYLOAD:
                    raise NegotiationError(f"it sent a write of {length} bytes, over the limit of {p.MAXIMUM_PAYLOAD}")
                if end - data_start < length:
                    break
                start = data_start + length
                batch.append(Request(kind, flags, cookie, offset, length, view[data_start:start]))
            else:
                start = data_start
                batch.append(Request(kind, flags, cookie, offset, length, view[:0]))
                if kind == p.CMD_DISC:
                    break
        self._start = start
        return batch

    def _make_room(self) -> None:
        """Move an unfinished request to the front, into a larger buffer when it does not fit this one."""
        left = self._end - self._start
        need = BUFFER // 4
        if left >= p.REQUEST.size:
            _, _, kind, _, _, length = p.REQUEST.unpack_from(self._view, self._start)
            need = p.REQUEST.size + (length if kind == p.CMD_WRITE else 0)
        if self._start == 0 and need <= len(self._buffer) and left < len(self._buffer):
            return
        target = bytearray(max(BUFFER, need)) if need > len(self._buffer) else self._buffer
        target[:left] = bytes(self._view[self._start : self._end])
        if target is not self._buffer:
            self._buffer, self._view = target, memoryview(target)
        self._start, self._end = 0, left

    def _process(self, batch: list[Request]) -> None:
        export = self._export
        assert export is not None
        gate = export.gate
        if gate is not None and gate.closed:
            batch = self._hold(batch)
        self._prepare(export, batch)
        for request in batch:
            if request.kind == p.CMD_DISC:
                self._leaving = True
                return
            self._execute(export, request)

    def _hold(self, batch: list[Request]) -> list[Request]:
        """Put changes aside until the gate opens; returns the others."""
        passing = []
        gate = self._export.gate if self._export else None
        assert gate is not None
        for request in batch:
            if request.kind in MODIFYING:
                self._held.append(request._replace(data=memoryview(bytes(request.data))))
                self._held_bytes += request.length if request.kind == p.CMD_WRITE else 0
                gate.waiting += 1
            else:
                passing.append(request)
        return passing

    def release_held(self) -> None:
        """The gate is open: do what was put aside."""
        if self._held and not self.closed:
            batch = list(self._held)
            self._held.clear()
            self._held_bytes = 0
            self._process(batch)
            self.flush()

    def _prepare(self, export: Export, batch: list[Request]) -> None:
        ranges = [
            (request.offset, request.length)
            for request in batch
            if (request.kind == p.CMD_WRITE or (request.kind == p.CMD_WRITE_ZEROES and request.length <= ZERO_STEP))
            and request.length
            and request.offset + request.length <= export.size
        ]
        if ranges and not export.flags & p.FLAG_READ_ONLY:
            export.prepare_write(ranges)

    def _execute(self, export: Export, request: Request) -> None:
        kind, cookie = request.kind, request.cookie
        problem = self._check(export, request)
        if problem:
            self._reply(cookie, problem)
            return
        try:
            if kind == p.CMD_READ:
                self._read(export, request)
                return
            if kind == p.CMD_FLUSH:
                self._flush_then_reply(export, cookie)
                return
            if kind == p.CMD_WRITE:
                export.write(request.offset, request.data)
            elif kind == p.CMD_TRIM:
                export.trim(request.offset, request.length)
            else:
                self._zero(export, request)
        except OSError as error:
            log.error("%s: %s at byte %d failed: %s", export.name, p.CMD_NAMES[kind], request.offset, error)
            self._reply(cookie, p.wire_error(error.errno))
            return
        if request.flags & p.CMD_FLAG_FUA:
            self._flush_then_reply(export, cookie)
        else:
            self._reply(cookie, 0)

    @staticmethod
    def _check(export: Export, request: Request) -> int:
        """The error of a request that cannot be right, 0 for the others."""
        kind = request.kind
        if kind not in p.CMD_NAMES or request.flags & ~(p.CMD_FLAG_FUA | p.CMD_FLAG_NO_HOLE):
            return p.ERRORS[22]
        if kind == p.CMD_FLUSH:
            return 0
        if kind in MODIFYING and export.flags & p.FLAG_READ_ONLY:
            return p.ERRORS[1]
        if request.offset + request.length > export.size:
            return p.ERRORS[28] if kind in (p.CMD_WRITE, p.CMD_WRITE_ZEROES) else p.ERRORS[22]
        if not request.length or (kind == p.CMD_READ and request.length > p.MAXIMUM_PAYLOAD):
            return p.ERRORS[22]
        return 0

    def _read(self, export: Export, request: Request) -> None:
        data = export.read_now(request.offset, request.length)
        if data is not None:
            self._reply(request.cookie, 0, data)
            return
        self._in_thread(request.cookie, lambda: export.read(request.offset, request.length))

    def _zero(self, export: Export, request: Request) -> None:
        """In steps, so that copying out a large range never needs large memory."""
        may_punch = not request.flags & p.CMD_FLAG_NO_HOLE
        offset, end = request.offset, request.offset + request.length
        while offset < end:
            step = min(ZERO_STEP, end - offset)
            if request.length > ZERO_STEP:
                export.prepare_write([(offset, step)])
            export.zero(offset, step, may_punch)
            offset += step

    def _flush_then_reply(self, export: Export, cookie: int) -> None:
        def work() -> None:
            export.flush()

        self._in_thread(cookie, work)

    def _in_thread(self, cookie: int, work: Work) -> None:
        def done(result: object) -> None:
            self._in_threads -= 1
            if self.closed:
                if self._export is not None and not self._in_threads:
                    self._export.close()
                return
            if isinstance(result, bytes):
                self._reply(cookie, 0, result)
            elif result is None:
                self._reply(cookie, 0)
            else:
                log.error("%s: a request failed: %s", self._export.name if self._export else "?", result)
                self._reply(cookie, p.wire_error(getattr(result, "errno", None)))
            self.flush()

        self._in_threads += 1
        self._submit(work, done)

    # ---- replies ----

    def _reply(self, cookie: int, error: int, data: bytes | bytearray = b"") -> None:
        self._out.append(p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, error, cookie))
        if data:
            self._out.append(data)
            self._unsent += len(data)

    def flush(self) -> None:
        """Send replies; what the socket does not take waits until it can."""
        out = self._out
        while out and not self.closed:
            pieces = [out[i] for i in range(min(len(out), MAX_PIECES))]
            try:
                sent = self.sock.sendmsg(pieces)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            self._drop_sent(sent)
        self._unsent = 0
        if self._leaving and not self._in_threads and not self._held:
            self.close()

    def _drop_sent(self, sent: int) -> None:
        out = self._out
        while sent:
            size = len(out[0])
            if sent < size:
                out[0] = memoryview(out[0])[sent:]
                return
            sent -= size
            out.popleft()
