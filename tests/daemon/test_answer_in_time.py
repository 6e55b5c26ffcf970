"""A writer's answer and the end of its time at the same moment (KB 915331): an answer in time is never a time-out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from shadowset.daemon.limits import Limits
from shadowset.daemon.registry import Registry
from shadowset.daemon.server import Connection, Peer
from shadowset.daemon.writer_link import Answer, WriterLink
from shadowset.vss.codes import Code
from shadowset.vss.enums import WriterEvent
from shadowset.vss.wire import encode
from shadowset.vss.writer_protocol import Event, FromWriter, Hello, Reply

ROUNDS = 10_000
WINDOW_MS = 1_000
GUID = "0b6a3a5e-6a52-4d5c-9f3c-5f3b1f6d7a11"
PEER = Peer(1, 0, frozenset(), "")


class FakeClockLoop(asyncio.SelectorEventLoop):
    """Never sleeps: where nothing is ready, the clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self._real_select = self._selector.select  # type: ignore[attr-defined]
        self._selector.select = self._jump  # type: ignore[attr-defined]

    def _jump(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return self._real_select(0)

    def time(self) -> float:
        return self.now


@pytest.fixture
def loop() -> Iterator[FakeClockLoop]:
    made = FakeClockLoop()
    yield made
    made.close()


class Deaf:
    """A connection that takes events and brings nothing."""

    peer = PEER

    def send(self, message: Any) -> None:
        pass


def event() -> Event:
    return Event(0, WriterEvent.THAW, "session", 0)


@pytest.mark.vss(17)
def test_an_answer_near_the_limit_is_in_time_or_late_but_never_both(loop: FakeClockLoop) -> None:
    link = WriterLink(Hello(GUID, "Near"), Deaf())  # type: ignore[arg-type]

    async def one(number: int, early_ms: float) -> Answer:
        loop.call_later((WINDOW_MS - early_ms) / 1000, link.reply, Reply(number + 1))
        return await link.ask(event(), WINDOW_MS)

    async def rounds() -> list[tuple[float, Answer]]:
        before_ms = [0.0, 1e-9, 1e-6, 1e-3, 0.5, -1.0, -1e-2]  # negative: after the limit
        return [(before_ms[each % 7], await one(each, before_ms[each % 7])) for each in range(ROUNDS)]

    told = loop.run_until_complete(rounds())
    assert all(answer.ok for early, answer in told if early >= 0)
    late = [answer for early, answer in told if early < 0]
    assert late and {answer.failure.code for answer in late} == {Code.VSS_E_WRITERERROR_TIMEOUT}


@pytest.mark.vss(17)
def test_what_lies_in_the_socket_when_a_busy_coordinator_looks_again_is_in_time(loop: FakeClockLoop) -> None:
    ours, theirs = socket.socketpair()
    registry = Registry(Limits())

    async def meet() -> list[Answer]:
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        serving = asyncio.ensure_future(registry.serve(Connection(FromWriter, reader, writer, PEER)))
        theirs.sendall(encode(Hello(GUID, "Busy")))
        while not registry.all():
            await asyncio.sleep(0)
        answers = [await stalled(registry.all()[0].link, each) for each in range(1, 501)]
        theirs.close()
        await serving
        return answers

    async def stalled(link: WriterLink, seq: int) -> Answer:
        asking = asyncio.ensure_future(link.ask(event(), WINDOW_MS))
        await asyncio.sleep(0)
        theirs.sendall(encode(Reply(seq)))  # in time
        loop.now += WINDOW_MS / 1000 + 5  # and only now the coordinator gets round to it
        return await asking

    assert all(answer.ok for answer in loop.run_until_complete(meet()))
