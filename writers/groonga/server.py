"""One database over the cut: its locks held by the guard, its memory flushed by the server that has it open.

Under the locks clients that load or delete wait, and searches go on. The flush is the server's own: only that process
can take back the mark by which ``grndb check`` tells a database that was not closed. New tables and columns wait for
no lock of others; when one comes while the locks are held, the writer fails.
"""

from __future__ import annotations

import time
from typing import Any

from shadowset.vss.codes import Code, VssError
from shadowset.writers.groonga import http
from shadowset.writers.groonga.files import user_of, uses
from shadowset.writers.groonga.guard import Guard
from shadowset.writers.groonga.order import Tables, lock_order
from shadowset.writers.groonga.record import Charge
from shadowset.writers.groonga.settings import GroongaServer
from shadowset.writers.groonga.shell import Shell

CALL_SECONDS = 5.0
THREADS = 512


class Server:
    """A database that somebody has open. ``Held`` of the server writer."""

    def __init__(self, settings: GroongaServer, database: str, record: str, settle_seconds: float) -> None:
        """Errors: VssError."""
        self.database = database
        self._url = settings.url
        self._settle = settle_seconds
        self._process = user_of(database)
        with Shell(database) as shell:
            tables = schema(shell)
        self._first, self._rest = lock_order(tables)
        self._facts: dict[str, str] = {}
        self._stamp = ""
        self._guard = Guard(Charge(database, self._first + self._rest, record, settings.url, THREADS))

    def facts(self) -> dict[str, str]:
        return self._facts

    def stamp(self) -> str:
        return self._stamp

    def prepare(self, seconds: float) -> None:
        """A flush, so that the one under the locks is short. Errors: VssError."""
        self._flush(time.monotonic() + seconds)

    def hold(self, seconds: float, window: float) -> None:
        end = time.monotonic() + seconds
        if self._first:
            self._guard.acquire(self._first, end - time.monotonic(), window)
            time.sleep(min(self._settle, seconds / 2))
        if self._rest:
            self._guard.acquire(self._rest, end - time.monotonic(), window)
        self._flush(end)
        with Shell(self.database) as shell:
            if names_of(schema(shell)) != set(self._first + self._rest):
                raise self._changed()
            records = counts(shell, self.database)
        self._stamp = stamp_of(records)
        self._facts = {"method": "locked and flushed" if self._url else "locked", "records": self._stamp}

    def _flush(self, end: float) -> None:
        if not self._url:
            return
        for name in self._first + self._rest:
            http.ask(self._url, "io_flush", end - time.monotonic(), target_name=name, recursive="no")
        http.ask(self._url, "io_flush", end - time.monotonic(), recursive="no")

    def _changed(self) -> VssError:
        message = f"tables or columns of {self.database} came or went amid the creation; try again"
        return VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)

    def release(self) -> None:
        """Errors: VssError when the tables changed under the locks, or the server did."""
        self._guard.release()
        with Shell(self.database) as shell:
            if names_of(schema(shell)) != set(self._first + self._rest):
                raise self._changed()
        if self._process and not uses(self._process, self.database):
            message = (
                f"the process {self._process} that had {self.database} open let go of it amid the creation; try again"
            )
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)

    def interrupt(self) -> None:
        """Has the guard release everything at once."""
        self._guard.drop()

    def close(self) -> None:
        """The same, and waits for it."""
        try:
            self._guard.close()
        except VssError:
            return  # it has told its own log


def schema(shell: Shell) -> Tables:
    """All tables and columns. Errors: VssError."""
    found: Tables = shell.ask("schema", CALL_SECONDS)["tables"]
    return found


def names_of(tables: Tables) -> set[str]:
    """Tables and columns by the names that can be locked."""
    return {name for part in lock_order(tables) for name in part}


def counts(shell: Shell, database: str) -> dict[str, int]:
    """How many records each table has. Errors: VssError."""
    found = {}
    for name in sorted(schema(shell)):
        about: dict[str, Any] = shell.ask(f"object_inspect {name}", CALL_SECONDS)
        found[name] = int(about["n_records"])
    return found


def stamp_of(records: dict[str, int]) -> str:
    """The counts as a backup stamp."""
    return " ".join(f"{name}={number}" for name, number in records.items())
