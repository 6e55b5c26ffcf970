"""Thaw and the end of the freeze window at the same moment: whoever wins, the other one must know."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Iterator

import pytest

from shadowset.vss.codes import Code
from shadowset.vss.enums import WriterEvent
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.writer_protocol import Event, Reply
from shadowset.writers.current_event import CurrentEvent
from shadowset.writers.dispatcher import Dispatcher, Phase

ROUNDS = 4000
E = WriterEvent


class Application:
    """Frozen or not; counts what was done to it."""

    name = "Application"
    identify_aside = False

    def __init__(self, freeze_timeout_ms: int) -> None:
        self.freeze_timeout_ms = freeze_timeout_ms
        self.frozen = False
        self.calls = dict.fromkeys(E, 0)
        self.released = threading.Event()

    def handle(self, event: CurrentEvent) -> WriterMetadata | None:
        self.calls[event.event] += 1
        if event.event in (E.FREEZE, E.THAW, E.ABORT):
            self.frozen = event.event is E.FREEZE
        if not self.frozen:
            self.released.set()
        return None


@pytest.fixture
def application() -> Application:
    return Application(freeze_timeout_ms=2)


@pytest.fixture
def dispatcher(application: Application) -> Iterator[Dispatcher]:
    running = Dispatcher(application, grace_seconds=30.0)
    running.start()
    yield running
    running.close()


@pytest.mark.vss(17)
def test_the_end_of_the_window_never_spoils_a_thaw_in_time(dispatcher: Dispatcher, application: Application) -> None:
    replies: queue.Queue[Reply] = queue.Queue()
    outcomes = {"thawed": 0, "aborted": 0}
    for number in range(ROUNDS):
        before = dict(application.calls)
        application.released.clear()
        session = f"session-{number}"
        begun = time.monotonic()
        dispatcher.deliver(Event(1, E.FREEZE, session, 30_000), replies.put)
        freeze = replies.get(timeout=5)
        time.sleep(random.uniform(0, 0.003))
        dispatcher.deliver(Event(2, E.THAW, session, 30_000), replies.put)
        in_time = time.monotonic() < begun + application.freeze_timeout_ms / 1000
        thaw = replies.get(timeout=5)
        assert application.released.wait(5)
        done = {event: application.calls[event] - before[event] for event in before}
        assert done[E.FREEZE] == 1
        assert done[E.THAW] + done[E.ABORT] == 1, "released exactly once, by thaw or by itself"
        assert not application.frozen
        if thaw.code == 0:
            assert done[E.THAW] == 1
            assert freeze.code == 0
            outcomes["thawed"] += 1
        else:
            assert (thaw.code, thaw.veto) == (Code.VSS_E_WRITERERROR_TIMEOUT, True)
            assert not in_time, "a thaw that was delivered in time was reported as late"
            outcomes["aborted"] += 1
    assert dispatcher.phase is Phase.THAWED or dispatcher.phase is Phase.IDLE
    assert min(outcomes.values()) > ROUNDS // 50, f"both outcomes should happen often: {outcomes}"


def test_the_loss_of_the_connection_races_with_thaw(dispatcher: Dispatcher, application: Application) -> None:
    application.freeze_timeout_ms = 10_000
    for number in range(ROUNDS // 2):
        session = f"session-{number}"
        replies: queue.Queue[Reply] = queue.Queue()
        dispatcher.deliver(Event(1, E.FREEZE, session, 30_000), replies.put)
        replies.get(timeout=5)
        before = dict(application.calls)
        loss = threading.Thread(target=dispatcher.connection_lost)
        loss.start()
        dispatcher.deliver(Event(2, E.THAW, session, 30_000), replies.put)
        loss.join()
        dispatcher.deliver(Event(3, E.BACKUP_SHUTDOWN, "nobody", 30_000), replies.put)
        while replies.get(timeout=5).seq != 3:
            pass
        assert not application.frozen
        released = sum(application.calls[event] - before[event] for event in (E.THAW, E.ABORT))
        assert released in (1, 2), "by thaw, or by abort, or by abort after thaw"
