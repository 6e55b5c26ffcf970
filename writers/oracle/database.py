"""One database and all that is ever said to it. The statements are the seam: a driver has to carry these, no others.

Backup mode is no lock: the database works on, and writes whole blocks to its log instead of parts. It does not end with
the session that began it, so a guard ends it in place of a writer that died.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.writers.oracle.settings import Database

STATE = "SELECT name, dbid, log_mode, open_mode, current_scn FROM v$database"
DATA_FILES = "SELECT t.name, f.name FROM v$datafile f JOIN v$tablespace t ON t.ts# = f.ts# ORDER BY 1, 2"
CONTROL_FILES = "SELECT name FROM v$controlfile ORDER BY 1"
PARAMETER_FILE = "SELECT value FROM v$parameter WHERE name = 'spfile'"
ARCHIVES = "SELECT destination FROM v$archive_dest WHERE status = 'VALID' AND target = 'PRIMARY' ORDER BY 1"
IN_BACKUP = "SELECT COUNT(*) FROM v$backup WHERE status = 'ACTIVE'"
SEQUENCE = "SELECT MAX(sequence#) FROM v$log WHERE status = 'CURRENT'"
ARCHIVED = "SELECT name FROM v$archived_log WHERE sequence# BETWEEN :1 AND :2 AND name IS NOT NULL ORDER BY 1"
BEGIN = "ALTER DATABASE BEGIN BACKUP"
END = "ALTER DATABASE END BACKUP"
ARCHIVE = "ALTER SYSTEM ARCHIVE LOG CURRENT"
COPY_CONTROL_FILE = "ALTER DATABASE BACKUP CONTROLFILE TO '{path}' REUSE"
CLOSED = ("MOUNTED", "READ ONLY")


class Facts(msgspec.Struct, frozen=True):
    """What a database is."""

    name: str
    identity: str
    archiving: bool
    mode: str
    scn: int

    @property
    def quiet(self) -> bool:
        """Whether nobody writes its files."""
        return self.mode in CLOSED


class Session:
    """A connection as SYSBACKUP."""

    def __init__(self, settings: Database) -> None:
        """Errors: VssError naming the database."""
        self.settings = settings
        try:
            self._driver: Any = importlib.import_module(settings.driver)
        except ImportError as error:
            message = f"the driver {settings.driver} for {settings.dsn} is not there ({error}); install it"
            raise VssError(Code.VSS_E_NOT_SUPPORTED, message) from error
        try:
            password = Path(settings.password_file).read_text().strip() if settings.password_file else None
            self._connection = self._driver.connect(
                user=settings.user or None,
                password=password,
                dsn=settings.dsn,
                mode=self._driver.AUTH_MODE_SYSBACKUP,
            )
        except (OSError, self._driver.Error) as error:
            raise self._lost("take the log-in", error) from error

    def _lost(self, what: str, error: Exception) -> VssError:
        words = " ".join(str(error).split())
        message = f"the database {self.settings.dsn} did not {what} ({words}); see its alert log, and try again"
        return VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows. Errors: VssError."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(query, values)
                return list(cursor.fetchall())
        except self._driver.Error as error:
            raise self._lost("answer a question", error) from error

    def tell(self, statement: str) -> None:
        """A statement without rows. Errors: VssError."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement)
        except self._driver.Error as error:
            raise self._lost(f"carry out {statement}", error) from error

    def close(self) -> None:
        """Ends the connection; never fails."""
        try:
            self._connection.close()
        except self._driver.Error:
            pass  # it was lost before

    def facts(self) -> Facts:
        """What it is now. Errors: VssError."""
        name, identity, log_mode, open_mode, scn = self.ask(STATE)[0]
        return Facts(str(name), str(identity), log_mode == "ARCHIVELOG", str(open_mode), int(scn or 0))

    def column(self, query: str, *values: Any) -> Sequence[str]:
        """The first column. Errors: VssError."""
        return [str(row[0]) for row in self.ask(query, *values) if row[0]]

    def files_in_backup(self) -> int:
        """How many data files are in backup mode. Errors: VssError."""
        return int(self.ask(IN_BACKUP)[0][0])

    def sequence(self) -> int:
        """Number of the log that is being written. Errors: VssError."""
        return int(self.ask(SEQUENCE)[0][0] or 0)
