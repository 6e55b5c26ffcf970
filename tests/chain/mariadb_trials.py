"""What the MariaDB writer must do with any server, played by a coordinator that does what a test tells it."""

from __future__ import annotations

import shutil
import signal
import subprocess
from typing import Any

from mariadb_server import MariaDb

from shadowset.vss.codes import Code
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, FileRestoreStatus, WriterEvent
from shadowset.writers.mariadb.files import server_process
from shadowset.writers.naming import component_identity

E = WriterEvent


def chosen(server: MariaDb, **fields: Any) -> list[Component]:
    return [Component(ComponentType.FILEGROUP, *component_identity(server.data), **fields)]


def freeze(side: Any, server: MariaDb, **fields: Any) -> None:
    side.ok(E.PREPARE_BACKUP, components=chosen(server))
    side.ok(E.PREPARE_SNAPSHOT)
    side.ok(E.FREEZE, **fields)


def check_long_statement(side: Any, server: MariaDb) -> None:
    """A table that somebody has locked makes the freeze fail in time, and only that one."""
    side.ok(E.PREPARE_BACKUP, components=chosen(server))
    with server.connect(database="bank") as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES notes WRITE")
        answer = side.ask(E.PREPARE_SNAPSHOT, deadline_ms=4000)
        if not answer.veto:
            answer = side.ask(E.FREEZE, deadline_ms=4000)
        assert answer.veto
        assert answer.code == Code.VSS_E_WRITERERROR_RETRYABLE
        cursor.execute("UNLOCK TABLES")
    side.ok(E.ABORT)
    freeze(side, server)  # and it is as before
    side.ok(E.THAW)
    side.ok(E.ABORT)


def check_restore(side: Any, server: MariaDb, cut: str) -> None:
    """A destroyed server comes back, and a table that is not sound is named."""
    counts = server.counts()
    server.end(signal.SIGTERM)  # a plain directory cannot be cut at one instant while its server works
    subprocess.run(["cp", "-a", server.data, cut], check=True)
    server.begin()
    server.sql("DELETE FROM bank.money", f"DROP TABLE bank.{server.tables[-1][0]}")
    wanted = chosen(server, selected_for_restore=True)
    side.ok(E.PRE_RESTORE, components=wanted, deadline_ms=120_000)
    assert server_process(server.data) == 0
    shutil.rmtree(server.data)
    subprocess.run(["cp", "-a", cut, server.data], check=True)
    wanted[0].file_restore_status = FileRestoreStatus.ALL
    side.ok(E.POST_RESTORE, components=wanted, deadline_ms=120_000)
    assert server.counts() == counts

    side.ok(E.PRE_RESTORE, components=wanted, deadline_ms=120_000)
    with open(f"{server.data}/bank/notes.MYD", "r+b") as file:
        file.truncate(10)
    answer = side.ask(E.POST_RESTORE, components=wanted, deadline_ms=120_000)
    assert answer.code == Code.VSS_E_WRITERERROR_RECOVERY_FAILED
    assert "bank.notes" in answer.message
