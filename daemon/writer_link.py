"""One connected writer: events out, replies back, each with a deadline.

A reply, a time-out and the loss of the connection race for the same event. All three go through ``_settle``, which
takes the event off the table and cancels its timer in one step, so only the first counts; whatever comes later finds
nothing and is logged. A timer can therefore never hit a writer that has already answered; nor one whose answer the
coordinator was too busy to read in time, because what has arrived is read first.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import msgspec

from shadowset.daemon.clock import now
from shadowset.daemon.server import Connection, Peer
from shadowset.vss.codes import Code, VssError, describe
from shadowset.vss.components import Failure
from shadowset.vss.enums import WriterEvent
from shadowset.vss.writer_protocol import Event, Hello, Reply

log = logging.getLogger(__name__)

WRITER_CODES = (
    Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT,
    Code.VSS_E_WRITERERROR_OUTOFRESOURCES,
    Code.VSS_E_WRITERERROR_TIMEOUT,
    Code.VSS_E_WRITERERROR_RETRYABLE,
    Code.VSS_E_WRITERERROR_NONRETRYABLE,
    Code.VSS_E_WRITERERROR_RECOVERY_FAILED,
    Code.VSS_E_WRITERERROR_PARTIAL_FAILURE,
)


@dataclass(frozen=True)
class Answer:
    """What came of one event; ``failure.code`` 0 means success. ``veto``: the writer takes no further part."""

    event: WriterEvent
    failure: Failure
    veto: bool
    started: float
    ended: float
    reply: Reply | None = None

    @property
    def ok(self) -> bool:
        """The writer has done it."""
        return self.failure.code == 0 and not self.veto

    @property
    def elapsed_ms(self) -> float:
        """From sending the event to its end."""
        return (self.ended - self.started) * 1000


@dataclass
class _Waiting:
    event: WriterEvent
    started: float
    deadline_ms: float
    future: asyncio.Future[Answer]
    timer: asyncio.TimerHandle


class WriterLink:
    """The coordinator's side of one writer connection. ``silent``: nobody is at the other end (see express.py)."""

    silent = False

    def __init__(self, hello: Hello, connection: Connection[Any]) -> None:
        self.hello = hello
        self.connection = connection
        self.lost: asyncio.Event = asyncio.Event()
        self.active = 0
        self._next = 1
        self._waiting: dict[int, _Waiting] = {}

    @property
    def peer(self) -> Peer:
        """The writer's process."""
        return self.connection.peer

    @property
    def connected(self) -> bool:
        """False once the connection has gone."""
        return not self.lost.is_set()

    def label(self) -> str:
        """How sentences name this writer."""
        name = f"{self.hello.name} ({self.hello.instance_name})" if self.hello.instance_name else self.hello.name
        return f"writer {name} [pid {self.peer.pid}]"

    async def ask(self, event: Event, deadline_ms: float) -> Answer:
        """Send an event and wait for its end; never raises for anything the writer does."""
        loop = asyncio.get_running_loop()
        seq, self._next = self._next, self._next + 1
        event = msgspec.structs.replace(event, seq=seq, deadline_ms=max(0, int(deadline_ms)))
        started = now()
        future: asyncio.Future[Answer] = loop.create_future()
        timer = loop.call_later(max(0.0, deadline_ms) / 1000, self._due, seq)
        self._waiting[seq] = _Waiting(event.event, started, deadline_ms, future, timer)
        if self.connected:
            self.connection.send(event)
        else:
            self._gone(seq)
        try:
            return await future
        finally:
            self._settle(seq, None)

    def reply(self, reply: Reply) -> None:
        """A reply has come in."""
        waiting = self._waiting.get(reply.seq)
        if waiting is None:
            log.warning(
                "%s answered event %d, which nobody waits for (late or answered twice)", self.label(), reply.seq
            )
            return
        failure = self._judge(reply, waiting.event)
        self._settle(reply.seq, (failure, reply.veto, reply))

    def close(self) -> None:
        """The connection has gone: every event under way ends now."""
        self.lost.set()
        for seq in list(self._waiting):
            self._gone(seq)

    def _judge(self, reply: Reply, event: WriterEvent) -> Failure:
        if not reply.code and not reply.veto:
            return Failure()
        code = reply.code or Code.VSS_E_WRITERERROR_NONRETRYABLE
        message = reply.message or f"{self.label()} refused {event.value} without saying why"
        if code not in WRITER_CODES:
            message = f"{message} (its code was {describe(code)})"
            code = Code.VSS_E_UNEXPECTED_WRITER_ERROR
        return Failure(int(code), reply.application_code, message)

    def _due(self, seq: int) -> None:
        """The time is over. What the socket held by now reaches ``reply`` in this turn of the loop or the next one."""
        asyncio.get_running_loop().call_soon(self._expired, seq)

    def _expired(self, seq: int) -> None:
        waiting = self._waiting.get(seq)
        if waiting is not None:
            sentence = f"{self.label()} did not answer {waiting.event.value} within {waiting.deadline_ms:.0f} ms"
            self._settle(seq, (Failure(Code.VSS_E_WRITERERROR_TIMEOUT, 0, sentence), True, None))

    def _gone(self, seq: int) -> None:
        waiting = self._waiting.get(seq)
        if waiting is not None:
            elapsed = (now() - waiting.started) * 1000
            sentence = f"{self.label()} closed its connection {elapsed:.0f} ms into {waiting.event.value}"
            self._settle(seq, (Failure(Code.VSS_E_WRITER_NOT_RESPONDING, 0, sentence), True, None))

    def _settle(self, seq: int, outcome: tuple[Failure, bool, Reply | None] | None) -> None:
        waiting = self._waiting.pop(seq, None)
        if waiting is None:
            return
        waiting.timer.cancel()
        if outcome is not None and not waiting.future.done():
            failure, veto, reply = outcome
            waiting.future.set_result(Answer(waiting.event, failure, veto, waiting.started, now(), reply))


def writer_error(answer: Answer) -> VssError:
    """A failed answer as an error."""
    return VssError(answer.failure.code, answer.failure.message, answer.failure.application_code)
