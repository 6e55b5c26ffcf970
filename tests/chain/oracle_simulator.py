"""What an Oracle database answers to the few statements of a backup, as a driver module; the DSN is its state's file.

The state outlives its sessions, as backup mode does. Anything that the product would not take here is an error with the
product's number, and so is any statement that is not known.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

AUTH_MODE_SYSBACKUP = 131072


class Error(Exception):
    """As PEP 249 has it."""


class DatabaseError(Error):
    """ORA-…"""


def create(dsn: str, top: Path, archiving: bool = True, mode: str = "READ WRITE") -> None:
    """A database with two tablespaces, in files below ``top``."""
    (top / "arch").mkdir(parents=True)
    (top / "copies").mkdir()
    files = {"SYSTEM": [f"{top}/system01.dbf"], "USERS": [f"{top}/users01.dbf", f"{top}/users02.dbf"]}
    for name in ("control01.ctl", "spfile.ora", "redo01.log", "system01.dbf", "users01.dbf", "users02.dbf"):
        (top / name).write_text(name)
    state = {
        "name": "SHOP", "dbid": 123456, "log_mode": "ARCHIVELOG" if archiving else "NOARCHIVELOG", "open_mode": mode,
        "scn": 1000, "sequence": 7, "files": files, "backup": [], "archived": {}, "top": str(top), "said": [],
    }  # fmt: skip
    Path(dsn).write_text(json.dumps(state))


@contextmanager
def state_of(dsn: str) -> Iterator[dict[str, Any]]:
    """The state, for one at a time; what is changed stays."""
    with open(dsn, "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        state = json.load(file)
        yield state
        file.seek(0)
        file.truncate()
        json.dump(state, file)


def connect(*, user: str | None, password: str | None, dsn: str, mode: int) -> Connection:
    if mode != AUTH_MODE_SYSBACKUP:
        raise DatabaseError("ORA-01031: insufficient privileges")
    if not os.path.exists(dsn):
        raise DatabaseError("ORA-12541: TNS:no listener")
    if password not in (None, "secret"):
        raise DatabaseError("ORA-01017: invalid username/password; logon denied")
    return Connection(dsn)


class Connection:
    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def cursor(self) -> Cursor:
        return Cursor(self.dsn)

    def close(self) -> None:
        """Backup mode stays."""


class Cursor:
    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._rows: list[tuple[Any, ...]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, where: TracebackType | None) -> None:
        self._rows = []

    def execute(self, statement: str, values: Any = ()) -> None:
        if not os.path.exists(self._dsn):
            raise DatabaseError("ORA-03113: end-of-file on communication channel")
        with state_of(self._dsn) as state:
            state["scn"] += 1
            state["said"].append(statement)
            self._rows = answer(state, " ".join(statement.split()), tuple(values))

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows


def answer(state: dict[str, Any], statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    files = [(space, path) for space, paths in sorted(state["files"].items()) for path in paths]
    if copy := re.fullmatch(r"ALTER DATABASE BACKUP CONTROLFILE TO '([^']+)' REUSE", statement):
        Path(copy[1]).write_text(json.dumps({"sequence": state["sequence"], "archived": state["archived"]}))
        return []
    changes = {
        "ALTER DATABASE BEGIN BACKUP": begin,
        "ALTER DATABASE END BACKUP": end,
        "ALTER SYSTEM ARCHIVE LOG CURRENT": archive,
    }
    if statement in changes:
        changes[statement](state)
        return []
    first, last = values if len(values) == 2 else (0, 0)
    archived = [(path,) for number, path in state["archived"].items() if first <= int(number) <= last]
    tables = {
        "SELECT name, dbid, log_mode, open_mode, current_scn FROM v$database": [
            (state["name"], state["dbid"], state["log_mode"], state["open_mode"], state["scn"])
        ],
        "SELECT t.name, f.name FROM v$datafile f JOIN v$tablespace t ON t.ts# = f.ts# ORDER BY 1, 2": files,
        "SELECT name FROM v$controlfile ORDER BY 1": [(f"{state['top']}/control01.ctl",)],
        "SELECT value FROM v$parameter WHERE name = 'spfile'": [(f"{state['top']}/spfile.ora",)],
        "SELECT destination FROM v$archive_dest WHERE status = 'VALID' AND target = 'PRIMARY' ORDER BY 1": [
            (f"{state['top']}/arch",)
        ],
        "SELECT COUNT(*) FROM v$backup WHERE status = 'ACTIVE'": [(len(state["backup"]),)],
        "SELECT MAX(sequence#) FROM v$log WHERE status = 'CURRENT'": [(state["sequence"],)],
        "SELECT name FROM v$archived_log WHERE sequence# BETWEEN :1 AND :2 AND name IS NOT NULL ORDER BY 1": archived,
    }
    if statement not in tables:
        raise DatabaseError("ORA-00900: invalid SQL statement")
    return tables[statement]


def begin(state: dict[str, Any]) -> None:
    if state["open_mode"] != "READ WRITE":
        raise DatabaseError("ORA-01109: database not open")
    if state["log_mode"] != "ARCHIVELOG":
        raise DatabaseError("ORA-01123: cannot start online backup; media recovery not enabled")
    if state["backup"]:
        raise DatabaseError("ORA-01146: cannot start online backup - file 1 is already in backup")
    state["backup"] = [path for paths in state["files"].values() for path in paths]


def end(state: dict[str, Any]) -> None:
    if not state["backup"]:
        raise DatabaseError("ORA-01142: cannot end online backup - none of the files are in backup")
    state["backup"] = []


def archive(state: dict[str, Any]) -> None:
    if state["log_mode"] != "ARCHIVELOG":
        raise DatabaseError("ORA-00258: manual archiving in NOARCHIVELOG mode must identify log")
    path = f"{state['top']}/arch/1_{state['sequence']}.arc"
    Path(path).write_text(str(state["scn"]))
    state["archived"][str(state["sequence"])] = path
    state["sequence"] += 1
