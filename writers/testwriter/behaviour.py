"""What an action does: which one is due, how it goes on, and how its answer is spoilt."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from collections.abc import Callable, Sequence

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component, Failure
from shadowset.vss.enums import ComponentType, WriterEvent
from shadowset.vss.wire import LENGTH_BYTES, Message
from shadowset.vss.writer_protocol import Reply
from shadowset.writers.connection import Connection
from shadowset.writers.current_event import CurrentEvent
from shadowset.writers.testwriter.settings import Action, Answer, ComponentFailure, Ending

LOG = logging.getLogger("shadowset.writer.test")
NO_MESSAGE = b"\xc1\xc1\xc1\xc1"  # a byte that MessagePack never uses
WRONG_SEQ = 1_000_000
LOOK_SECONDS = 0.02
PHASE_FIELDS = {
    WriterEvent.PREPARE_BACKUP: "prepare_for_backup_failure_message",
    WriterEvent.POST_SNAPSHOT: "post_snapshot_failure_message",
    WriterEvent.PRE_RESTORE: "pre_restore_failure_message",
    WriterEvent.POST_RESTORE: "post_restore_failure_message",
}


class Actions:
    """The actions of a configuration and how often each was taken. For one thread at a time."""

    def __init__(self, actions: Sequence[Action]) -> None:
        self._actions = [(action, [0]) for action in actions]

    def due(self, event: WriterEvent) -> list[Action]:
        """The actions to take now; each counts as taken."""
        due = []
        for action, taken in self._actions:
            if action.event is event and (action.times == 0 or taken[0] < action.times):
                taken[0] += 1
                due.append(action)
        return due


def perform(action: Action, event: CurrentEvent, stopping: threading.Event, hang_up: Callable[[], None]) -> None:
    """Everything of an action but its answer. Errors: VssError, the veto that the action asks for."""
    if action.mark:
        with open(action.mark, "w", encoding="ascii") as file:
            file.write(event.event.value)
    if action.wait_for:
        _wait_for(action.wait_for, event, stopping)
    if action.sleep_ms:
        stopping.wait(action.sleep_ms / 1000)
    _end(action, stopping, hang_up)
    _fail_components(action.failing, event)
    if action.codes:
        _fail(action, event)


def _wait_for(path: str, event: CurrentEvent, stopping: threading.Event) -> None:
    while not os.path.exists(path) and not event.cancelled and not stopping.is_set():
        stopping.wait(LOOK_SECONDS)


def _end(action: Action, stopping: threading.Event, hang_up: Callable[[], None]) -> None:
    if action.ending is Ending.HANG:
        stopping.wait()
    elif action.ending is Ending.DISCONNECT:
        hang_up()
    elif action.ending is Ending.EXIT:
        os._exit(1)
    elif action.ending is Ending.KILL:
        os.kill(os.getpid(), signal.SIGKILL)


def _fail(action: Action, event: CurrentEvent) -> None:
    code = random.choice(action.codes)
    LOG.info("%s: failing as configured", event.event)
    if action.veto or event.event is WriterEvent.IDENTIFY:
        raise VssError(code, action.message, action.application_code)
    event.set_failure(code, action.message, action.application_code)


def _fail_components(failing: Sequence[ComponentFailure], event: CurrentEvent) -> None:
    failed = []
    for component in event.components:
        for each in failing:
            if each.path == component.full_path:
                component.failure = Failure(each.code, each.application_code, each.message)
                setattr(component, PHASE_FIELDS[event.event], each.message)
                failed.append(each.path)
    if failed:
        message = f"components failed as configured: {', '.join(failed)}; look at each of them"
        event.set_failure(Code.VSS_E_WRITERERROR_PARTIAL_FAILURE, message)


class SpoiltAnswers:
    """Carries the messages of one event to the coordinator, its reply as the actions want it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.actions: list[Action] = []

    def send(self, message: Message) -> None:
        """Errors: OSError when the connection is gone."""
        action = next((each for each in self.actions if each.answer is not Answer.NORMAL), None)
        if not isinstance(message, Reply) or action is None:
            self._connection.send(message)
            return
        LOG.info("the answer is sent as configured: %s", action.answer.value)
        self._spoil(message, action)

    def _spoil(self, reply: Reply, action: Action) -> None:
        if action.answer is Answer.LATE:
            timer = threading.Timer(action.late_ms / 1000, self._send_late, (reply,))
            timer.daemon = True
            timer.start()
        elif action.answer is Answer.TWICE:
            self._connection.send(reply)
            self._connection.send(reply)
        elif action.answer is Answer.WRONG:
            self._connection.send(msgspec.structs.replace(reply, seq=reply.seq + WRONG_SEQ))
        elif action.answer is Answer.MALFORMED:
            self._connection.send_bytes(len(NO_MESSAGE).to_bytes(LENGTH_BYTES, "big") + NO_MESSAGE)
        elif action.answer is Answer.FOREIGN:
            foreign = Component(ComponentType.FILEGROUP, "nobody's", "component")
            self._connection.send(msgspec.structs.replace(reply, components=[foreign]))

    def _send_late(self, reply: Reply) -> None:
        try:
            self._connection.send(reply)
        except OSError:
            LOG.info("the late answer found no coordinator")
