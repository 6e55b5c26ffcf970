"""Whether a database of Zope's and its directory of blobs agree."""

from __future__ import annotations

import os

from shadowset.writers.plone.register import Database, Session

# Pickles of blobs begin with their class; others may name it further on.
BLOBS = (
    "SELECT zoid, tid FROM object_state WHERE position('ZODB.blob\nBlob'::bytea in substring(state from 1 for 24)) > 0"
)


def blob_path(directory: str, zoid: int, tid: int) -> str:
    """Where RelStorage keeps a blob in a shared directory (layout "bushy")."""
    steps = "/".join(f"0x{byte:02x}" for byte in zoid.to_bytes(8, "big"))
    return f"{directory}/{steps}/0x{tid:016x}.blob"


def missing_blobs(session: Session, database: Database) -> list[str]:
    """Files of blobs that the database knows and that are not there. Errors: psycopg.Error."""
    if not database.blobs:
        return []
    paths = (blob_path(database.blobs, zoid, tid) for zoid, tid in session.execute(BLOBS))
    return [path for path in paths if not os.path.isfile(path)]
