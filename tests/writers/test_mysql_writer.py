"""The MariaDB writer with MySQL itself: its own lock, its own positions, its own places."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pymysql", reason="not installed: PyMySQL")

import mysql_server
import pymysql
from mariadb_server import writer_config
from mariadb_trials import check_long_statement, check_restore, chosen, freeze
from mysql_server import MySql

from shadowset.vss.enums import WriterEvent

E = WriterEvent
LOCK_WAIT_TIMEOUT = 1205
pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server() -> Iterator[MySql]:
    if os.geteuid() or mysql_server.missing():
        pytest.skip(f"not there: root, or {mysql_server.missing()}")
    top = tempfile.mkdtemp(prefix="ss-my-", dir="/tmp")
    made = None
    try:
        os.mkdir(f"{top}/far")
        made = MySql(f"{top}/data", f"{top}/run", f"{top}/logs/binary", f"{top}/far")
        made.fill()
        made.sql(
            "CREATE USER backup@localhost",
            "GRANT RELOAD, PROCESS, BACKUP_ADMIN, REPLICATION CLIENT, SELECT ON *.* TO backup@localhost",
        )
        made.sql(f"CREATE TABLE far (id INT PRIMARY KEY) DATA DIRECTORY = '{top}/far'", database="bank")
        yield made
    finally:
        if made is not None:
            made.end()
        shutil.rmtree(top, ignore_errors=True)


@pytest.fixture
def side(server: MySql, processes: Any, coordinator: Any, tmp_path: Path) -> Any:
    config = Path(writer_config(str(tmp_path / "mysql.toml"), server))
    config.write_text(config.read_text().replace('user = "root"', 'user = "backup"'))  # with the rights of the page
    process = processes.start("-m", "shadowset.writers.mariadb.main", "--config", str(config))
    found = coordinator.writer()
    found.process = process
    return found


def waits(server: MySql, statement: str) -> bool:
    """Whether a statement runs into somebody's lock."""
    try:
        server.sql("SET SESSION lock_wait_timeout = 1", statement, database="bank")
    except pymysql.OperationalError as error:
        assert error.args[0] == LOCK_WAIT_TIMEOUT, error
        return True
    return False


def test_tables_elsewhere_belong_to_the_server(side: Any, server: MySql) -> None:
    (component,) = side.ok(E.IDENTIFY).metadata.components
    top = os.path.dirname(server.data)
    assert [(files.path, files.filespec) for files in component.files] == [
        (server.data, "*"),
        (f"{top}/far/bank", "far.ibd"),
        (f"{top}/logs", "binary.*"),
    ]


def test_its_own_locks_are_held_in_turn(side: Any, server: MySql) -> None:
    side.ok(E.PREPARE_BACKUP, components=chosen(server))
    side.ok(E.PREPARE_SNAPSHOT)
    assert waits(server, "CREATE TABLE late (id INT)"), "changes of tables wait from prepare-snapshot on"
    assert not waits(server, "INSERT INTO money (x) VALUES (1)"), "commits do not wait yet"
    side.ok(E.FREEZE)
    count = server.counts()[0]
    gtid = server.sql("SELECT @@global.gtid_executed")[0][0]
    assert waits(server, "INSERT INTO money (x) VALUES (1)") and waits(server, "INSERT INTO notes (x) VALUES (1)")
    client = threading.Thread(target=server.sql, args=("INSERT INTO bank.money (x) VALUES (2)",))
    client.start()
    assert server.counts()[0] == count, "reading goes on"
    side.ok(E.THAW)
    client.join(60)
    assert not client.is_alive() and server.counts()[0] == count + 1
    assert not waits(server, "CREATE TABLE late (id INT)")
    (component,) = side.ok(E.POST_SNAPSHOT, components=chosen(server)).components
    facts = json.loads(component.backup_metadata)
    assert facts["method"] == "backup lock and global read lock"
    assert (facts["gtid"], gtid != "") == (gtid, True)
    assert component.backup_stamp == facts["binary_log"]


def test_a_killed_writer_holds_nobody_up(side: Any, server: MySql) -> None:
    freeze(side, server)
    side.process.kill()
    server.sql("INSERT INTO bank.money (x) VALUES (1)", "CREATE TABLE bank.after_the_writer (id INT)")


def test_a_long_statement_makes_the_freeze_fail_in_time(side: Any, server: MySql) -> None:
    check_long_statement(side, server)
    assert not waits(server, "CREATE TABLE after_the_failure (id INT)"), "the backup lock went with the failure"


def test_a_destroyed_server_comes_back_checked(side: Any, server: MySql, tmp_path: Path) -> None:
    check_restore(side, server, str(tmp_path / "cut"))
