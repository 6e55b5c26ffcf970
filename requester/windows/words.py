"""How the Windows tools write ids, times, volumes, sizes, states and failures. Pure."""

from __future__ import annotations

from datetime import datetime

from shadowset.requester.sentences import printable
from shadowset.vss.codes import Code, describe
from shadowset.vss.enums import Attribute, Context, WriterState
from shadowset.vss.requester_protocol import SnapshotProperties, WriterStatus

KIND = (
    Attribute.PERSISTENT | Attribute.CLIENT_ACCESSIBLE | Attribute.NO_AUTO_RELEASE | Attribute.NO_WRITERS
)  # the attributes by which contexts differ

_TYPES = {
    Context.BACKUP: "Backup",
    Context.FILE_SHARE_BACKUP: "FileShareBackup",
    Context.APP_ROLLBACK: "ApplicationRollback",
    Context.NAS_ROLLBACK: "DataVolumeRollback",
    Context.CLIENT_ACCESSIBLE: "ClientAccessible",
    Context.CLIENT_ACCESSIBLE_WRITERS: "ClientAccessibleWriters",
}
_STATES = {
    WriterState.UNKNOWN: "Unknown",
    WriterState.STABLE: "Stable",
    WriterState.WAITING_FOR_FREEZE: "Waiting for freeze",
    WriterState.WAITING_FOR_THAW: "Frozen",
    WriterState.WAITING_FOR_POST_SNAPSHOT: "Waiting for completion",
    WriterState.WAITING_FOR_BACKUP_COMPLETE: "Waiting for completion",
}
_FAILURES = {
    Code.S_OK: "No error",
    Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT: "Inconsistent shadow copy",
    Code.VSS_E_WRITERERROR_OUTOFRESOURCES: "Out of resources",
    Code.VSS_E_WRITERERROR_TIMEOUT: "Timed out",
    Code.VSS_E_WRITERERROR_RETRYABLE: "Retryable error",
    Code.VSS_E_WRITERERROR_NONRETRYABLE: "Non-retryable error",
    Code.VSS_E_WRITER_NOT_RESPONDING: "Not responding",
}


def braced(guid: str) -> str:
    """An id as Windows writes it, ``{…}``."""
    return "{" + printable(guid) + "}"


def unbraced(text: str) -> str:
    """An id as the coordinator has it: without braces, in lower case."""
    return text.strip("{}").lower()


def time_text(nanoseconds: int) -> str:
    """Unix nanoseconds in the local time zone, in the form of an English Windows: ``4/9/2026 10:00:05 AM``."""
    moment = datetime.fromtimestamp(nanoseconds // 1_000_000_000)
    clock = f"{moment.hour % 12 or 12}:{moment:%M:%S}"
    return f"{moment.month}/{moment.day}/{moment.year} {clock} {'AM' if moment.hour < 12 else 'PM'}"


def volume_text(mount_points: list[str], name: str) -> str:
    """A volume as vssadmin shows one: where it is mounted in parentheses, then its name."""
    return printable(f"({mount_points[0]}){name}" if mount_points else name)


def volume_of(copy: SnapshotProperties) -> str:
    """The volume of a copy, for vssadmin."""
    return volume_text(copy.mount_points, copy.original_volume)


def type_text(attributes: int) -> str:
    """The kind of a copy, by the context that its attributes come from."""
    kind = attributes & KIND
    known = {int(context): text for context, text in _TYPES.items()}
    return known.get(kind, "Unknown")


def state_text(status: WriterStatus) -> str:
    """``[n] words``, the words being one of the six that the tools have."""
    words = _STATES.get(status.state, "Failed") if status.connected else "Unknown"
    return f"[{status.state.value}] {words}"


def last_error_text(status: WriterStatus) -> str:
    """The words that the tools have for a writer's failure; codes without any by name and number."""
    code = status.failure.code
    return {int(known): text for known, text in _FAILURES.items()}.get(code, "") or describe(code)
