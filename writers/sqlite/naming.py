"""Who the SQLite writer is, and what lies beside a database."""

from __future__ import annotations

SQLITE_WRITER_ID = "66a1ada7-319a-42d1-8f24-6ffa1700c734"
SQLITE_WRITER_NAME = "SQLite Writer"
SIDE_FILES = ("-wal", "-shm", "-journal")
