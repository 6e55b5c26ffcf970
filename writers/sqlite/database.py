"""One database of another application, held still from outside.

Recipe: ``BEGIN IMMEDIATE`` takes the writer's lock, so other processes read on and their writers wait (their busy
time-out must be longer than the hold). A WAL database is checkpointed through a second connection while the lock is
held, which leaves little in the log. The locks vanish with the process, so a killed writer holds nobody up.

POSIX locks belong to the process and are lost when *any* descriptor of the file is closed: nothing in a process that
uses this module may open these files by itself. Everything here goes through SQLite, which knows about that.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from urllib.parse import quote

from shadowset.vss.codes import Code, VssError
from shadowset.writers.sqlite.holders import write_lock_holders
from shadowset.writers.sqlite.naming import SIDE_FILES

POLL_SECONDS = 0.05


def connect(path: str, busy_seconds: float, mode: str = "rw") -> sqlite3.Connection:
    """Opens an existing database without beginning anything. Usable from any thread, by one at a time."""
    return sqlite3.connect(
        f"file:{quote(path)}?mode={mode}", uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False
    )


def translate(path: str, action: str, error: sqlite3.Error) -> VssError:
    """SQLite's error as the writer's: what is busy may be tried again, everything else needs somebody's hand."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        who = " and ".join(map(str, write_lock_holders(path))) or "its writer"
        message = f"the database {path} is busy, so {action} failed ({error}); try again when {who} is done"
        return VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message, code)
    message = f"the database {path} does not let {action} happen ({error}); check the file and its permissions"
    return VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message, code)


class HeldDatabase:
    """The connections to one database between prepare-snapshot and thaw."""

    def __init__(self, path: str, busy_seconds: float) -> None:
        """Errors: VssError when the database cannot be opened."""
        self.path = path
        self._holder: sqlite3.Connection | None = None
        self._helper: sqlite3.Connection | None = None
        try:
            self._holder = connect(path, busy_seconds)
            self.wal = self._holder.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
            self._helper = connect(path, busy_seconds) if self.wal else None
        except sqlite3.Error as error:
            self.close()
            raise translate(path, "opening", error) from error

    def checkpoint(self) -> None:
        """Moves what it can from the log to the database without waiting for anybody; best effort."""
        if self.wal and self._helper is not None:
            with contextlib.suppress(sqlite3.Error):
                self._helper.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def hold(self, busy_seconds: float) -> None:
        """Takes the writer's lock, waiting for it no longer than ``busy_seconds``.

        Errors: VSS_E_WRITERERROR_RETRYABLE when another writer keeps it; VSS_E_WRITERERROR_NONRETRYABLE.
        """
        assert self._holder is not None
        try:
            self._holder.execute(f"PRAGMA busy_timeout = {max(1, int(busy_seconds * 1000))}")
            self._holder.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise translate(self.path, "holding its writers", error) from error

    def release(self) -> None:
        """Lets the writers go on; nothing was changed."""
        if self._holder is not None and self._holder.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._holder.execute("ROLLBACK")

    def close(self) -> None:
        """Releases, and lets go of the file."""
        self.release()
        for connection in (self._helper, self._holder):
            if connection is not None:
                connection.close()
        self._helper = self._holder = None


def wait_until_free(path: str, cancelled: Callable[[], bool], busy_seconds: float) -> None:
    """Waits until no other process has the database locked (WAL: open).

    A file that is missing or is no database any more is free: it is about to be replaced.
    Errors: VSS_E_WRITERERROR_RETRYABLE when it stays in use.
    """
    end = time.monotonic() + busy_seconds
    while os.path.exists(path):
        error = _try_exclusive(path)
        if error is None or error.code != Code.VSS_E_WRITERERROR_RETRYABLE:
            return
        if cancelled() or time.monotonic() >= end:
            message = f"the database {path} is in use by another process; stop its application and restore again"
            raise VssError(error.code, message, error.application_code)
        time.sleep(POLL_SECONDS)


def _try_exclusive(path: str) -> VssError | None:
    connection = None
    try:
        connection = connect(path, 0.0)
        # in WAL mode only this makes BEGIN EXCLUSIVE notice connections that are merely open
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        return translate(path, "an exclusive lock", error)
    finally:
        if connection is not None:
            connection.close()
    return None


def remove_side_files(path: str) -> list[str]:
    """Removes log, shared memory and journal of the old database; returns what was there.

    SQLite would take a log or journal that lies beside a restored database for its own, and play pages of the lost
    database into it: the restored database would be corrupt without any message.
    Errors: VSS_E_WRITERERROR_NONRETRYABLE.
    """
    removed = []
    for suffix in SIDE_FILES:
        try:
            os.unlink(path + suffix)
        except FileNotFoundError:
            continue
        except OSError as error:
            message = f"{path}{suffix} would spoil the restored database and cannot be removed ({error.strerror})"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, f"{message}; remove it", error.errno or 0) from error
        removed.append(path + suffix)
    return removed


def integrity_problem(path: str) -> str:
    """What SQLite's own check finds wrong with a database, in one sentence; empty when it is sound."""
    if not os.path.exists(path):
        return f"the database {path} is missing after the restore"
    connection = None
    try:
        # with a log, a connection that could write would put it into the database and remove it when it closes
        connection = connect(path, 5.0, "ro" if os.path.exists(f"{path}-wal") else "rw")
        rows = connection.execute("PRAGMA integrity_check(3)").fetchall()
    except sqlite3.Error as error:
        return f"the database {path} cannot be read after the restore: {error}"
    finally:
        if connection is not None:
            connection.close()
    if rows == [("ok",)]:
        return ""
    return f"the database {path} is not sound after the restore: {'; '.join(row[0] for row in rows)}"
