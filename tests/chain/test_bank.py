"""A bank over two PostgreSQL clusters and a MariaDB server, each on a volume of its own.

A transfer takes money in one database, and only when that is committed gives it in another. So a copy of all three at
one instant never shows money that was given and not taken, and lacks no more than the transfers that were under way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

pytest.importorskip("pymysql", reason="not installed: PyMySQL")

import mariadb_server
import postgresql_server
from mariadb_server import MariaDb
from postgresql_server import Cluster

VOLUMES = (("north", "ext4", 400 << 20), ("south", "xfs", 400 << 20), ("west", "ext4", 400 << 20))
ROUTES = (("north", "south"), ("south", "west"), ("west", "north"))
TAKEN_AND_GIVEN = " UNION ALL ".join(
    f"SELECT '{kind}', route, max(number) FROM {kind} GROUP BY route" for kind in ("taken", "given")
)
TABLES = ("CREATE TABLE taken (route INT, number INT)", "CREATE TABLE given (route INT, number INT)")


class Bank:
    """The three servers, and a clerk for each route."""

    def __init__(self, chain: Any, top: str) -> None:
        self.chain, self.top = chain, top
        self.servers: dict[str, Cluster | MariaDb] = {}
        self.moved = [0, 0, 0]
        self._stop = threading.Event()
        self._clerks: list[threading.Thread] = []

    def open(self) -> None:
        for number, name in enumerate(("north", "south")):
            self.servers[name] = Cluster(f"{self.chain.places[name]}/main", f"{self.top}/{name}", 55440 + number)
        self.servers["west"] = MariaDb(f"{self.chain.places['west']}/data", f"{self.top}/west")
        for name in ("north", "south"):
            for statement in TABLES:
                self.servers[name].sql(statement)
        self.servers["west"].sql("CREATE DATABASE bank", "USE bank", *TABLES)

    def connect(self, name: str) -> Any:
        server = self.servers[name]
        if isinstance(server, MariaDb):
            return server.connect(database="bank")
        return psycopg.connect(server.connection, autocommit=True)

    def start(self) -> None:
        self._clerks = [threading.Thread(target=self._work, args=(route,)) for route in range(len(ROUTES))]
        for clerk in self._clerks:
            clerk.start()
        self.wait_for_transfers()

    def _work(self, route: int) -> None:
        source, target = (self.connect(name) for name in ROUTES[route])
        with source, target:
            while not self._stop.is_set():
                number = self.moved[route] + 1
                for connection, table in ((source, "taken"), (target, "given")):
                    with connection.cursor() as cursor:
                        cursor.execute(f"INSERT INTO {table} VALUES ({route}, {number})")
                self.moved[route] = number

    def wait_for_transfers(self, count: int = 10) -> None:
        before, end = list(self.moved), time.monotonic() + 60
        while any(now < was + count for now, was in zip(self.moved, before, strict=True)):
            assert time.monotonic() < end, f"the bank stands still: {self.moved}"
            time.sleep(0.01)

    def close(self) -> None:
        self._stop.set()
        for clerk in self._clerks:
            clerk.join(60)
        for server in self.servers.values():
            server.end()

    def books(self, name: str, snapshot_id: str) -> list[tuple[str, int, int]]:
        """What the server of a volume says when it is started on a copy."""
        place = self.chain.cli("mount", snapshot_id)["path"]
        work = tempfile.mkdtemp(prefix=f"{name}-", dir=self.top)
        os.chmod(work, 0o755)
        directory = "data" if name == "west" else "main"
        subprocess.run(["cp", "-a", f"{place}/{directory}", work], check=True)
        self.chain.cli("umount", snapshot_id)
        if name == "west":
            other: Cluster | MariaDb = MariaDb(f"{work}/data", f"{work}/run")
            other_rows = other.sql("USE bank", TAKEN_AND_GIVEN)
        else:
            os.unlink(f"{work}/main/postmaster.pid")
            other = Cluster.existing(f"{work}/main", f"{work}/run", 55450)
            other_rows = other.sql(TAKEN_AND_GIVEN)
        other.end()
        shutil.rmtree(work)
        return [(kind, int(route), int(number)) for kind, route, number in other_rows]


def missing(books: dict[str, list[tuple[str, int, int]]]) -> list[int]:
    """For each route, how many transfers were taken and not given: 0 or 1 at one instant, never less."""
    latest = {(kind, route): number for rows in books.values() for kind, route, number in rows}
    return [latest[("taken", route)] - latest[("given", route)] for route in range(len(ROUTES))]


@pytest.fixture
def bank(chain: Any, wait_until: Any) -> Iterator[Bank]:
    if not postgresql_server.binaries() or not mariadb_server.installed():
        pytest.skip("not installed: postgresql, mariadb-server-core")
    chain.add_volumes(VOLUMES)
    os.chmod(chain.directory, 0o755)
    for place in chain.places.values():
        os.chmod(place, 0o755)
    top = tempfile.mkdtemp(prefix="ss-bank-", dir="/var/tmp")
    os.chmod(top, 0o755)
    made = Bank(chain, top)
    try:
        made.open()
        clusters = [made.servers[name] for name in ("north", "south")]
        config = postgresql_server.writer_config(f"{top}/postgresql.toml", *clusters)
        chain.start(*postgresql_server.writer_command(config))
        config = mariadb_server.writer_config(f"{top}/mariadb.toml", made.servers["west"])
        chain.start(*mariadb_server.writer_command(config))
        wait_until("both writers", lambda: sum(entry["connected"] for entry in chain.cli("writers")) == 2)
        made.start()
        yield made
    finally:
        made.close()
        shutil.rmtree(top, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_copy_of_the_set_balances(chain: Any, bank: Bank) -> None:
    for _ in range(2):
        bank.wait_for_transfers()
        record = chain.cli("create", *chain.places)
        copies = {each["original_volume"]: each["snapshot_id"] for each in record["snapshots"]}
        books = {name: bank.books(name, copy) for name, copy in copies.items()}
        assert set(missing(books)) <= {0, 1}, books
        chain.cli("delete", record["set_id"])
    # three sets instead of one: what was taken from the first volume and given on the last does not balance
    copies = {}
    for name in chain.places:
        copies[name] = chain.cli("create", name)["snapshots"][0]["snapshot_id"]
        bank.wait_for_transfers()
    assert min(missing({name: bank.books(name, copy) for name, copy in copies.items()})) < 0
