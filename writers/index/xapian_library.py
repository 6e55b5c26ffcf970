"""Xapian: a writable database is its own lock; committing, and nothing else, changes its files."""

from __future__ import annotations

from typing import Any

from shadowset.vss.codes import Code, VssError
from shadowset.writers import debian_modules
from shadowset.writers.index.library import Reading, Release


def load() -> Any:
    """The module. Errors: VSS_E_NOT_SUPPORTED."""
    return debian_modules.load("xapian", "Xapian", "python3-xapian")


class XapianLibrary:
    """Databases of the kinds that lie in one directory."""

    name = "Xapian"

    def __init__(self) -> None:
        """Errors: VSS_E_NOT_SUPPORTED."""
        self._xapian = load()

    def lock(self, path: str) -> Release | None:
        try:
            database = self._xapian.WritableDatabase(path, self._xapian.DB_OPEN)
        except self._xapian.DatabaseLockError:
            return None
        except self._xapian.Error as error:
            raise self._error(path, error) from error
        close: Release = database.close
        return close

    def read(self, path: str) -> Reading:
        try:
            database = self._xapian.Database(path)
            try:
                return Reading(database.get_doccount(), database.get_revision())
            finally:
                database.close()
        except self._xapian.Error as error:
            raise self._error(path, error) from error

    def problem(self, path: str) -> str:
        try:
            errors = self._xapian.Database.check(path, 0)
        except self._xapian.Error as error:
            return str(error)
        return f"Xapian's check finds {errors} errors" if errors else ""

    def _error(self, path: str, error: Exception) -> VssError:
        message = f"the Xapian database {path} cannot be opened ({error}); check its configuration and its owner"
        return VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
