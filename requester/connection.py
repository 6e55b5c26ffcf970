"""One connection to the coordinator: calls out, answers in, over the requester socket.

Synchronous on purpose. A requester waits for one thing at a time; what runs meanwhile runs in the coordinator. Answers
that belong to another call than the one waited for are kept until somebody asks for them, so several calls may be
under way. The connection is the session's lease: closing it, or dying, aborts the session.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.requester_protocol import (
    RESULTS,
    Call,
    CallFailure,
    FromCoordinator,
    Notice,
    Result,
    ServiceHello,
    ServiceInfo,
)
from shadowset.vss.wire import PROTOCOL_VERSION, FrameDecoder, FrameError, encode

RECEIVE_BYTES = 256 * 1024

NoticeHandler = Callable[[Notice], None]
Answer = Result | CallFailure


class ServiceUnavailable(VssError):
    """No coordinator answers on the requester socket."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.VSS_E_WRITER_INFRASTRUCTURE, message)


class ConnectionLost(VssError):
    """The coordinator went away in the middle of a session; the session is aborted by that."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.VSS_E_UNEXPECTED, message)


def call_name(call: type[Call]) -> str:
    """The name of a call on the wire, as messages quote it."""
    return str(call.__struct_config__.tag)


class Connection:
    """A greeted connection to the coordinator on the Unix socket ``path``.

    ``timeout`` (seconds) bounds connecting and the greeting; calls wait as long as they take.
    Errors: ServiceUnavailable when nothing answers there.
    """

    def __init__(
        self,
        path: str,
        client: str = "",
        timeout: float = 10.0,
        on_notice: NoticeHandler | None = None,
    ) -> None:
        self.path = path
        self.on_notice = on_notice
        self._sequence = 0
        self._calls: dict[int, type[Call]] = {}
        self._answers: dict[int, Answer] = {}
        self._decoder: FrameDecoder[Answer | Notice] = FrameDecoder(FromCoordinator)
        self._lost = ""
        self._socket = _connect(path, timeout)
        self.service = self._greet(client, timeout)

    def _greet(self, client: str, timeout: float) -> ServiceInfo:
        try:
            sequence = self.start(ServiceHello, client=client, protocol=PROTOCOL_VERSION)
            info = self.take(sequence) if self.poll(sequence, timeout) else None
        except BaseException:
            self.close()
            raise
        if isinstance(info, ServiceInfo):
            return info
        self.close()
        raise ServiceUnavailable(
            f"the coordinator on {self.path} accepts connections but did not answer within {timeout:g} s; "
            "look at its log and restart it"
        )

    @property
    def closed(self) -> bool:
        """Whether no call can be made any more."""
        return bool(self._lost)

    def start(self, call: type[Call], **fields: Any) -> int:
        """Send one call and return its number, without waiting for the answer."""
        self._require_open()
        self._sequence += 1
        frame = encode(call(seq=self._sequence, **fields))
        self._calls[self._sequence] = call
        try:
            self._socket.settimeout(None)
            self._socket.sendall(frame)
        except OSError as error:
            self._lose(f"the coordinator closed the connection before the call {call_name(call)}: {error.strerror}")
        return self._sequence

    def poll(self, sequence: int, timeout: float | None) -> bool:
        """Whether a call's answer is there, waiting up to ``timeout`` seconds (None: as long as it takes)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while sequence not in self._answers:
            self._require_open()
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._receive(remaining, sequence):
                return False
        return True

    def take(self, sequence: int) -> Any:
        """The result of an answered call, as the type that RESULTS names for it.

        Errors: the VssError that the coordinator answered with; FrameError for a result of another shape.
        """
        answer = self._answers.pop(sequence)
        call = self._calls.pop(sequence)
        if isinstance(answer, CallFailure):
            raise VssError(answer.code, answer.message, answer.application_code)
        expected = RESULTS.get(call)
        if expected is None:
            return None
        try:
            return msgspec.convert(answer.value, expected)
        except msgspec.ValidationError as error:
            raise FrameError(
                f"the coordinator answered {call_name(call)} with something else than this version expects ({error}); "
                "update both to the same version"
            ) from error

    def call(self, call: type[Call], *, timeout: float | None = None, **fields: Any) -> Any:
        """Make one call and wait for its result.

        Errors: VssError from the coordinator; ConnectionLost; with ``timeout`` (seconds) VssError when it runs out.
        """
        sequence = self.start(call, **fields)
        if not self.poll(sequence, timeout):
            raise VssError(
                Code.VSS_E_UNEXPECTED,
                f"the coordinator did not answer {call_name(call)} within {timeout:g} s; look at its log",
            )
        return self.take(sequence)

    def close(self) -> None:
        """End the connection and with it the session. May be called again."""
        self._lost = self._lost or "this connection to the coordinator is closed; open a new one"
        self._socket.close()

    def _receive(self, timeout: float | None, sequence: int) -> bool:
        """Take what has arrived; False when nothing did within ``timeout``."""
        # A time-out of 0 would mean "non-blocking" and raise another exception, for the same thing.
        self._socket.settimeout(None if timeout is None else max(timeout, 0.000_001))
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except TimeoutError:
            return False
        except OSError as error:
            self._lose(f"{self._during(sequence)}: {error.strerror}")
        if not data:
            self._lose(self._during(sequence))
        try:
            for message in self._decoder.feed(data):
                self._sort(message)
        except FrameError as error:
            self._lose(f"the coordinator broke the protocol: {error.message}")
        return True

    def _sort(self, message: Answer | Notice) -> None:
        if isinstance(message, Notice):
            if self.on_notice is not None:
                self.on_notice(message)
        elif message.seq in self._calls:
            self._answers[message.seq] = message

    def _during(self, sequence: int) -> str:
        name = call_name(self._calls[sequence]) if sequence in self._calls else "a call"
        return f"the coordinator closed the connection during {name}"

    def _lose(self, reason: str) -> None:
        if not self._lost:
            self._lost = f"{reason}; the session is aborted, look at the coordinator's log and start again"
        self._socket.close()
        raise ConnectionLost(self._lost)

    def _require_open(self) -> None:
        if self._lost:
            raise ConnectionLost(self._lost)


def _connect(path: str, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
    except (OSError, ValueError) as error:
        connection.close()
        raise ServiceUnavailable(_why_unreachable(path, error)) from error
    return connection


def _why_unreachable(path: str, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"this user may not talk to the coordinator on {path}; run as root or join the socket's group"
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return f"no coordinator runs on {path}; start it with 'shadowset serve' or 'systemctl start shadowsetd'"
    reason = getattr(error, "strerror", None) or str(error)
    return f"the coordinator on {path} cannot be reached: {reason}; see whether it runs"
