"""What a farm consists of, where it lies, and how it is made.

A farm lies in two places, ``A`` and ``B``, which are meant to be two volumes. Its configuration database, in A,
registers everything else by place and file name, so that a copy of both directories anywhere is a farm again:

========================  =====  ============================================================
``config.db``             A      registry, site map, expected money, backups that succeeded
``content_a.db``          A      accounts, transfers under way, documents
``content_b.db``          B      the same
``index/``                B      tantivy index over the documents of all content databases
``crm.db``                B      a third party's database; another process owns it
========================  =====  ============================================================
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

from shadowset.vss.codes import Code, VssError

CONFIG_FILE = "config.db"
LOCK_FILE = "farm.lock"
ACCOUNTS = 50
OPENING_BALANCE = 1000

CONFIG_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE databases (name TEXT PRIMARY KEY, kind TEXT NOT NULL, place TEXT NOT NULL, file TEXT NOT NULL);
CREATE TABLE indexes (name TEXT PRIMARY KEY, place TEXT NOT NULL, directory TEXT NOT NULL);
CREATE TABLE site_map (database TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (database, key));
CREATE TABLE backups (component TEXT NOT NULL, time TEXT NOT NULL, set_id TEXT NOT NULL);
CREATE TABLE adjustments (time TEXT NOT NULL, reason TEXT NOT NULL, amount INTEGER NOT NULL);
"""
CONTENT_SCHEMA = """
CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
CREATE TABLE outgoing (id TEXT PRIMARY KEY, target TEXT NOT NULL, account INTEGER NOT NULL, amount INTEGER NOT NULL);
CREATE TABLE incoming (id TEXT PRIMARY KEY);
CREATE TABLE documents (key TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL);
"""
THIRD_PARTY_SCHEMA = """
CREATE TABLE orders (id INTEGER PRIMARY KEY, total INTEGER NOT NULL);
CREATE TABLE lines (order_id INTEGER NOT NULL, amount INTEGER NOT NULL);
CREATE INDEX lines_by_order ON lines (order_id);
"""
REGISTRY = (
    ("content_a", "content", "A", "content_a.db"),
    ("content_b", "content", "B", "content_b.db"),
    ("crm", "third-party", "B", "crm.db"),
)
INDEX = ("main", "B", "index")


@dataclass(frozen=True)
class Places:
    """The two directories of a farm."""

    a: str
    b: str

    def path(self, place: str, file: str) -> str:
        """The path of something that is registered as lying in place ``A`` or ``B``."""
        return os.path.join(self.a if place == "A" else self.b, file)

    @property
    def config(self) -> str:
        """The configuration database."""
        return os.path.join(self.a, CONFIG_FILE)

    @property
    def lock(self) -> str:
        """Locked by the process that runs the farm."""
        return os.path.join(self.a, LOCK_FILE)


@dataclass(frozen=True)
class Registry:
    """What the configuration database registers: name to path."""

    content: dict[str, str] = field(default_factory=dict)
    third_party: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, str] = field(default_factory=dict)


def default_registry(places: Places) -> Registry:
    """The registry of a new farm; it stands in while the configuration database cannot be read."""
    return _registry(places, list(REGISTRY), [INDEX])


def read_registry(places: Places, config: sqlite3.Connection) -> Registry:
    """Errors: sqlite3.Error."""
    databases = config.execute("SELECT name, kind, place, file FROM databases ORDER BY name").fetchall()
    indexes = config.execute("SELECT name, place, directory FROM indexes ORDER BY name").fetchall()
    return _registry(places, databases, indexes)


def _registry(
    places: Places, databases: list[tuple[str, str, str, str]], indexes: list[tuple[str, str, str]]
) -> Registry:
    return Registry(
        content={name: places.path(place, file) for name, kind, place, file in databases if kind == "content"},
        third_party={name: places.path(place, file) for name, kind, place, file in databases if kind == "third-party"},
        indexes={name: places.path(place, directory) for name, place, directory in indexes},
    )


def connect(path: str, busy_seconds: float = 10.0) -> sqlite3.Connection:
    """Opens an existing database; usable from any thread, by one at a time.

    Errors: sqlite3.Error.
    """
    uri = f"file:{path.replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def create(places: Places) -> None:
    """Makes a new, empty farm.

    Errors: VSS_E_OBJECT_ALREADY_EXISTS when one lies there; E_ACCESSDENIED when the directories cannot be written.
    """
    if os.path.exists(places.config):
        message = f"{places.a} holds a farm already; run it, or remove its files first"
        raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, message)
    try:
        os.makedirs(places.a, exist_ok=True)
        os.makedirs(places.b, exist_ok=True)
        _create_databases(places)
    except (OSError, sqlite3.Error) as error:
        raise VssError(Code.E_ACCESSDENIED, f"no farm can be made in {places.a} and {places.b}: {error}") from error


def _create_databases(places: Places) -> None:
    registry = default_registry(places)
    for path in registry.content.values():
        accounts = [(account, OPENING_BALANCE) for account in range(ACCOUNTS)]
        _make(path, CONTENT_SCHEMA, "INSERT INTO accounts VALUES (?, ?)", accounts)
    for path in registry.third_party.values():
        _make(path, "PRAGMA journal_mode = WAL;" + THIRD_PARTY_SCHEMA, "", [])
    for path in registry.indexes.values():
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
    total = ACCOUNTS * OPENING_BALANCE * len(registry.content)
    _make(places.config, CONFIG_SCHEMA, "INSERT INTO databases VALUES (?, ?, ?, ?)", REGISTRY)
    config = connect(places.config)
    config.execute("INSERT INTO indexes VALUES (?, ?, ?)", INDEX)
    config.execute("INSERT INTO meta VALUES ('expected_total', ?)", (str(total),))
    config.close()


def _make(path: str, schema: str, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(schema)
    if rows:
        connection.execute("BEGIN")
        connection.executemany(statement, rows)
        connection.execute("COMMIT")
    connection.close()
