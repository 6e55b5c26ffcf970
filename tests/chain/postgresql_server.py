"""A PostgreSQL cluster of a test's own, with the bank of pgbench in it."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg

from shadowset.writers.postgresql.files import server_process

OWNER = "postgres"


def binaries() -> str:
    """Where the server's programs are; empty when it is not installed."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    return os.path.dirname(found[-1]) if found else ""


class Cluster:
    """The server ``port`` on the data directory ``data``; sockets and log lie in ``runtime``."""

    @classmethod
    def existing(cls, data: str, runtime: str, port: int) -> Cluster:
        """A server for a data directory that is there, with sockets and log of its own."""
        self = cls.__new__(cls)
        self._place(data, runtime, port)
        with open(f"{data}/postgresql.conf", "a", encoding="utf-8") as file:
            file.write(f"unix_socket_directories = '{runtime}'\nport = {port}\narchive_mode = off\n")
        self.begin()
        return self

    def _place(self, data: str, runtime: str, port: int) -> None:
        self.data, self.runtime, self.port = data, runtime, port
        self.connection = f"host={runtime} port={port} user=postgres dbname=postgres"
        os.makedirs(runtime, exist_ok=True)
        shutil.chown(runtime, OWNER, OWNER)

    def __init__(
        self, data: str, runtime: str, port: int = 55432, wal: str = "", tablespace: str = "", segment_mb: int = 16
    ) -> None:
        self._place(data, runtime, port)
        for directory in filter(None, (data, wal, tablespace)):
            os.makedirs(directory, exist_ok=True)
            shutil.chown(directory, OWNER, OWNER)
        self.run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--data-checksums", "--no-sync",
                 f"--wal-segsize={segment_mb}",                  *(["-X", wal] if wal else []))  # fmt: skip
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": runtime,
            "port": str(port),
            "max_wal_size": "64MB",
            "shared_buffers": "32MB",
            "archive_mode": "on",
            "archive_command": f"cp %p {runtime}/archive/%f",
        }
        os.makedirs(f"{runtime}/archive")
        shutil.chown(f"{runtime}/archive", OWNER, OWNER)
        with open(f"{data}/postgresql.conf", "a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self.begin()
        if tablespace:
            self.sql(f"CREATE TABLESPACE away LOCATION '{tablespace}'")

    def command(self, program: str, *arguments: str) -> list[str]:
        return ["runuser", "-u", OWNER, "--", f"{binaries()}/{program}", *arguments]

    def run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            self.command(program, *arguments), capture_output=True, text=True, timeout=120, check=False, cwd="/"
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"
        return done.stdout

    @property
    def start_command(self) -> list[str]:
        return self.command("pg_ctl", "-w", "-t", "100", "-D", self.data, "-l", f"{self.runtime}/log", "start")

    @property
    def stop_command(self) -> list[str]:
        return self.command("pg_ctl", "-w", "-t", "100", "-D", self.data, "-m", "fast", "stop")

    def begin(self) -> None:
        done = subprocess.run(self.start_command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
        assert done.returncode == 0, Path(f"{self.runtime}/log").read_text()

    def end(self, mode: str = "immediate") -> None:
        """Stops the server if it runs; ``immediate`` is as good as a crash."""
        if os.path.exists(f"{self.data}/postmaster.pid"):
            command = self.command("pg_ctl", "-w", "-D", self.data, "-m", mode, "stop")
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=False)

    def wait_for_sessions(self) -> None:
        """Starts the server when it does not run, and waits until it takes sessions (again)."""
        if not server_process(self.data):
            self.begin()
        end = time.monotonic() + 60
        while True:
            try:
                self.sql("SELECT 1")
            except psycopg.OperationalError:
                assert time.monotonic() < end, "the server takes no session"
                time.sleep(0.05)
            else:
                return

    def sql(self, statement: str, database: str = "postgres") -> Any:
        with psycopg.connect(self.connection, dbname=database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else None

    def fill(self, scale: int = 2, tablespace: str = "") -> None:
        self.sql("CREATE DATABASE bank")
        away = [f"--tablespace={tablespace}"] if tablespace else []
        self.run("pgbench", "-q", "-i", "-s", str(scale), *away, "-h", self.runtime, "-p", str(self.port),
                 "-U", "postgres", "bank")  # fmt: skip

    def load(self, clients: int = 4) -> subprocess.Popen[str]:
        command = self.command("pgbench", "-c", str(clients), "-j", "2", "-T", "600", "-P", "1", "-n", "-h",
                               self.runtime, "-p", str(self.port), "-U", "postgres", "bank")  # fmt: skip
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def databases(self) -> list[str]:
        return [row[0] for row in self.sql("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1")]

    def balance(self, database: str = "bank") -> int:
        """The number of transactions; fails unless all four tables tell the same sum of money."""
        sums = self.sql(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches),"
            " (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0) FROM pgbench_history),"
            " (SELECT count(*) FROM pgbench_history)",
            database,
        )[0]
        assert len(set(sums[:4])) == 1, f"the bank does not balance: {sums}"
        return int(sums[4])

    def check_pages(self) -> None:
        """Every page has its checksum, and every index agrees with its table."""
        self.sql("CREATE EXTENSION IF NOT EXISTS amcheck", "bank")
        self.sql("SELECT bt_index_check(oid, true) FROM pg_class WHERE relkind = 'i' AND relam = 403", "bank")
        self.end("fast")
        self.run("pg_checksums", "--check", "-D", self.data)


def writer_config(path: str, *clusters: Cluster, more: str = "") -> str:
    """A configuration file for the writer of these clusters; ``more`` are further settings of each."""
    text = 'name = "test"\n'
    for cluster in clusters:
        text += (
            f'[[cluster]]\nconnection = "{cluster.connection}"\ndata_directory = "{cluster.data}"\n'
            f"stop_command = {cluster.stop_command}\nstart_command = {cluster.start_command}\n"
            f'restore_command = "cp {cluster.runtime}/archive/%f %p"\n{more}'
        )
    Path(path).write_text(text, encoding="utf-8")
    return path


def writer_command(config: str) -> list[str]:
    return [sys.executable, "-m", "shadowset.writers.postgresql.main", "--config", config]
