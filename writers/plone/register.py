"""The farm's register: tables in a small database of its own, which say what belongs to the farm and where it lies.

Zope knows which databases it mounts. What else belongs to the farm (databases of third parties, search indexes, stores
of files) and what state all of it is in stands here, where administrators and tools can read and change it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import psycopg

ADMINISTRATION_LOCK = 0x53686164  # an advisory lock of the register's database
CONFIG, CONTENT, THIRD_PARTY = "config", "content", "third-party"
ATTACHED, DETACHED = "attached", "detached"
Session = psycopg.Connection[tuple[Any, ...]]

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS farm_databases (
    name TEXT PRIMARY KEY,
    role TEXT NOT NULL CHECK (role IN ('{CONFIG}', '{CONTENT}', '{THIRD_PARTY}')),
    engine TEXT NOT NULL CHECK (engine IN ('postgresql', 'mariadb', 'sqlite')),
    location TEXT NOT NULL,
    database TEXT NOT NULL DEFAULT '',
    mount_point TEXT NOT NULL DEFAULT '',
    blobs TEXT NOT NULL DEFAULT '',
    host TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL DEFAULT '{ATTACHED}'
);
CREATE TABLE IF NOT EXISTS farm_indexes (
    name TEXT PRIMARY KEY, engine TEXT NOT NULL, location TEXT NOT NULL, host TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS farm_stores (name TEXT PRIMARY KEY, directory TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS farm_sites (
    path TEXT PRIMARY KEY, database TEXT NOT NULL, documents BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS farm_backups (component TEXT NOT NULL, time TEXT NOT NULL, set_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS farm_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE OR REPLACE FUNCTION farm_refuse_while_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock_shared({ADMINISTRATION_LOCK}) THEN
        RAISE EXCEPTION 'the farm is being copied, so its administration is closed; try again in a moment';
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER frozen BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON farm_databases
    FOR EACH STATEMENT EXECUTE FUNCTION farm_refuse_while_frozen();
CREATE OR REPLACE TRIGGER frozen BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON farm_indexes
    FOR EACH STATEMENT EXECUTE FUNCTION farm_refuse_while_frozen();
CREATE OR REPLACE TRIGGER frozen BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON farm_stores
    FOR EACH STATEMENT EXECUTE FUNCTION farm_refuse_while_frozen();
"""


class Database(msgspec.Struct):
    """A row of ``farm_databases``.

    ``location`` is the data directory of a PostgreSQL cluster (with ``database``, a name in it) or of a MariaDB server,
    or a SQLite file. ``blobs`` is RelStorage's directory of blobs. ``host`` is empty for this host.
    """

    name: str
    role: str
    engine: str
    location: str
    database: str = ""
    mount_point: str = ""
    blobs: str = ""
    host: str = ""
    state: str = ATTACHED

    @property
    def is_zope(self) -> bool:
        """Whether Zope keeps objects in it, so that RelStorage's locks hold its commits."""
        return self.role in (CONFIG, CONTENT) and self.engine == "postgresql" and bool(self.mount_point)


class Index(msgspec.Struct):
    """A row of ``farm_indexes``; ``engine`` is that of a search writer."""

    name: str
    engine: str
    location: str
    host: str = ""


class Register(msgspec.Struct):
    """All of it. ``stores`` are directories by name, ``sites`` names of content databases by the path of a site."""

    databases: list[Database] = []
    indexes: list[Index] = []
    stores: dict[str, str] = {}
    sites: dict[str, str] = {}

    def content(self, name: str) -> Database | None:
        """A content database by name."""
        return next((each for each in self.databases if (each.role, each.name) == (CONTENT, name)), None)

    def zope(self) -> list[Database]:
        """The databases with Zope's objects, on this host."""
        return [each for each in self.databases if each.is_zope and not each.host]


def read_register(session: Session) -> Register:
    """Errors: psycopg.Error."""
    databases = session.execute(
        "SELECT name, role, engine, location, database, mount_point, blobs, host, state"
        " FROM farm_databases ORDER BY name"
    ).fetchall()
    indexes = session.execute("SELECT name, engine, location, host FROM farm_indexes ORDER BY name").fetchall()
    stores = session.execute("SELECT name, directory FROM farm_stores ORDER BY name").fetchall()
    sites = session.execute("SELECT path, database FROM farm_sites ORDER BY path").fetchall()
    return Register([Database(*row) for row in databases], [Index(*row) for row in indexes], dict(stores), dict(sites))


def set_state(session: Session, names: list[str], state: str) -> None:
    """Marks databases as attached or detached. Errors: psycopg.Error."""
    session.execute("UPDATE farm_databases SET state = %s WHERE name = ANY(%s)", (state, names))


def record_backup(session: Session, components: list[str], set_id: str, moment: str) -> None:
    """Notes what was backed up, and when the last time was. Errors: psycopg.Error."""
    with session.transaction():
        for component in components:
            session.execute("INSERT INTO farm_backups VALUES (%s, %s, %s)", (component, moment, set_id))
        session.execute(
            "INSERT INTO farm_meta VALUES ('last_backup', %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (moment,),
        )


def write_sites(session: Session, database: str, sites: dict[str, int]) -> None:
    """Makes the site map of one content database what the application says: path to number of documents.

    Errors: psycopg.Error.
    """
    with session.transaction():
        session.execute("DELETE FROM farm_sites WHERE database = %s", (database,))
        for path, documents in sites.items():
            session.execute("INSERT INTO farm_sites VALUES (%s, %s, %s)", (path, database, documents))
