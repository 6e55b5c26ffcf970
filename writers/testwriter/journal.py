"""The event journal: one JSON object a line, two lines an event (``received``, ``answered``)."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from shadowset.vss.codes import Code, VssError, code_name
from shadowset.vss.writer_protocol import Reply
from shadowset.writers.current_event import CurrentEvent


class Journal:
    """Appends whole lines, each with one write, so that what was told survives any end of the process.

    ``path`` may be empty: nothing is kept. It should not lie on a volume of the sets, whose file system freezes.
    """

    def __init__(self, path: str) -> None:
        """Errors: E_INVALIDARG when the file cannot be opened."""
        self._file = -1
        if path:
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise VssError(Code.E_INVALIDARG, f"the journal {path} cannot be written: {error.strerror}") from error

    def received(self, event: CurrentEvent) -> None:
        """An event came; ``reason`` is set in aborts of the writer's own making."""
        components = event.message.components
        self._line(
            "received",
            event=event.event.value,
            session=event.session,
            set=event.set,
            level=event.level.name,
            deadline_ms=event.message.deadline_ms,
            backup_type=event.backup_type.name,
            volumes=[volume.name for volume in event.volumes],
            components=None if components is None else [each.full_path for each in components],
            succeeded=None if components is None else [each.full_path for each in components if each.backup_succeeded],
            reason=event.reason,
        )

    def answered(self, event: CurrentEvent, reply: Reply) -> None:
        """The answer as the writer means it, before an action spoils it."""
        self._line(
            "answered",
            event=event.event.value,
            session=event.session,
            set=event.set,
            code=code_name(reply.code),
            veto=reply.veto,
            message=reply.message,
        )

    def _line(self, step: str, **values: Any) -> None:
        if self._file < 0:
            return
        record = {"monotonic_ns": time.monotonic_ns(), "time": time.time(), "pid": os.getpid(), "step": step, **values}
        os.write(self._file, json.dumps(record).encode() + b"\n")
