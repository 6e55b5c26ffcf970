"""One database of the farm, opened once and shared by all threads."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shadowset.writers.farm.layout import connect


class LostFileError(OSError):
    """The file under an open database is gone, or is another one."""


class FarmDatabase:
    """In rollback-journal mode on purpose: WAL maps its ``-shm`` file, and whoever truncates that ends the process."""

    def __init__(self, name: str, path: str) -> None:
        """Errors: sqlite3.Error; OSError."""
        self.name = name
        self.path = path
        self._lock = threading.RLock()
        self._connection = connect(path)
        self._identity = self._look()

    def _look(self) -> tuple[int, int]:
        status = os.stat(self.path)
        return status.st_dev, status.st_ino

    def verify_file(self) -> None:
        """Errors: LostFileError when the file was removed or replaced; SQLite itself would go on without a word."""
        try:
            same = self._look() == self._identity
        except OSError as error:
            raise LostFileError(f"the database {self.path} is gone: {error.strerror}") from error
        if not same:
            raise LostFileError(f"the database {self.path} was replaced behind the farm's back")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction; durable when the block ends, undone when it raises.

        Errors: sqlite3.Error; LostFileError.
        """
        with self._lock:
            self.verify_file()
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    self.verify_file()
                raise

    def read(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows of one query.

        Errors: sqlite3.Error.
        """
        with self._lock:
            return self._connection.execute(statement, parameters).fetchall()

    def problem(self) -> str:
        """What SQLite's integrity check finds, in one sentence; empty when sound."""
        try:
            rows = self.read("PRAGMA integrity_check(3)")
        except sqlite3.Error as error:
            return f"the database {self.path} cannot be read: {error}"
        return (
            "" if rows == [("ok",)] else f"the database {self.path} is not sound: {'; '.join(row[0] for row in rows)}"
        )

    def close(self) -> None:
        """Lets go of the file, in whatever state it is."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._connection.close()
