"""Result codes, with the names and numbers that VSS's public headers give them, and the error that carries one."""

from __future__ import annotations

import re
from enum import IntEnum


class Code(IntEnum):
    """An HRESULT as it stands in vss.h and vsserror.h; members of the plain E_ family come from winerror.h."""

    S_OK = 0x00000000
    S_FALSE = 0x00000001
    VSS_S_ASYNC_PENDING = 0x00042309
    VSS_S_ASYNC_FINISHED = 0x0004230A
    VSS_S_ASYNC_CANCELLED = 0x0004230B
    VSS_S_SOME_SNAPSHOTS_NOT_IMPORTED = 0x00042321

    E_NOTIMPL = 0x80004001
    E_UNEXPECTED = 0x8000FFFF
    E_ACCESSDENIED = 0x80070005
    E_OUTOFMEMORY = 0x8007000E
    E_INVALIDARG = 0x80070057

    VSS_E_BAD_STATE = 0x80042301
    VSS_E_UNEXPECTED = 0x80042302
    VSS_E_PROVIDER_ALREADY_REGISTERED = 0x80042303
    VSS_E_PROVIDER_NOT_REGISTERED = 0x80042304
    VSS_E_PROVIDER_VETO = 0x80042306
    VSS_E_PROVIDER_IN_USE = 0x80042307
    VSS_E_OBJECT_NOT_FOUND = 0x80042308
    VSS_E_VOLUME_NOT_SUPPORTED = 0x8004230C
    VSS_E_OBJECT_ALREADY_EXISTS = 0x8004230D
    VSS_E_VOLUME_NOT_SUPPORTED_BY_PROVIDER = 0x8004230E
    VSS_E_UNEXPECTED_PROVIDER_ERROR = 0x8004230F
    VSS_E_CORRUPT_XML_DOCUMENT = 0x80042310
    VSS_E_INVALID_XML_DOCUMENT = 0x80042311
    VSS_E_MAXIMUM_NUMBER_OF_VOLUMES_REACHED = 0x80042312
    VSS_E_FLUSH_WRITES_TIMEOUT = 0x80042313
    VSS_E_HOLD_WRITES_TIMEOUT = 0x80042314
    VSS_E_UNEXPECTED_WRITER_ERROR = 0x80042315
    VSS_E_SNAPSHOT_SET_IN_PROGRESS = 0x80042316
    VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED = 0x80042317
    VSS_E_WRITER_INFRASTRUCTURE = 0x80042318
    VSS_E_WRITER_NOT_RESPONDING = 0x80042319
    VSS_E_WRITER_ALREADY_SUBSCRIBED = 0x8004231A
    VSS_E_UNSUPPORTED_CONTEXT = 0x8004231B
    VSS_E_VOLUME_IN_USE = 0x8004231D
    VSS_E_MAXIMUM_DIFFAREA_ASSOCIATIONS_REACHED = 0x8004231E
    VSS_E_INSUFFICIENT_STORAGE = 0x8004231F
    VSS_E_NO_SNAPSHOTS_IMPORTED = 0x80042320
    VSS_E_SOME_SNAPSHOTS_NOT_IMPORTED = 0x80042321
    VSS_E_MAXIMUM_NUMBER_OF_REMOTE_MACHINES_REACHED = 0x80042322
    VSS_E_REMOTE_SERVER_UNAVAILABLE = 0x80042323
    VSS_E_REMOTE_SERVER_UNSUPPORTED = 0x80042324
    VSS_E_REVERT_IN_PROGRESS = 0x80042325
    VSS_E_REVERT_VOLUME_LOST = 0x80042326
    VSS_E_REBOOT_REQUIRED = 0x80042327
    VSS_E_TRANSACTION_FREEZE_TIMEOUT = 0x80042328
    VSS_E_TRANSACTION_THAW_TIMEOUT = 0x80042329
    VSS_E_UNSELECTED_VOLUME = 0x8004232A
    VSS_E_SNAPSHOT_NOT_IN_SET = 0x8004232B
    VSS_E_NESTED_VOLUME_LIMIT = 0x8004232C
    VSS_E_VOLUME_NOT_LOCAL = 0x8004232D
    VSS_E_CLUSTER_TIMEOUT = 0x8004232E
    VSS_E_NOT_SUPPORTED = 0x8004232F
    VSS_E_WRITERERROR_PARTIAL_FAILURE = 0x80042336
    VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT = 0x800423F0
    VSS_E_WRITERERROR_OUTOFRESOURCES = 0x800423F1
    VSS_E_WRITERERROR_TIMEOUT = 0x800423F2
    VSS_E_WRITERERROR_RETRYABLE = 0x800423F3
    VSS_E_WRITERERROR_NONRETRYABLE = 0x800423F4
    VSS_E_WRITERERROR_RECOVERY_FAILED = 0x800423F5
    VSS_E_BREAK_REVERT_ID_FAILED = 0x800423F6
    VSS_E_LEGACY_PROVIDER = 0x800423F7
    VSS_E_MISSING_DISK = 0x800423F8
    VSS_E_MISSING_HIDDEN_VOLUME = 0x800423F9
    VSS_E_MISSING_VOLUME = 0x800423FA
    VSS_E_AUTORECOVERY_FAILED = 0x800423FB
    VSS_E_DYNAMIC_DISK_ERROR = 0x800423FC
    VSS_E_NONTRANSPORTABLE_BCD = 0x800423FD
    VSS_E_CANNOT_REVERT_DISKID = 0x800423FE
    VSS_E_RESYNC_IN_PROGRESS = 0x800423FF
    VSS_E_CLUSTER_ERROR = 0x80042400
    VSS_E_WRITER_STATUS_NOT_AVAILABLE = 0x80042409
    VSS_E_FSS_TIMEOUT = 0x80042417


_WITH_CODE = re.compile(r"(.*) \[(?:\w+ \()?0x([0-9A-F]{8})\)?\]\Z", re.ASCII | re.DOTALL)


def code_name(number: int) -> str:
    """The symbolic name of a code, or its number in hexadecimal where it has none here."""
    try:
        return Code(number).name
    except ValueError:
        return f"0x{number:08X}"


def describe(number: int) -> str:
    """Name and number together, as run books quote them: ``VSS_E_BAD_STATE (0x80042301)``."""
    name = code_name(number)
    return name if name.startswith("0x") else f"{name} (0x{number:08X})"


def split_code(sentence: str, otherwise: int) -> tuple[str, int]:
    """What ``str(VssError)`` of another process says: the message alone, and its code; ``otherwise`` without one."""
    found = _WITH_CODE.match(sentence)
    return (found[1], int(found[2], 16)) if found else (sentence, otherwise)


class VssError(Exception):
    """A refusal or failure: one sentence that names the object, the cause and the next step, and the VSS code."""

    def __init__(self, code: int, message: str, application_code: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.application_code = application_code

    def __str__(self) -> str:
        return f"{self.message} [{describe(self.code)}]"
