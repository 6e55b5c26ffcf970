"""The state of one writer in one session: a pure state machine.

``reached`` is how far the writer has come; ``failed`` is the first failure and stays until the next session, because a
requester asks for it afterwards. A writer that refused (veto, time-out, lost connection) is ``out``: it gets no more
events but abort, once, and backup-shutdown. One that only reported a failure goes on taking part, as VSS's writer
errors do.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shadowset.vss.components import Failure
from shadowset.vss.enums import WriterEvent, WriterState

_NEXT = {
    (WriterState.STABLE, WriterEvent.IDENTIFY): WriterState.STABLE,
    (WriterState.STABLE, WriterEvent.PREPARE_BACKUP): WriterState.STABLE,
    (WriterState.STABLE, WriterEvent.PREPARE_SNAPSHOT): WriterState.WAITING_FOR_FREEZE,
    (WriterState.WAITING_FOR_FREEZE, WriterEvent.FREEZE): WriterState.WAITING_FOR_THAW,
    (WriterState.WAITING_FOR_THAW, WriterEvent.THAW): WriterState.WAITING_FOR_POST_SNAPSHOT,
    (WriterState.WAITING_FOR_POST_SNAPSHOT, WriterEvent.POST_SNAPSHOT): WriterState.WAITING_FOR_BACKUP_COMPLETE,
    (WriterState.WAITING_FOR_BACKUP_COMPLETE, WriterEvent.BACKUP_COMPLETE): WriterState.STABLE,
    (WriterState.STABLE, WriterEvent.PRE_RESTORE): WriterState.STABLE,
    (WriterState.STABLE, WriterEvent.POST_RESTORE): WriterState.STABLE,
}
_FAILED = {
    WriterEvent.IDENTIFY: WriterState.FAILED_AT_IDENTIFY,
    WriterEvent.PREPARE_BACKUP: WriterState.FAILED_AT_PREPARE_BACKUP,
    WriterEvent.PREPARE_SNAPSHOT: WriterState.FAILED_AT_PREPARE_SNAPSHOT,
    WriterEvent.FREEZE: WriterState.FAILED_AT_FREEZE,
    WriterEvent.THAW: WriterState.FAILED_AT_THAW,
    WriterEvent.POST_SNAPSHOT: WriterState.FAILED_AT_POST_SNAPSHOT,
    WriterEvent.BACKUP_COMPLETE: WriterState.FAILED_AT_BACKUP_COMPLETE,
    WriterEvent.PRE_RESTORE: WriterState.FAILED_AT_PRE_RESTORE,
    WriterEvent.POST_RESTORE: WriterState.FAILED_AT_POST_RESTORE,
    WriterEvent.BACKUP_SHUTDOWN: WriterState.FAILED_AT_BACKUPSHUTDOWN,
}
_ALWAYS = (WriterEvent.ABORT, WriterEvent.BACKUP_SHUTDOWN)


@dataclass
class WriterProgress:
    """One writer, one session."""

    reached: WriterState = WriterState.STABLE
    failed: WriterState | None = None
    failure: Failure = field(default_factory=Failure)
    out: bool = False
    prepared_snapshot: bool = False
    aborted: bool = False

    @property
    def state(self) -> WriterState:
        """What GetWriterStatus reports."""
        return self.reached if self.failed is None else self.failed

    def takes(self, event: WriterEvent) -> bool:
        """Whether the event may be sent to this writer now."""
        if event is WriterEvent.ABORT:
            return not self.aborted
        if event is WriterEvent.BACKUP_SHUTDOWN:
            return True
        return not self.out and (self.reached, event) in _NEXT

    def sent(self, event: WriterEvent) -> None:
        """The event is on its way: from here an abort must follow a failed set."""
        if event is WriterEvent.PREPARE_SNAPSHOT:
            self.prepared_snapshot = True
        elif event is WriterEvent.ABORT:
            self.aborted = True

    def succeed(self, event: WriterEvent) -> None:
        """The writer has done it. An event that does not fit the state changes nothing."""
        if event in _ALWAYS:
            self.reached = WriterState.STABLE
            self.prepared_snapshot = False
        else:
            self.reached = _NEXT.get((self.reached, event), self.reached)

    def fail(self, event: WriterEvent, failure: Failure, veto: bool) -> None:
        """The writer has not; with ``veto`` it takes no further part."""
        if event in _FAILED and self.failed is None:
            self.failed = _FAILED[event]
            self.failure = failure
        if veto and event not in _ALWAYS:
            self.out = True
        else:
            self.succeed(event)
