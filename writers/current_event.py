"""The event that a handler is working on: what the coordinator asks, and the ways to answer."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component, Failure
from shadowset.vss.enums import BackupType, Level, RestoreType, WriterEvent
from shadowset.vss.wire import Message
from shadowset.vss.writer_protocol import Event, EventVolume, Log, Progress


def lies_in(path: str, directory: str) -> bool:
    """Whether ``path`` is ``directory`` or lies beneath it; both absolute."""
    base = directory.rstrip("/")
    return path == base or path.startswith(base + "/")


class CurrentEvent:
    """One event, valid while its handler runs.

    ``components`` may be changed in place; what was changed goes back to the coordinator. ``reason`` is empty, except
    in an abort that the writer library calls by itself.
    """

    def __init__(
        self, message: Event, send: Callable[[Message], None], window_end: float | None = None, reason: str = ""
    ) -> None:
        self.message = message
        self.reason = reason
        self.failure = Failure()
        self._send = send
        self._cancelled = threading.Event()
        answer_due = time.monotonic() + message.deadline_ms / 1000 if message.deadline_ms > 0 else math.inf
        self._limit = min(answer_due, math.inf if window_end is None else window_end)
        self._before = msgspec.msgpack.encode(message.components)

    @property
    def event(self) -> WriterEvent:
        """Which event this is."""
        return self.message.event

    @property
    def session(self) -> str:
        """The requester's session."""
        return self.message.session

    @property
    def set(self) -> str:
        """The shadow copy set, empty where there is none."""
        return self.message.set

    @property
    def level(self) -> Level:
        """The level that is being frozen."""
        return self.message.level

    @property
    def context(self) -> int:
        """The snapshot context, a set of Attribute bits."""
        return self.message.context

    @property
    def backup_type(self) -> BackupType:
        """What kind of backup is made."""
        return self.message.backup_type

    @property
    def restore_type(self) -> RestoreType:
        """What kind of restore is made; one that the requester did not tell (UNDEFINED) is BY_COPY."""
        return self.message.restore_type or RestoreType.BY_COPY

    @property
    def select_components(self) -> bool:
        """False: whole volumes are copied, and ``is_path_affected`` tells whether the writer is concerned."""
        return self.message.select_components

    @property
    def volumes(self) -> list[EventVolume]:
        """The volumes of the set."""
        return self.message.volumes

    @property
    def components(self) -> list[Component]:
        """The writer's own components in this backup or restore; empty where the event has none."""
        return self.message.components if self.message.components is not None else []

    def component(self, logical_path: str, name: str) -> Component | None:
        """The component with this identity, or None when it was not chosen."""
        for component in self.components:
            if component.logical_path == logical_path and component.name == name:
                return component
        return None

    def changed_components(self) -> list[Component] | None:
        """The components, when the handler changed any."""
        components = self.message.components
        return components if msgspec.msgpack.encode(components) != self._before else None

    def is_path_affected(self, path: str) -> bool:
        """Whether ``path`` lies on a volume of the set."""
        return any(lies_in(path, mount) for volume in self.volumes for mount in volume.mount_points)

    def is_path_left_out(self, path: str) -> bool:
        """Whether ``path`` certainly lies on no volume of the set (their mount points are known)."""
        known = bool(self.volumes) and all(volume.mount_points for volume in self.volumes)
        return known and not self.is_path_affected(path)

    def recovery_path(self, path: str) -> str:
        """Where the file at ``path`` can be written to inside the copy, in post-snapshot; "" for nowhere."""
        points = [(mount, volume) for volume in self.volumes for mount in volume.mount_points if lies_in(path, mount)]
        if not points:
            return ""
        mount, volume = max(points, key=lambda point: len(point[0]))
        inside = os.path.relpath(os.path.abspath(path), mount)
        return os.path.normpath(f"{volume.recovery_path}/{inside}") if volume.recovery_path else ""

    def set_failure(self, code: int, message: str, application_code: int = 0) -> None:
        """Reports a failure without a veto: the creation goes on, and the requester decides what the copy is worth.

        Errors: VSS_E_BAD_STATE in identify, which can only fail as a whole.
        """
        if self.event is WriterEvent.IDENTIFY:
            raise VssError(Code.VSS_E_BAD_STATE, "a failure cannot be set in identify: raise VssError instead")
        self.failure = Failure(int(code), application_code, message)

    def downgrade(self, component: Component, why: str) -> None:
        """Records that the copy of a component is no more than crash-consistent, where that is allowed: the backup
        succeeds, and tells it. In post-snapshot; the component is the event's."""
        component.failure.message = f"only crash-consistent: {why}"
        self.log(f"the copy of {component.full_path} is {component.failure.message}")

    def progress(self, done: int, total: int = 0, text: str = "") -> None:
        """Tells the coordinator how far a long event has come."""
        self._tell(Progress(self.message.seq, done, total, text))

    def log(self, text: str) -> None:
        """A line for the coordinator's log."""
        self._tell(Log(text))

    def _tell(self, message: Message) -> None:
        try:
            self._send(message)
        except OSError:
            return  # a lost connection is noticed, and dealt with, by the reader

    @property
    def remaining(self) -> float:
        """Seconds until the answer is due or the freeze window ends, whichever is first; never negative."""
        return max(0.0, self._limit - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether going on makes no sense: aborted, connection lost, or out of time. Long handlers look at it."""
        return self._cancelled.is_set() or self.remaining == 0

    def cancel(self) -> None:
        """Tells the handler to give up."""
        self._cancelled.set()

    def wait(self, seconds: float) -> bool:
        """Sleeps for ``seconds``, or until the event is cancelled; returns ``cancelled``."""
        self._cancelled.wait(min(seconds, self.remaining, threading.TIMEOUT_MAX))
        return self.cancelled
