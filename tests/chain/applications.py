"""Applications under load, all in the same shape: each takes one number after the other and can tell those it has.

So one invariant holds for every application and every copy: the numbers in it are 0 to *n* without a gap, and *n* lies
between the last number that was answered before the set and the last one that was begun when it was done.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from processes import wait_for_end

MODULE = "shadowset.writers"


class Application(ABC):
    """One application with its data on the volume ``data`` and its sockets and scripts below ``runtime``."""

    name = ""
    writer_name = ""
    crash_safe = True  # its files can be used after a kill
    durable = True  # what was answered is there after a kill
    still_at_freeze = True  # no file changes from freeze on; else from the moment on that its file system is frozen

    def __init__(self, chain: Any, runtime: str) -> None:
        self.chain = chain
        self.data, self.runtime = f"{chain.places['data']}/{self.name}", f"{runtime}/{self.name}"
        os.mkdir(self.runtime)
        os.chmod(self.runtime, 0o755)

    @classmethod
    def missing(cls) -> str:
        """What is not installed; empty when nothing is."""
        return ""

    @abstractmethod
    def start(self) -> None:
        """Makes it unless it is there, and waits until it takes numbers."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL; nothing when it does not run."""

    @abstractmethod
    def put(self, number: int) -> None:
        """Takes a number; from any one thread."""

    @abstractmethod
    def numbers(self) -> list[int]:
        """What it has, in order. It runs."""

    @abstractmethod
    def writer(self) -> list[str]:
        """The command of its writer."""

    @property
    def writer_names(self) -> list[str]:
        """All writers that look after it, its own first."""
        return [self.writer_name]

    def directories(self) -> list[str]:
        """Where its files lie."""
        return [self.data]

    def content(self, path: str) -> bytes:
        """What counts of a file."""
        return Path(path).read_bytes()

    def check(self) -> None:
        """The application's own check of its files. It may be stopped afterwards."""
        assert os.listdir(self.data)

    def destroy(self) -> None:
        """Kills it and takes all its files."""
        self.kill()
        empty(self.data)


def empty(directory: str) -> None:
    """Takes all that is in a directory."""
    for entry in os.scandir(directory):
        shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)


def module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"{MODULE}.{name}.main", *arguments]


class PostgreSql(Application):
    name, writer_name = "postgresql", "PostgreSQL Writer (test)"
    still_at_freeze = False  # its writer locks nothing

    @classmethod
    def missing(cls) -> str:
        try:
            from postgresql_server import binaries
        except ImportError as error:
            return str(error)
        return "" if binaries() else "postgresql"

    def start(self) -> None:
        from postgresql_server import Cluster

        if not os.path.exists(self.data):
            self.server = Cluster(self.data, self.runtime, segment_mb=1)
            self.server.sql("CREATE TABLE taken (number INT PRIMARY KEY)")
        self.server.wait_for_sessions()
        self._session: Any = None

    def kill(self) -> None:
        from postgresql_server import server_process

        if pid := server_process(self.data):
            os.kill(pid, signal.SIGKILL)
            wait_for_end(pid, waited_for=True)  # PostgreSQL takes one that has ended for one that runs

    def put(self, number: int) -> None:
        import psycopg

        if self._session is None:
            self._session = psycopg.connect(self.server.connection, autocommit=True)
        self._session.execute("INSERT INTO taken VALUES (%s)", (number,))

    def numbers(self) -> list[int]:
        return [row[0] for row in self.server.sql("SELECT number FROM taken ORDER BY 1")]

    def check(self) -> None:
        self.server.sql("CREATE EXTENSION IF NOT EXISTS amcheck")
        self.server.sql("SELECT bt_index_check('taken_pkey', true)")
        self.server.end("fast")
        self.server.run("pg_checksums", "--check", "-D", self.data)

    def writer(self) -> list[str]:
        from postgresql_server import writer_command, writer_config

        return writer_command(writer_config(f"{self.runtime}/writer.toml", self.server))


class MariaDbServer(Application):
    name, writer_name = "mariadb", "MariaDB Writer"
    still_at_freeze = False  # InnoDB goes on writing what was committed
    ENGINES = ("InnoDB", "Aria")  # MyISAM is not for servers that are killed

    @classmethod
    def missing(cls) -> str:
        try:
            from mariadb_server import installed
        except ImportError as error:
            return str(error)
        return "" if installed() else "mariadb-server-core"

    def make(self) -> Any:
        from mariadb_server import MariaDb

        return MariaDb(self.data, self.runtime)

    def start(self) -> None:
        self._session: Any = None
        if os.path.exists(self.data):
            if not self._pid():
                self.server.begin()
            self.server.wait_for_sessions()
            return
        self.server = self.make()
        self.server.sql("CREATE DATABASE bank")
        for engine in self.ENGINES:
            self.server.sql(f"CREATE TABLE {engine} (number INT PRIMARY KEY) ENGINE={engine}", database="bank")

    def _pid(self) -> int:
        from mariadb_server import server_process

        return server_process(self.data)

    def kill(self) -> None:
        self.server.end()

    def put(self, number: int) -> None:
        if self._session is None:
            self._session = self.server.connect(database="bank")
        with self._session.cursor() as cursor:
            for engine in self.ENGINES:
                cursor.execute(f"INSERT IGNORE INTO {engine} VALUES (%s)", (number,))

    def numbers(self) -> list[int]:
        rows = [
            [row[0] for row in self.server.sql(f"SELECT number FROM {engine} ORDER BY 1", database="bank")]
            for engine in self.ENGINES
        ]
        differ = sorted(set(rows[0]) ^ set(rows[-1]))
        assert differ in ([], rows[0][-1:]), f"of {len(rows[0])} numbers, one table has these alone: {differ[:9]}"
        return sorted(set(rows[0]) & set(rows[-1]))

    def check(self) -> None:
        for engine in self.ENGINES:
            said = self.server.sql(f"CHECK TABLE {engine}", database="bank")
            assert [row[3] for row in said] == ["OK"], said

    def writer(self) -> list[str]:
        from mariadb_server import writer_command, writer_config

        return writer_command(writer_config(f"{self.runtime}/writer.toml", self.server))


class MySqlServer(MariaDbServer):
    """The same writer with its other lock."""

    name, writer_name = "mysql", "MariaDB Writer (mysql)"
    ENGINES = ("InnoDB",)  # MySQL has no other one for servers that are killed

    @classmethod
    def missing(cls) -> str:
        try:
            from mysql_server import missing
        except ImportError as error:
            return str(error)
        return missing()

    def make(self) -> Any:
        from mysql_server import MySql

        return MySql(self.data, self.runtime)

    def writer(self) -> list[str]:
        from mariadb_server import writer_command, writer_config

        return writer_command(writer_config(f"{self.runtime}/writer.toml", self.server, name="mysql"))


class RedisServer(Application):
    name, writer_name = "redis", "Redis Writer"
    durable = False  # behind a slow sync it answers before it writes

    @classmethod
    def missing(cls) -> str:
        try:
            import redis_server
        except ImportError as error:
            return str(error)
        return "" if redis_server.installed() else "redis-tools"

    def start(self) -> None:
        from redis_server import Redis

        if hasattr(self, "server"):
            self.server.begin()
        else:
            self.server = Redis(self.runtime, append=True, data=self.data)
        self._session: Any = None

    def kill(self) -> None:
        self.server.end()

    def put(self, number: int) -> None:
        if self._session is None:
            self._session = self.server.client()
        self._session.sadd("taken", number)

    def numbers(self) -> list[int]:
        return sorted(int(number) for number in self.server.client().smembers("taken"))

    def writer(self) -> list[str]:
        return module("redis", "--config", self.server.writer_config())


class GroongaServer(Application):
    name, writer_name = "groonga", "Groonga Writer"
    crash_safe = False
    LOCK_WORD = slice(44, 48)  # of each file's header: clients that wait for the lock count it up and down

    @classmethod
    def missing(cls) -> str:
        from groonga_server import installed

        return "" if installed() else "groonga-bin"

    def start(self) -> None:
        from groonga_server import Groonga

        if not hasattr(self, "server"):
            self.server = Groonga(self.data, self.runtime)
        elif not self._answers():
            if os.path.exists(self.server.database):
                self.server.shell("lock_clear\n")  # a killed server leaves its own
            self.server.begin()

    def _answers(self) -> bool:
        try:
            self.server.ask("status")
        except OSError:
            return False
        return True

    def kill(self) -> None:
        self.server.end()

    def content(self, path: str) -> bytes:
        found = bytearray(super().content(path))
        found[self.LOCK_WORD] = bytes(4)
        return bytes(found)

    def put(self, number: int) -> None:
        self.server.put(number)

    def numbers(self) -> list[int]:
        (_count, _columns, *rows) = self.server.ask("select?table=Docs&limit=-1&output_columns=number")[0]
        return sorted(row[0] for row in rows)

    def check(self) -> None:
        self.server.end(signal.SIGTERM)
        self.server.check()

    def writer(self) -> list[str]:
        from groonga_server import writer_command, writer_config

        return writer_command(writer_config(f"{self.runtime}/writer.toml", self.server))
