"""What a guard is at work on, written down for the writer that comes after a guard that was killed.

The record's file is locked while its guard lives. Locks that nobody gives back are cleared, which is not the same as
releasing them, and is done for the dead alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.writers.groonga import http
from shadowset.writers.groonga.shell import LateError, Shell

PROBE_SECONDS = 2.0
CALL_SECONDS = 5.0
ROUNDS = 3


class Charge(msgspec.Struct):
    """What a guard is for."""

    database: str
    names: list[str]
    record: str = ""
    url: str = ""
    threads: int = 0
    threads_before: int = 0


def record_path(directory: str, database: str) -> str:
    """Where the record of a database lies."""
    return f"{directory}/{hashlib.sha256(database.encode()).hexdigest()[:16]}.json"


def open_record(charge: Charge) -> int:
    """The record's file, locked. Errors: VSS_E_WRITERERROR_RETRYABLE when another guard has it."""
    try:
        fd = os.open(charge.record, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        message = f"another writer is at work on {charge.database}; run one for each database, or try again"
        raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message) from error
    except OSError as error:
        message = f"the record {charge.record} cannot be written ({error.strerror}); look at its directory"
        raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message) from error
    return fd


def write_record(fd: int, charge: Charge) -> None:
    """Durably, in place of what stands there. Errors: OSError."""
    os.truncate(fd, 0)
    os.pwrite(fd, msgspec.json.encode(charge), 0)
    os.fsync(fd)


def restore_threads(charge: Charge) -> None:
    """Gives the server its own limit back; one that was started anew has it already."""
    if charge.threads_before:
        with contextlib.suppress(VssError):
            http.ask(charge.url, "thread_limit", CALL_SECONDS, max=str(charge.threads_before))


def clear_left(record: str) -> list[str]:
    """Clears the locks that a writer and its guard, both killed, have left; returns their names.

    A lock that can be had is nobody's; one that cannot for a while is what was left.
    Errors: VssError.
    """
    try:
        with open(record, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            content = file.read()
        charge = msgspec.json.decode(content, type=Charge) if content else Charge("", [])  # empty: nothing was held yet
    except (BlockingIOError, FileNotFoundError):
        return []  # its guard is at work, or was
    except (OSError, msgspec.DecodeError) as error:
        message = f"the record {record} of held locks cannot be read ({error}); remove it when grndb check is content"
        raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message) from error
    left: list[str] = []
    if os.path.exists(charge.database):
        for _ in range(ROUNDS):
            still = taken(charge.database, charge.names)
            if not still:
                break
            left = left or still
            clear(charge.database, still)
        restore_threads(charge)
    os.unlink(record)
    return left


def taken(database: str, names: list[str]) -> list[str]:
    """Those whose locks cannot be had. Errors: VssError."""

    def probe(name: str) -> bool:
        with Shell(database) as shell:
            try:
                shell.ask(f"lock_acquire --target_name {name}", PROBE_SECONDS)
                shell.ask(f"lock_release --target_name {name}", PROBE_SECONDS)
            except LateError:
                return True
            return False

    with ThreadPoolExecutor(min(16, len(names) or 1)) as threads:
        return [name for name, late in zip(names, threads.map(probe, names), strict=True) if late]


def clear(database: str, names: list[str]) -> None:
    """Backwards: a client that can go on finds nothing on its way that is cleared after it was taken.

    Errors: VssError.
    """
    with Shell(database) as shell:
        for name in reversed(names):
            shell.ask(f"lock_clear --target_name {name}", PROBE_SECONDS)
