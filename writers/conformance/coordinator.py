"""A coordinator that does only what it is told: it listens, welcomes writers, and sends nothing by itself."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from typing import Any

from shadowset.vss.enums import WriterEvent
from shadowset.vss.wire import FrameDecoder, FrameError, encode
from shadowset.vss.writer_protocol import Event, FromWriter, Hello, Log, Progress, Refused, Reply, Welcome

REPLY_SECONDS = 30.0
CONNECT_SECONDS = 20.0
POLL_SECONDS = 0.1


class Fault(AssertionError):
    """The writer did what it must not, or did not what it must; one sentence."""


class WriterSide:
    """One connected writer, as the coordinator sees it."""

    def __init__(self, connected: socket.socket, hello: Hello) -> None:
        self.hello = hello
        self.replies: queue.Queue[Reply] = queue.Queue()
        self.notes: list[Log | Progress] = []
        self.closed = threading.Event()
        self.fault = ""
        self._socket = connected
        self._seq = 0

    def event(self, event: WriterEvent, session: str = "session", **fields: Any) -> Event:
        """The next event, not yet sent."""
        self._seq += 1
        fields.setdefault("deadline_ms", 30_000)
        fields.setdefault("set", "set")
        return Event(self._seq, event, session, **fields)

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self._socket.sendall(data)

    def post(self, event: WriterEvent, session: str = "session", **fields: Any) -> int:
        """Sends an event; its number."""
        message = self.event(event, session, **fields)
        self.send(encode(message))
        return message.seq

    def reply(self, seq: int, seconds: float = REPLY_SECONDS) -> Reply:
        """The answer to this event, which must be the next answer. Errors: Fault."""
        answer = self._next_reply(seconds)
        if answer is None:
            closed = self.closed.is_set()
            how = (
                "the connection was closed instead of an answer" if closed else f"no answer came in {seconds:g} seconds"
            )
            raise Fault(f"{how} ({self.fault})" if self.fault else how)
        if answer.seq != seq:
            raise Fault(f"an answer has the number {answer.seq} instead of {seq}")
        return answer

    def _next_reply(self, seconds: float) -> Reply | None:
        end = time.monotonic() + seconds
        while True:
            over = self.closed.is_set() or time.monotonic() >= end
            try:
                return self.replies.get(not over, POLL_SECONDS)
            except queue.Empty:
                if over:
                    return None

    def ask(self, event: WriterEvent, **fields: Any) -> Reply:
        """Sends an event and waits for its answer. Errors: Fault."""
        return self.reply(self.post(event, **fields))

    def ok(self, event: WriterEvent, **fields: Any) -> Reply:
        """``ask`` for what must go well. Errors: Fault."""
        answer = self.ask(event, **fields)
        if answer.code or answer.veto:
            raise Fault(f"{event.value} was answered with {answer.code:#x} ({answer.message})")
        return answer

    def drop(self) -> None:
        """Ends the connection."""
        self._socket.shutdown(socket.SHUT_RDWR)


class FakeCoordinator:
    """Listens on ``writer.sock`` in ``runtime``. With ``refuse`` set, whoever says hello is refused."""

    def __init__(self, runtime: str) -> None:
        self.runtime = runtime
        self.path = f"{runtime}/writer.sock"
        self.refuse: Refused | None = None
        self.hellos = 0
        self._arrived: queue.Queue[WriterSide] = queue.Queue()
        self._sides: list[WriterSide] = []
        self.start()

    def start(self) -> None:
        """Listens, again after ``stop``."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Dies: every connection is gone, nobody listens."""
        if os.path.exists(self.path):
            os.unlink(self.path)
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for side in self._sides:
            try:
                side.drop()
            except OSError:
                continue
        self._sides = []

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connected, _address = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connected,), daemon=True).start()

    def _serve(self, connected: socket.socket) -> None:
        decoder: FrameDecoder[Any] = FrameDecoder(FromWriter)
        side: WriterSide | None = None
        try:
            while data := connected.recv(65536):
                for message in decoder.feed(data):
                    if side is None and isinstance(message, Hello):
                        side = self._greet(connected, message)
                        if side is None:
                            return
                    elif side is not None:
                        self._take(side, message)
        except FrameError as error:
            if side is not None:
                side.fault = error.message
        except OSError:
            return
        finally:
            if side is not None:
                side.closed.set()
            connected.close()

    def _greet(self, connected: socket.socket, hello: Hello) -> WriterSide | None:
        self.hellos += 1
        if self.refuse is not None:
            connected.sendall(encode(self.refuse))
            return None
        side = WriterSide(connected, hello)
        self._sides.append(side)
        connected.sendall(encode(Welcome(1, hello.instance_id or "instance-1", "test")))
        self._arrived.put(side)
        return side

    def _take(self, side: WriterSide, message: Any) -> None:
        if isinstance(message, Reply):
            side.replies.put(message)
        else:
            side.notes.append(message)

    def writer(self, seconds: float = CONNECT_SECONDS) -> WriterSide:
        """The next writer that connects. Errors: Fault."""
        try:
            return self._arrived.get(timeout=seconds)
        except queue.Empty:
            raise Fault(f"no hello came in {seconds:g} seconds") from None
