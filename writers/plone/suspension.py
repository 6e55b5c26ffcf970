"""The farm's writes, suspended from outside: RelStorage's own advisory locks, held by sessions of the writer's.

In each of Zope's databases lock -2 stands for packing and undoing, which then fail with a sentence, and -1 for
committing: whoever wants to commit waits, for as long as RelStorage's ``commit-lock-timeout`` says. Readers take
neither. The register's own lock has its triggers refuse changes. All of it goes with the sessions: when the writer
dies, and, by the server's ``idle_session_timeout``, when it hangs.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import psycopg
from psycopg.sql import SQL

from shadowset.vss.codes import Code, VssError
from shadowset.writers.interrupting import shut_down
from shadowset.writers.plone.register import ADMINISTRATION_LOCK, Database, Register, Session, read_register

COMMIT_LOCK, PACK_LOCK = -1, -2
CONNECT_SECONDS = 5
TURN_SECONDS = 0.5
APPLICATION = "shadowset farm writer"
RETRYABLE = Code.VSS_E_WRITERERROR_RETRYABLE


def connect(connection: str, database: str = "") -> Session:
    """A session that commits each statement. Errors: VSS_E_WRITERERROR_RETRYABLE naming the database."""
    options: dict[str, Any] = {"dbname": database} if database else {}
    try:
        return psycopg.connect(
            connection, autocommit=True, application_name=APPLICATION, connect_timeout=CONNECT_SECONDS, **options
        )
    except psycopg.Error as error:
        raise failed(database or "with its register", "takes no session", error) from error


def failed(database: str, what: str, error: psycopg.Error) -> VssError:
    """A database's error as the writer's."""
    words = " ".join(str(error).split()) or type(error).__name__
    return VssError(RETRYABLE, f"the farm's database {database} {what} ({words}); see that it runs, and try again")


class Suspension:
    """From prepare-snapshot to thaw. One thread works with it; ``close`` may come from any."""

    def __init__(self, connection: str) -> None:
        """Closes the farm's administration. Errors: VssError."""
        self._connection = connection
        self._register_session = connect(connection)
        self._sessions: dict[str, Session] = {}
        self.tids: dict[str, int] = {}
        try:
            self._close_administration()
            self.register: Register = read_register(self._register_session)
            for database in self.register.zope():
                self._sessions[database.name] = self._without_packing(database)
        except psycopg.Error as error:
            self.close()
            raise failed("with its register", "cannot be read", error) from error
        except BaseException:
            self.close()
            raise

    def _close_administration(self) -> None:
        self._register_session.execute(f"SET lock_timeout = {CONNECT_SECONDS * 1000}".encode())
        self._register_session.execute("SELECT pg_advisory_lock(%s)", (ADMINISTRATION_LOCK,))

    def _without_packing(self, database: Database) -> Session:
        session = connect(self._connection, database.database)
        try:
            free = session.execute("SELECT pg_try_advisory_lock(%s)", (PACK_LOCK,)).fetchone()
        except psycopg.Error as error:
            session.close()
            raise failed(database.database, "cannot be asked", error) from error
        if free != (True,):
            session.close()
            message = f"the farm's database {database.database} is being packed; try again when that is done"
            raise VssError(RETRYABLE, message)
        return session

    def hold(self, seconds: float, window: float) -> None:
        """No commit is under way when this returns, and none begins before ``release``.

        A transaction may take the locks of several databases, in an order that is not ours: who does not get all of
        them soon gives them back and asks again. Errors: VSS_E_WRITERERROR_RETRYABLE.
        """
        end = time.monotonic() + seconds
        try:
            while not self._hold_all():
                if time.monotonic() >= end:
                    message = "the farm's commits did not come to rest in time; lower its load and try again"
                    raise VssError(RETRYABLE, message)
            for name, session in self._sessions.items():
                row = session.execute("SELECT coalesce(max(tid), 0) FROM object_state").fetchone()
                self.tids[name] = int(row[0]) if row else 0
            for session in (self._register_session, *self._sessions.values()):
                session.execute(SQL("SET idle_session_timeout = {}").format(max(1, int(window * 1000))))
        except psycopg.Error as error:
            raise failed("with its register", "or another one cannot be held", error) from error

    def _hold_all(self) -> bool:
        taken = []
        for session in self._sessions.values():
            try:
                session.execute(SQL("SET lock_timeout = {}").format(int(TURN_SECONDS * 1000)))
                session.execute("SELECT pg_advisory_lock(%s)", (COMMIT_LOCK,))
                taken.append(session)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                for each in taken:
                    each.execute("SELECT pg_advisory_unlock(%s)", (COMMIT_LOCK,))
                return False
        return True

    def release(self) -> None:
        """Commits go on, and the administration opens. Errors: VSS_E_WRITERERROR_RETRYABLE when the hold was lost."""
        lost = []
        for name, session in self._sessions.items():
            try:
                if session.execute("SELECT pg_advisory_unlock(%s)", (COMMIT_LOCK,)).fetchone() != (True,):
                    lost.append(name)
            except psycopg.Error:
                lost.append(name)
        self.close()
        if lost:
            message = f"the farm's commits were not held until the end in {', '.join(lost)}; try again"
            raise VssError(RETRYABLE, message)

    def close(self) -> None:
        """Lets go of everything, whatever the state; never fails."""
        for session in (*self._sessions.values(), self._register_session):
            with contextlib.suppress(psycopg.Error):
                shut_down(session.fileno())
            with contextlib.suppress(psycopg.Error):
                session.close()
