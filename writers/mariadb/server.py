"""One session with a running server, which holds commits back over the cut.

MariaDB: BACKUP STAGE up to BLOCK_COMMIT. MySQL: LOCK INSTANCE FOR BACKUP (from 8.0), which holds changes of tables and
of files, then FLUSH TABLES WITH READ LOCK. All of them end with the session, and the session ends by the server's own
clock (``wait_timeout``) when the writer hangs. InnoDB would recover from any instant; tables of MyISAM and Aria, and
prepared distributed transactions, need this.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket as sockets
from typing import Any

from shadowset.vss.codes import Code, VssError
from shadowset.writers.interrupting import interrupting, shut_down
from shadowset.writers.mariadb.settings import MariadbServer

try:
    import pymysql
except ImportError as missing:  # told when a writer starts, not when the module is looked at
    MISSING: ImportError | None = missing
else:
    MISSING = None

CALL_SECONDS = 5.0
LOCK_WAIT_TIMEOUT, SERVER_GONE, SERVER_LOST = 1205, 2006, 2013
RETRYABLE = (LOCK_WAIT_TIMEOUT, SERVER_GONE, SERVER_LOST, 0, 2002, 2003, 1040, 1053)
NEW_STATUS_RELEASE = (8, 2)  # of MySQL, which has renamed its masters
BACKUP_LOCK_RELEASE = (8, 0)  # of MySQL
PLACES = (
    "innodb_data_home_dir",
    "innodb_log_group_home_dir",
    "innodb_undo_directory",
    "innodb_doublewrite_dir",
    "aria_log_dir_path",
)
CHECKED = "'InnoDB', 'MyISAM', 'Aria'"


def require_driver() -> None:
    """Errors: VSS_E_NOT_SUPPORTED when the driver is not installed."""
    if MISSING is not None:
        message = f"the MariaDB driver is not there ({MISSING}); install it with pip install 'shadowset[mariadb]'"
        raise VssError(Code.VSS_E_NOT_SUPPORTED, message)


def translate(where: str, action: str, error: Exception) -> VssError:
    """The server's error as the writer's: lost and busy servers may be tried again, the rest needs somebody's hand."""
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = " ".join(str(part) for part in error.args) or type(error).__name__
    if number in RETRYABLE or isinstance(error, OSError):
        code, advice = (
            Code.VSS_E_WRITERERROR_RETRYABLE,
            "see that the server runs and is not altering tables, and try again",
        )
    else:
        code, advice = Code.VSS_E_WRITERERROR_NONRETRYABLE, "give the writer's user what it lacks"
    return VssError(code, f"the server of {where} did not do {action} ({text}); {advice}", number)


def release_of(version: str) -> tuple[int, int]:
    """The release of a version such as ``8.4.2-log``; (0, 0) when it cannot be told."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


class Server:
    """A session. One thread works with it; ``interrupt`` may come from any."""

    def __init__(self, settings: MariadbServer, where: str = "") -> None:
        """Errors: VssError naming ``where`` or the socket."""
        self.where = where or settings.socket
        self._facts: dict[str, str] = {}
        self._holding = False
        self._read_lock = settings.read_lock
        self._socket = sockets.socket(sockets.AF_UNIX)
        self._connection = pymysql.Connection(
            unix_socket=settings.socket,
            user=settings.user or None,
            read_default_file=settings.option_file or None,
            defer_connect=True,
            autocommit=True,
        )
        try:
            with interrupting(CALL_SECONDS, self.interrupt):
                self._socket.connect(settings.socket)
                self._connection.connect(self._socket)
            self.data_directory = os.path.realpath(str(self.one("SELECT @@datadir", "telling its data directory")))
            self.version = str(self.one("SELECT VERSION()", "telling its version"))
        except (OSError, pymysql.Error) as error:
            self.close()
            raise translate(self.where, "the log-in", error) from error
        except BaseException:
            self.close()
            raise

    # --- calls

    def rows(self, statement: str, action: str, seconds: float = CALL_SECONDS) -> list[tuple[Any, ...]]:
        """What a statement answers. Errors: VssError."""
        try:
            with interrupting(seconds, self.interrupt), self._connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        except (OSError, pymysql.Error, AttributeError) as error:  # the driver forgets its socket when it loses it
            raise translate(self.where, action, error) from error

    def one(self, statement: str, action: str, seconds: float = CALL_SECONDS) -> Any:
        """The first value that a statement answers, or None. Errors: VssError."""
        rows = self.rows(statement, action, seconds)
        return rows[0][0] if rows else None

    @property
    def is_mariadb(self) -> bool:
        """Whether the server is MariaDB's and not MySQL's."""
        return "mariadb" in self.version.lower()

    @property
    def has_stages(self) -> bool:
        """Whether the server is to be held by BACKUP STAGE (MariaDB from 10.4)."""
        return self.is_mariadb and not self._read_lock

    @property
    def has_backup_lock(self) -> bool:
        """Whether the server has LOCK INSTANCE FOR BACKUP."""
        return not self.is_mariadb and release_of(self.version) >= BACKUP_LOCK_RELEASE

    def outside(self) -> list[tuple[str, str, bool]]:
        """Directories, binary log and MySQL's table spaces that lie outside the data directory. Errors: VssError."""
        found = []
        for name in PLACES:
            rows = self.rows(f"SHOW GLOBAL VARIABLES LIKE '{name}'", "telling its places")
            path = os.path.realpath(os.path.join(self.data_directory, rows[0][1] or "")) if rows else ""
            if path and not f"{path}/".startswith(f"{self.data_directory}/"):
                found.append((path, "*", True))
        binary_log = self.rows("SHOW GLOBAL VARIABLES LIKE 'log_bin_basename'", "telling its places")
        if binary_log and binary_log[0][1]:
            directory, name = os.path.split(os.path.realpath(binary_log[0][1]))
            if not f"{directory}/".startswith(f"{self.data_directory}/"):
                found.append((directory, f"{name}.*", False))
        return sorted({*found, *self._table_spaces()})

    def _table_spaces(self) -> list[tuple[str, str, bool]]:
        """Of MySQL from 8.0, where no file in the data directory tells of those outside it."""
        if not self.has_backup_lock:
            return []
        statement = "SELECT file_name FROM information_schema.files WHERE file_type IN ('TABLESPACE', 'UNDO LOG')"
        names = [str(row[0]) for row in self.rows(statement, "telling its files")]
        paths = [os.path.realpath(os.path.join(self.data_directory, name)) for name in names]
        outside = [path for path in paths if not path.startswith(f"{self.data_directory}/")]
        return [(os.path.dirname(path), os.path.basename(path), False) for path in outside]

    # --- over the cut

    def facts(self) -> dict[str, str]:
        return self._facts

    def stamp(self) -> str:
        return self._facts.get("binary_log", "")

    def prepare(self, seconds: float) -> None:
        """Waits for what would be in the way, and has MyISAM and Aria write what they hold in memory."""
        self._facts = {"method": self._method(), "version": self.version}
        self._limit_waits(seconds)
        if self.has_stages:
            self.rows("BACKUP STAGE START", "starting a backup", seconds)
            self._holding = True
            self.rows("BACKUP STAGE FLUSH", "flushing its tables", seconds)
        else:
            if self.has_backup_lock:
                self.rows("LOCK INSTANCE FOR BACKUP", "holding changes of tables", seconds)
                self._holding = True
            self.rows("FLUSH LOCAL TABLES", "flushing its tables", seconds)

    def _method(self) -> str:
        if self.has_stages:
            return "backup stages"
        return "backup lock and global read lock" if self.has_backup_lock else "global read lock"

    def hold(self, seconds: float, window: float) -> None:
        self._limit_waits(seconds)
        self.rows(f"SET SESSION wait_timeout = {math.ceil(window) + 1}", "limiting the hold")
        if self.has_stages:
            self.rows("BACKUP STAGE BLOCK_DDL", "holding changes of tables", seconds)
            self.rows("BACKUP STAGE BLOCK_COMMIT", "holding commits", seconds)
        else:
            self.rows("FLUSH TABLES WITH READ LOCK", "holding commits", seconds)
            self._holding = True
        self._note_position()

    def _limit_waits(self, seconds: float) -> None:
        self.rows(f"SET SESSION lock_wait_timeout = {max(1, int(seconds))}", "limiting its waits")

    def _note_position(self) -> None:
        """Where a replica that starts from the copy goes on; empty without a binary log."""
        renamed = not self.is_mariadb and release_of(self.version) >= NEW_STATUS_RELEASE
        status = self.rows(f"SHOW {'BINARY LOG' if renamed else 'MASTER'} STATUS", "telling its position")
        if status:
            self._facts["binary_log"] = f"{status[0][0]}:{status[0][1]}"
        if status:
            name = "gtid_binlog_pos" if self.is_mariadb else "global.gtid_executed"
            position = str(self.one(f"SELECT @@{name}", "telling its position") or "")
            self._facts["gtid"] = "".join(position.split())  # MySQL breaks the lines of long ones

    def release(self) -> None:
        """Errors: VssError when the session, and so the hold, was lost before."""
        self._holding = False
        self.rows("BACKUP STAGE END" if self.has_stages else "UNLOCK TABLES", "letting commits go on")
        if self.has_backup_lock:
            self.rows("UNLOCK INSTANCE", "letting changes of tables go on")

    def interrupt(self) -> None:
        """Makes a call that hangs in another thread fail; the server lets go when it notices."""
        shut_down(self._socket.fileno())

    def close(self) -> None:
        """Ends the session, and with it every hold."""
        if self._holding:
            with contextlib.suppress(VssError):
                self.release()
        with contextlib.suppress(OSError, pymysql.Error):
            self._connection.close()
        self._socket.close()

    # --- after a restore

    def damaged_tables(self, ends: float, now: Any) -> list[str]:
        """What the server's own check finds in its tables, in words; tables that time does not suffice for too."""
        tables = self.rows(
            "SELECT table_schema, table_name FROM information_schema.tables"
            f" WHERE table_type = 'BASE TABLE' AND engine IN ({CHECKED}) ORDER BY 1, 2",
            "listing its tables",
        )
        problems: list[str] = []
        for schema, name in tables:
            if now() >= ends:
                return [*problems, f"time was too short to check `{schema}`.`{name}` and what follows"]
            quoted = ".".join("`" + str(part).replace("`", "``") + "`" for part in (schema, name))
            words = self.rows(f"CHECK TABLE {quoted}", "checking a table", max(CALL_SECONDS, ends - now()))
            problems += [f"{row[0]}: {row[3]}" for row in words if row[2] in ("error", "warning")]
        return problems
