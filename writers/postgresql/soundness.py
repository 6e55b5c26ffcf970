"""Whether a database is sound: what PostgreSQL's own amcheck says of its tables and indexes.

All of it happens in a transaction that is rolled back, the extension too, so nothing is left in the database.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.sql import SQL, Identifier

LOG = logging.getLogger("shadowset.writer.postgresql")
SCHEMA = "shadowset_check"
HEAP_CHECK_VERSION = 140_000
TABLES: LiteralString = (
    "SELECT oid, oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'm', 't') AND relpersistence <> 't'"
    " AND relam = (SELECT oid FROM pg_am WHERE amname = 'heap') ORDER BY 1"
)
INDEXES: LiteralString = (
    "SELECT c.oid, c.oid::regclass::text FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid"
    " WHERE c.relkind = 'i' AND c.relpersistence <> 't' AND i.indisvalid AND i.indisready"
    " AND c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree') ORDER BY 1"
)
Session = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Finding:
    """What is wrong, in a sentence's words, empty when nothing is; and whether anybody has looked."""

    problem: str = ""
    looked: bool = True


def look_at(connection: Session, seconds: float) -> Finding:
    """Whether the database of a session is sound.

    A database that could not be looked at whole within ``seconds`` counts as not sound. Where amcheck is not
    installed, or may not be used by the role, nobody looks, and a line in the log says so.
    """
    try:
        with connection.transaction(force_rollback=True):
            schema = _amcheck(connection)
            if not schema:
                return Finding(looked=False)
            return Finding(_first_problem(connection, schema, time.monotonic() + seconds))
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFile) as error:
        LOG.warning("the database %s is not checked with amcheck: %s", connection.info.dbname, error)
        return Finding(looked=False)
    except psycopg.errors.QueryCanceled:
        return Finding("it could not be checked in time")
    except psycopg.Error as error:
        return Finding(" ".join(str(error).split()) or type(error).__name__)


def _amcheck(connection: Session) -> str:
    """The schema that holds amcheck's functions; empty when it is not installed on the server."""
    found = connection.execute(
        "SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'amcheck'"
    ).fetchone()
    if found is not None:
        return str(found[0])
    if connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'").fetchone() is None:
        LOG.warning("the database %s is not checked: the server has no amcheck", connection.info.dbname)
        return ""
    connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(SCHEMA)))
    connection.execute(SQL("CREATE EXTENSION amcheck SCHEMA {}").format(Identifier(SCHEMA)))
    return SCHEMA


def _first_problem(connection: Session, schema: str, end: float) -> str:
    if connection.info.server_version >= HEAP_CHECK_VERSION:
        heap = SQL("SELECT blkno, msg FROM {}.verify_heapam(%s::oid::regclass) LIMIT 1").format(Identifier(schema))
        for oid, name in connection.execute(TABLES).fetchall():
            _limit(connection, end)
            wrong = connection.execute(heap, (oid,)).fetchone()
            if wrong is not None:
                return f"table {name}, block {wrong[0]}: {wrong[1]}"
    tree = SQL("SELECT {}.bt_index_check(%s::oid::regclass)").format(Identifier(schema))
    for oid, _name in connection.execute(INDEXES).fetchall():
        _limit(connection, end)
        connection.execute(tree, (oid,))
    return ""


def _limit(connection: Session, end: float) -> None:
    left = max(1, int((end - time.monotonic()) * 1000))
    connection.execute(SQL("SET LOCAL statement_timeout = {}").format(left))
