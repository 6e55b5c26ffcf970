"""One session with a running server, kept from prepare-snapshot to thaw.

The cut itself needs nothing of the server: the volumes of a set are cut at one instant, and PostgreSQL recovers from
any instant by its log. The checkpoint keeps that recovery short; the session proves that the server which was
prepared is the server that was cut. Nothing is locked, so a lost session releases nothing and holds nobody up.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, LiteralString

from shadowset.vss.codes import Code, VssError
from shadowset.writers.interrupting import interrupting, shut_down

try:
    import psycopg
except ImportError as missing:  # told when a writer starts, not when the module is looked at
    MISSING: ImportError | None = missing
else:
    MISSING = None

APPLICATION = "shadowset writer"
CONNECT_SECONDS = 5
RETRYABLE_CLASSES = ("08", "53", "57")  # connection, resources, operator intervention (SQLSTATE classes)


def require_driver() -> None:
    """Errors: VSS_E_NOT_SUPPORTED when the driver is not installed."""
    if MISSING is not None:
        message = f"the PostgreSQL driver is not there ({MISSING}); install it with pip install 'shadowset[postgresql]'"
        raise VssError(Code.VSS_E_NOT_SUPPORTED, message)


def translate(where: str, action: str, error: psycopg.Error) -> VssError:
    """PostgreSQL's error as the writer's: lost and busy servers may be tried again, the rest needs somebody's hand."""
    state = error.sqlstate or "08"
    text = " ".join(str(error).split()) or type(error).__name__
    if state[:2] in RETRYABLE_CLASSES:
        code, advice = Code.VSS_E_WRITERERROR_RETRYABLE, "see that the server runs, and try again"
    else:
        code, advice = Code.VSS_E_WRITERERROR_NONRETRYABLE, "give the writer's role what it lacks"
    return VssError(code, f"the server of {where} did not do {action} ({text}); {advice}")


class Server:
    """A session. One thread works with it; ``interrupt`` may come from any."""

    def __init__(self, connection_string: str, where: str = "") -> None:
        """Errors: VssError naming ``where`` (or the connection string, which holds no password in a good set-up)."""
        self.where = where or "the configured connection"
        self._facts: dict[str, str] = {}
        try:
            self._connection = psycopg.connect(
                connection_string, autocommit=True, application_name=APPLICATION, connect_timeout=CONNECT_SECONDS
            )
        except psycopg.Error as error:
            raise translate(self.where, "the log-in", error) from error
        try:
            self.data_directory: str = os.path.realpath(
                self._value("SHOW data_directory", "telling its data directory")
            )
            self.where = self.where if where else self.data_directory
        except BaseException:
            self.close()
            raise

    def _execute(self, statement: LiteralString, seconds: float) -> psycopg.Cursor[Any]:
        """The server ends the statement in time, and a server that does not answer at all loses its session."""
        with interrupting(seconds, self.interrupt):
            self._connection.execute(f"SET statement_timeout = {max(1, int(seconds * 1000))}".encode())
            return self._connection.execute(statement)

    def _value(self, statement: LiteralString, action: str, seconds: float = CONNECT_SECONDS) -> Any:
        try:
            row = self._execute(statement, seconds).fetchone()
        except psycopg.Error as error:
            raise translate(self.where, action, error) from error
        return row[0] if row else None

    def recovering(self) -> bool:
        """Whether the server is a standby, or is still being rolled forward."""
        return bool(self._value("SELECT pg_is_in_recovery()", "telling whether it recovers"))

    def facts(self) -> dict[str, str]:
        return self._facts

    def stamp(self) -> str:
        """Where in the log the copy is, at the latest, and on which time line."""
        before = self._facts.get("before", "")
        return f"{before} timeline {self._facts['timeline']}" if before else ""

    def prepare(self, seconds: float) -> None:
        """Writes a checkpoint, so that a start from the copy has little to recover.

        Errors: VSS_E_WRITERERROR_NONRETRYABLE when the role may not (pg_checkpoint); VSS_E_WRITERERROR_RETRYABLE when
        it takes longer than ``seconds``.
        """
        self._facts = {"method": "checkpoint and cut", **self.identity()}
        if self.recovering():
            return  # a standby writes restart points by itself
        try:
            self._execute("CHECKPOINT", seconds)
        except psycopg.Error as error:
            raise translate(self.where, "a checkpoint", error) from error

    def hold(self, seconds: float, window: float) -> None:
        self._facts["before"] = self.position(seconds)

    def release(self) -> None:
        self._facts["after"] = self.position()

    def position(self, seconds: float = CONNECT_SECONDS) -> str:
        """The position in the log up to which everything was written, as ``0/1A2B3C4D``. It writes nothing itself.

        Errors: VssError, also when the server was restarted or the session lost.
        """
        return str(
            self._value(
                "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END",
                "telling its position",
                seconds,
            )
        )

    def identity(self) -> dict[str, str]:
        """Version, system identifier and time line, for the backup's metadata."""
        system = self._value("SELECT system_identifier FROM pg_control_system()", "telling its identifier")
        timeline = self._value("SELECT timeline_id FROM pg_control_checkpoint()", "telling its time line")
        version = self._value("SHOW server_version", "telling its version")
        return {"server_version": str(version), "system": str(system), "timeline": str(timeline)}

    def databases(self) -> list[str]:
        """Databases that can be connected to."""
        names = self._value("SELECT array_agg(datname ORDER BY 1) FROM pg_database WHERE datallowconn", "listing")
        return list(names)

    def user_databases(self) -> list[str]:
        """Databases without templates."""
        names = self._value("SELECT array_agg(datname ORDER BY 1) FROM pg_database WHERE NOT datistemplate", "listing")
        return list(names or [])

    def interrupt(self) -> None:
        """Makes a call that hangs in another thread fail."""
        with contextlib.suppress(psycopg.Error):
            shut_down(self._connection.fileno())

    def close(self) -> None:
        """Ends the session."""
        with contextlib.suppress(psycopg.Error):
            self._connection.close()
