"""One connection of a writer to the coordinator, over a plain blocking socket: writers wait for one thing at a time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque

from shadowset.vss.codes import Code, VssError
from shadowset.vss.wire import FrameDecoder, Message, encode
from shadowset.vss.writer_protocol import Hello, Refused, ToWriter, Welcome

RECEIVE_BYTES = 256 * 1024
HELLO_SECONDS = 10.0


class RefusedError(VssError):
    """The coordinator does not want this writer; its own code and sentence."""


class Connection:
    """Messages in both directions. ``send`` may be called from any thread, ``receive`` from one."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._decoder: FrameDecoder[ToWriter] = FrameDecoder(ToWriter)
        self._ready: deque[ToWriter] = deque()
        self._sending = threading.Lock()

    @classmethod
    def open(cls, path: str, hello: Hello) -> tuple[Connection, Welcome]:
        """Connects and introduces the writer.

        Errors: OSError when nobody listens or the answer does not come; RefusedError when the coordinator says no.
        """
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection = cls(connected)
        try:
            connected.settimeout(HELLO_SECONDS)
            connected.connect(path)
            connection.send(hello)
            welcome = connection._first_answer()
            connected.settimeout(None)
        except BaseException:
            connection.close()
            raise
        return connection, welcome

    def _first_answer(self) -> Welcome:
        answer = self.receive()
        if isinstance(answer, Refused):
            raise RefusedError(answer.code, answer.message)
        if isinstance(answer, Welcome):
            return answer
        if answer is None:
            raise ConnectionResetError("the coordinator closed the connection before it answered hello")
        raise VssError(Code.VSS_E_WRITER_INFRASTRUCTURE, "the coordinator answered hello with an event; it is broken")

    def send(self, message: Message) -> None:
        """Errors: OSError when the connection is gone."""
        self.send_bytes(encode(message))

    def send_bytes(self, frame: bytes) -> None:
        """A frame as it is, good or bad. Errors: OSError when the connection is gone."""
        with self._sending:
            self._socket.sendall(frame)

    def receive(self) -> ToWriter | None:
        """The next message, or None when the coordinator has closed the connection.

        Errors: FrameError; OSError.
        """
        while not self._ready:
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                return None
            self._ready.extend(self._decoder.feed(data))
        return self._ready.popleft()

    def close(self) -> None:
        """Ends the connection and wakes whoever waits in ``receive``."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
