"""A MariaDB server of a test's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pymysql
from processes import wait_for_end

from shadowset.writers.mariadb.files import server_process

OWNER = "nobody"
TABLES = (("money", "InnoDB"), ("notes", "MyISAM"), ("marks", "Aria"))


def installed() -> bool:
    return bool(shutil.which("mariadbd") and shutil.which("mariadb-install-db"))


class MariaDb:
    """The server of the data directory ``data``; socket and log lie in ``runtime``."""

    owner = OWNER
    tables = TABLES

    def __init__(self, data: str, runtime: str, binary_log: str = "") -> None:
        """Makes the data directory unless it is there, and starts the server."""
        self.data, self.runtime = data, runtime
        self.socket = f"{runtime}/s"
        self.binary_log = binary_log or f"{data}/binlog"
        for directory in (runtime, data, os.path.dirname(self.binary_log)):
            os.makedirs(directory, exist_ok=True)
            shutil.chown(directory, self.owner)
        if not os.path.exists(f"{data}/ibdata1"):
            self._make()
        self.script = f"{runtime}/start"
        Path(self.script).write_text(
            f"#!/bin/sh\n{self._program()} --datadir={data} --socket={self.socket}"
            f" --skip-networking --log-bin={self.binary_log} --server-id=1"
            f" --innodb-buffer-pool-size=16M --pid-file={runtime}/pid >>{runtime}/log 2>&1 &\n"
        )
        os.chmod(self.script, 0o755)
        self.begin()

    def _program(self) -> str:
        return f"/usr/sbin/mariadbd --no-defaults --user={OWNER} --innodb-log-file-size=8M"

    def _make(self) -> None:
        made = subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--user={OWNER}", f"--datadir={self.data}", "--skip-test-db",
             "--auth-root-authentication-method=socket", "--skip-name-resolve"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr

    def begin(self) -> None:
        subprocess.run([self.script], check=True)
        self.wait_for_sessions()

    def wait_for_sessions(self) -> None:
        end = time.monotonic() + 120
        while True:
            try:
                self.sql("SELECT 1")
            except pymysql.Error:
                assert time.monotonic() < end, Path(f"{self.runtime}/log").read_text()
                time.sleep(0.05)
            else:
                return

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        pid = server_process(self.data)
        if pid > 0:
            os.kill(pid, number)
            wait_for_end(pid)
            assert not server_process(self.data)

    def connect(self, **options: Any) -> pymysql.Connection[Any]:
        return pymysql.connect(unix_socket=self.socket, user="root", autocommit=True, **options)

    def sql(self, *statements: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """What the last statement answers."""
        with self.connect(database=database) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def fill(self) -> None:
        self.sql("CREATE DATABASE bank")
        for name, engine in self.tables:
            self.sql(
                f"CREATE TABLE {name} (id INT AUTO_INCREMENT PRIMARY KEY, x BIGINT) ENGINE={engine}", database="bank"
            )
            self.sql(f"INSERT INTO {name} (x) VALUES (0), (0), (0)", database="bank")

    def counts(self) -> list[int]:
        return [int(self.sql(f"SELECT count(*) FROM {name}", database="bank")[0][0]) for name, _ in self.tables]


def writer_config(path: str, server: MariaDb, more: str = "", name: str = "") -> str:
    Path(path).write_text(
        f'name = "{name}"\n[[server]]\nsocket = "{server.socket}"\nuser = "root"\ndata_directory = "{server.data}"\n'
        f'start_command = ["{server.script}"]\n'
        f'stop_command = ["sh", "-c", "kill $(cat {server.runtime}/pid)"]\n{more}',
        encoding="utf-8",
    )
    return path


def writer_command(config: str) -> list[str]:
    return [sys.executable, "-m", "shadowset.writers.mariadb.main", "--config", config]
