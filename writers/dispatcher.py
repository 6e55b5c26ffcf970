"""Calls the handlers of one writer and guards the time between freeze and thaw.

Threads and the one lock
    *deliver* (reader's thread) puts events into the inbox; the *handler thread* takes them out, one at a time and in
    order, and calls the handlers; the *watch* thread sleeps until a handler has overrun a dead line; the *identify*
    thread answers identify beside a handler that is at work, for writers that say ``identify_aside``.
    ``_changed`` guards everything here. Handlers and replies run without it.

The freeze window
    opens when the freeze event is taken up, and ends with thaw or abort. It is no timer that would have to be
    cancelled: the handler thread sleeps until the window's end and decides, holding the lock under which events arrive,
    whether a thaw is there (then it is in time) or not (then the writer aborts by itself). So a thaw that was delivered
    in time cannot be reported as late, and a window cannot expire after its thaw.

Self-abort
    ``on_abort`` is called, once, when the window ends, or when the connection is lost between prepare-snapshot and
    post-snapshot. It runs on the handler thread; only when another handler hangs there for ``GRACE_SECONDS`` while the
    application is frozen does the watch thread call it, so that the application is released anyway. A freeze handler
    that comes back after that is followed by another ``on_abort``, since it may have frozen something since.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import WriterEvent
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.wire import Message
from shadowset.vss.writer_protocol import Event, Reply
from shadowset.writers.current_event import CurrentEvent

GRACE_SECONDS = 1.0
SELF_ABORT_MS = 60_000
LOG = logging.getLogger("shadowset.writer")

Send = Callable[[Message], None]


class Handlers(Protocol):
    """What the dispatcher needs of a writer."""

    name: str
    freeze_timeout_ms: int
    identify_aside: bool

    def handle(self, event: CurrentEvent) -> WriterMetadata | None:
        """Calls the handler of this event; the document in case of identify."""


class Phase(Enum):
    """Where the writer stands between two events."""

    IDLE = 0
    PREPARED = 1
    FREEZING = 2
    FROZEN = 3
    THAWED = 4


ACTIVE = (Phase.PREPARED, Phase.FREEZING, Phase.FROZEN, Phase.THAWED)
WINDOW = (Phase.FREEZING, Phase.FROZEN)


@dataclass(frozen=True)
class Delivery:
    """An event and the way its answer goes."""

    event: Event
    send: Send


@dataclass(frozen=True)
class SelfAbort:
    """An abort of the writer's own making: of which session and set, and why."""

    session: str
    set: str
    reason: str


class Dispatcher:
    """Runs one writer's handlers; see the head of this file."""

    def __init__(self, handlers: Handlers, grace_seconds: float = GRACE_SECONDS) -> None:
        self._handlers = handlers
        self._grace = grace_seconds
        self._changed = threading.Condition()
        self._inbox: deque[Delivery] = deque()
        self._aside: deque[Delivery] = deque()
        self._phase = Phase.IDLE
        self._session = ""
        self._set = ""
        self._window_end: float | None = None
        self._broken = ""  # why the writer has to abort as soon as it can
        self._cancel_time = math.inf  # since when the running handler should have given up
        self._aborted = False
        self._last_abort: SelfAbort | None = None
        self._running: CurrentEvent | None = None
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{handlers.name} handlers", daemon=True),
            threading.Thread(target=self._watch, name=f"{handlers.name} watch", daemon=True),
        ]
        if handlers.identify_aside:
            target = self._identify
            self._threads.append(threading.Thread(target=target, name=f"{handlers.name} identify", daemon=True))

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def deliver(self, event: Event, send: Send) -> None:
        """Takes an event in; ``send`` carries the reply."""
        with self._changed:
            aside = event.event is WriterEvent.IDENTIFY and self._handlers.identify_aside
            (self._aside if aside else self._inbox).append(Delivery(event, send))
            if event.event is WriterEvent.ABORT and self._running is not None and event.session == self._session:
                self._running.cancel()
                self._cancel_time = time.monotonic()
            self._changed.notify_all()

    def connection_lost(self, reason: str = "the connection to the coordinator was lost") -> None:
        """Forgets what was not begun, and aborts when the writer is in the middle of a set."""
        with self._changed:
            self._inbox.clear()
            self._aside.clear()
            if self._phase in ACTIVE:
                self._broken, self._cancel_time = reason, time.monotonic()
            if self._running is not None:
                self._running.cancel()
            self._changed.notify_all()

    def close(self, seconds: float = 10.0) -> None:
        """Aborts when the writer is in the middle of a set, and ends the threads."""
        self.connection_lost("the writer is stopping")
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.is_alive():
                thread.join(seconds)

    @property
    def phase(self) -> Phase:
        """Where the writer stands now."""
        with self._changed:
            return self._phase

    # --- the handler thread

    def _work(self) -> None:
        while (task := self._next()) is not None:
            if isinstance(task, SelfAbort):
                self._abort(task)
            else:
                self._process(task)

    def _next(self) -> Delivery | SelfAbort | None:
        with self._changed:
            while True:
                if reason := self._reason_to_abort():
                    return self._claim(reason)
                if self._inbox:
                    return self._inbox.popleft()
                if self._closing:
                    return None
                end = self._window_end
                self._changed.wait(None if end is None else max(0.0, end - time.monotonic()))

    def _reason_to_abort(self) -> str:
        if self._broken and self._phase in ACTIVE:
            return self._broken
        self._broken = ""
        if self._window_end is None or time.monotonic() < self._window_end:
            return ""
        ended = any(waiting.event.event in (WriterEvent.THAW, WriterEvent.ABORT) for waiting in self._inbox)
        return "" if ended else self._window_reason()

    def _window_reason(self) -> str:
        return f"the freeze window of {self._handlers.freeze_timeout_ms} ms expired before thaw"

    def _claim(self, reason: str) -> SelfAbort:
        """Decides, once, that this writer aborts. Called with the lock held."""
        self._last_abort = SelfAbort(self._session, self._set, reason)
        self._phase, self._window_end, self._broken, self._aborted = Phase.IDLE, None, "", True
        self._cancel_time = math.inf
        return self._last_abort

    def _abort(self, abort: SelfAbort) -> None:
        LOG.warning("%s: aborting by itself: %s", self._handlers.name, abort.reason)
        event = Event(0, WriterEvent.ABORT, abort.session, SELF_ABORT_MS, set=abort.set)
        self._call(CurrentEvent(event, lambda _message: None, reason=abort.reason))

    def _process(self, delivery: Delivery) -> None:
        entered = self._enter(delivery)
        if isinstance(entered, Reply):
            self._answer(delivery, entered)
            return
        reply = self._call(entered)
        late = self._leave(entered)
        if late is not None:
            self._abort(late)
            reply = self._late_reply(entered.message.seq, late)
        self._answer(delivery, reply)

    def _answer(self, delivery: Delivery, reply: Reply) -> None:
        try:
            delivery.send(reply)
        except OSError:
            LOG.info("%s: the answer to %s found no coordinator", self._handlers.name, delivery.event.event)

    def _late_reply(self, seq: int, abort: SelfAbort) -> Reply:
        message = f"the writer {self._handlers.name} aborted by itself: {abort.reason}; lower its load and try again"
        return Reply(seq, Code.VSS_E_WRITERERROR_TIMEOUT, veto=True, message=message)

    # --- state changes around a handler

    def _enter(self, delivery: Delivery) -> CurrentEvent | Reply:
        """Changes the state before a handler runs, or answers in its place."""
        event = delivery.event
        with self._changed:
            refusal = self._refuse(event)
            if refusal is not None:
                return refusal
            window_end = self._advance(event)
            self._running = CurrentEvent(event, delivery.send, window_end)
            self._changed.notify_all()
            return self._running

    def _refuse(self, event: Event) -> Reply | None:
        frozen = self._phase in WINDOW
        if event.event is WriterEvent.FREEZE and frozen:
            return self._bad_state(event, f"is frozen for the set {self._set or self._session}")
        if event.event is WriterEvent.THAW and not (frozen and event.session == self._session):
            abort = self._last_abort
            if abort is not None and abort.session == event.session:
                return self._late_reply(event.seq, abort)
            return self._bad_state(event, "is not frozen for this session")
        if event.event is WriterEvent.ABORT and (self._aborted or (frozen and event.session != self._session)):
            return Reply(event.seq)  # undone already, or frozen for somebody else
        return None

    def _bad_state(self, event: Event, state: str) -> Reply:
        message = f"{event.event} came out of order: the writer {self._handlers.name} {state}"
        return Reply(event.seq, Code.VSS_E_BAD_STATE, veto=True, message=message)

    def _advance(self, event: Event) -> float | None:
        """The new state; the end of the freeze window where there is one."""
        kind = event.event
        if kind is WriterEvent.ABORT:
            self._phase, self._window_end, self._aborted = Phase.IDLE, None, True
            self._cancel_time = math.inf
        elif kind is WriterEvent.THAW:
            self._phase, self._window_end = Phase.THAWED, None
        elif kind is WriterEvent.FREEZE:
            self._begin(event, Phase.FREEZING)
            self._window_end = time.monotonic() + self._handlers.freeze_timeout_ms / 1000
            return self._window_end
        elif kind in (WriterEvent.PREPARE_BACKUP, WriterEvent.PREPARE_SNAPSHOT) and self._phase not in WINDOW:
            self._begin(event, Phase.PREPARED)
        elif kind is WriterEvent.BACKUP_SHUTDOWN and event.session == self._session and self._phase not in WINDOW:
            self._phase = Phase.IDLE
        return None

    def _begin(self, event: Event, phase: Phase) -> None:
        self._phase, self._session, self._set = phase, event.session, event.set
        self._aborted, self._last_abort, self._cancel_time = False, None, math.inf

    def _leave(self, current: CurrentEvent) -> SelfAbort | None:
        """The state after a handler; an abort when the freeze came back too late."""
        with self._changed:
            self._running = None
            self._changed.notify_all()
            if current.event is WriterEvent.POST_SNAPSHOT and self._phase is Phase.THAWED:
                self._phase = Phase.IDLE
            if current.event is not WriterEvent.FREEZE:
                return None
            if self._phase is not Phase.FREEZING:
                return self._last_abort
            if self._window_end is not None and time.monotonic() >= self._window_end:
                return self._claim(self._window_reason())
            self._phase = Phase.FROZEN
            return None

    def _call(self, current: CurrentEvent) -> Reply:
        """One handler, its refusal or failure turned into an answer."""
        name = f"{current.event} of the writer {self._handlers.name}"
        reply = Reply(current.message.seq)
        try:
            reply.metadata = self._handlers.handle(current)
            failure = current.failure
            reply.code, reply.application_code, reply.message = failure.code, failure.application_code, failure.message
        except VssError as error:
            LOG.warning("%s refused: %s", name, error)
            reply.veto, reply.code, reply.message = True, error.code, error.message
            reply.application_code = error.application_code
        except Exception as error:
            LOG.exception("%s failed", name)
            reply.veto, reply.code = True, Code.VSS_E_WRITERERROR_NONRETRYABLE
            reply.message = f"{name} failed with {type(error).__name__}: {error}; see the writer's own log"
        reply.components = current.changed_components()
        return reply

    # --- the identify thread

    def _identify(self) -> None:
        while (delivery := self._next_aside()) is not None:
            self._answer(delivery, self._call(CurrentEvent(delivery.event, delivery.send)))

    def _next_aside(self) -> Delivery | None:
        with self._changed:
            self._changed.wait_for(lambda: self._aside or self._closing)
            return self._aside.popleft() if self._aside else None

    # --- the watch thread

    def _watch(self) -> None:
        while (abort := self._overdue()) is not None:
            self._abort(abort)

    def _overdue(self) -> SelfAbort | None:
        """Sleeps until a handler hangs while the application is frozen; None at the end."""
        with self._changed:
            while True:
                if self._closing and self._running is None:
                    return None
                due = self._due()
                if due is not None and time.monotonic() >= due:
                    return self._claim(self._overdue_reason())
                self._changed.wait(None if due is None else due - time.monotonic())

    def _due(self) -> float | None:
        if self._running is None or self._window_end is None:
            return None
        return min(self._cancel_time, self._window_end) + self._grace

    def _overdue_reason(self) -> str:
        if self._broken:
            return self._broken
        if self._window_end is not None and time.monotonic() >= self._window_end:
            return self._window_reason()
        return "the coordinator aborted while a handler was hanging"
