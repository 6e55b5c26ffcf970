"""The farm: an application whose data lies in several databases and an index, on two volumes.

Rules that any copy made at one instant keeps, with or without the farm taking part:

* money: ``ledger.py``;
* a document is committed to its database first, then entered in the site map, then committed to the index: so the
  index and the site map never know a document, or a version, that its database lacks.

Frozen means: no request is under way (the gate is closed and was drained), and the index is committed and still; then
there are no transfers under way, and documents, site map and index agree exactly. Reads go on.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shadowset.writers.farm import ledger
from shadowset.writers.farm.database import FarmDatabase
from shadowset.writers.farm.gate import Gate
from shadowset.writers.farm.layout import Places, Registry, default_registry, read_registry
from shadowset.writers.farm.search import SearchError, SearchService

RUNNING, FROZEN, RESTORING, DAMAGED, STOPPED = "running", "frozen", "restoring", "damaged", "stopped"
PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)
SIDE_FILES = ("-journal", "-wal", "-shm")


class FarmDamagedError(Exception):
    """The farm does not work until it is restored; says why."""


class FreezeTimeoutError(Exception):
    """Requests under way did not end in time; the farm goes on."""


FarmErrors = (sqlite3.Error, OSError, SearchError, FarmDamagedError)


class Farm:
    """A farm in two directories. Methods may be called from any thread."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.registry: Registry = default_registry(places)
        self.gate = Gate()
        self.state = STOPPED
        self.problem = ""
        self.frozen_seconds = 0.0
        self._frozen_at = 0.0
        self._state_lock = threading.Lock()
        self._config: FarmDatabase | None = None
        self._content: dict[str, FarmDatabase] = {}
        self._search: SearchService | None = None

    # --- opening and closing

    def open(self, rebuild_index: bool = False) -> None:
        """Opens everything and finishes what was under way; ``admit`` then lets requests pass. ``rebuild_index``: an
        index that cannot be opened is made anew from the documents.

        Errors: FarmErrors; the farm is damaged then.
        """
        try:
            self._open_databases()
            self._open_search(rebuild_index)
            ledger.recover(self._content)
            self.synchronise()
        except FarmErrors as error:
            self.damage(error, closed=True)
            raise

    def admit(self) -> None:
        """Lets requests pass."""
        with self._state_lock:
            self.state, self.problem = RUNNING, ""
        self.gate.open()

    def _open_databases(self) -> None:
        self._config = FarmDatabase("config", self.places.config)
        with self._config.write() as connection:
            self.registry = read_registry(self.places, connection)
        self._content = {name: FarmDatabase(name, path) for name, path in self.registry.content.items()}

    def _open_search(self, rebuild: bool) -> None:
        (directory,) = self.registry.indexes.values()
        try:
            self._search = SearchService(directory)
            self._search.call("entries")
        except SearchError:
            if not rebuild:
                raise
            self._close_search()
            empty_directory(directory)
            self._search = SearchService(directory)

    def synchronise(self) -> None:
        """Makes index and site map agree with the documents.

        Errors: FarmErrors.
        """
        documents = self.documents()
        indexed = Counter((key, version) for key, version in self.search_call("entries"))
        for key in {key for key, _version in indexed} - set(documents):
            self.search_call("delete", key)
        for key, (database, version) in documents.items():
            if indexed[(key, version)] != 1:
                body = self._content[database].read("SELECT body FROM documents WHERE key = ?", key)[0][0]
                self.search_call("put", key, version, body)
        self.search_call("commit")
        with self.config.write() as connection:
            connection.execute("DELETE FROM site_map")
            rows = [(database, key) for key, (database, _version) in documents.items()]
            connection.executemany("INSERT INTO site_map VALUES (?, ?)", rows)

    def close(self) -> None:
        """Closes all files, in whatever state they are; requests wait."""
        self.gate.close()
        for database in [*self._content.values(), *([self._config] if self._config else [])]:
            database.close()
        self._content, self._config = {}, None
        self._close_search()

    def _close_search(self) -> None:
        if self._search is not None:
            self._search.close()
            self._search = None

    def stop(self) -> None:
        """Ends the farm: lets what is under way finish, turns away the rest."""
        self.gate.shut()
        end = time.monotonic() + 10.0
        self.gate.drain(lambda: time.monotonic() >= end)
        if self._search is not None and self.state != DAMAGED:
            with contextlib.suppress(SearchError):
                self._search.call("quiesce")
        self.close()
        self.state = STOPPED

    # --- requests

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request that changes the farm; waits while the farm is frozen.

        Errors: FarmErrors, after which the farm may be damaged; GateShutError when the farm is stopping.
        """
        with self.gate.request():
            if self.state == DAMAGED:
                raise FarmDamagedError(self.problem)
            try:
                yield
            except FarmErrors as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF not in PASSING:
                    self.damage(error)
                raise

    def damage(self, error: BaseException, closed: bool = False) -> None:
        """Notes that the farm does not work any more. Requests are answered with the reason, until it is restored.

        ``closed``: said by whoever opens or restores the farm; a request that fails meanwhile does not count.
        """
        with self._state_lock:
            if self.state == RESTORING and not closed:
                return
            self.state, self.problem = DAMAGED, str(error)
        self.gate.open()

    def transfer(self, source: str, target: str, account: int, to_account: int, amount: int) -> bool:
        """Moves money between two content databases; call it inside ``request``."""
        return ledger.transfer(self._content[source], self._content[target], account, to_account, amount)

    def store(self, database: str, key: str, body: str) -> int:
        """Stores a document, or its next version, which it returns; call it inside ``request``."""
        with self._content[database].write() as connection:
            row = connection.execute("SELECT version FROM documents WHERE key = ?", (key,)).fetchone()
            version = row[0] + 1 if row else 1
            connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", (key, version, body))
        if version == 1:
            with self.config.write() as config:
                config.execute("INSERT OR REPLACE INTO site_map VALUES (?, ?)", (database, key))
        self.search_call("put", key, version, body)
        self.search_call("commit")
        return version

    # --- reads, which go on while the farm is frozen

    @property
    def config(self) -> FarmDatabase:
        """Errors: FarmDamagedError while the farm is closed."""
        if self._config is None:
            raise FarmDamagedError(self.problem or "the farm is closed")
        return self._config

    @property
    def content_names(self) -> list[str]:
        """The content databases."""
        return list(self.registry.content)

    def balance(self, database: str, account: int) -> int:
        """Errors: FarmErrors."""
        if database not in self._content:
            raise FarmDamagedError(self.problem or "the farm is closed")
        return int(self._content[database].read("SELECT balance FROM accounts WHERE id = ?", account)[0][0])

    def search_call(self, name: str, *arguments: object) -> list[tuple[str, int]]:
        """One call of the search service.

        Errors: SearchError; FarmDamagedError.
        """
        if self._search is None:
            raise FarmDamagedError(self.problem or "the farm is closed")
        result = self._search.call(name, *arguments)
        return [tuple(entry) for entry in result] if name == "entries" else result or []

    def documents(self) -> dict[str, tuple[str, int]]:
        """Key to database and version, over all content databases."""
        return {
            key: (name, version)
            for name, database in self._content.items()
            for key, version in database.read("SELECT key, version FROM documents")
        }

    def money(self) -> tuple[int, int]:
        """All money, and the number of transfers under way; exact only while no request is under way."""
        return ledger.money(self._content)

    def expected_money(self) -> int:
        """What the money should be."""
        return int(self.config.read("SELECT value FROM meta WHERE key = 'expected_total'")[0][0])

    # --- shadow copies

    def freeze(self, cancelled: Callable[[], bool]) -> None:
        """Lets no request in, waits for those under way, and makes the index still.

        Errors: FreezeTimeoutError; FarmErrors. The farm goes on then.
        """
        with self._state_lock:
            if self.state != RUNNING:
                raise FarmDamagedError(f"the farm is {self.state}: {self.problem}".rstrip(": "))
            self.state, self._frozen_at = FROZEN, time.monotonic()
        self.gate.close()
        try:
            if not self.gate.drain(cancelled):
                raise FreezeTimeoutError("requests under way did not end before the time for freeze was over")
            self.search_call("quiesce")
            if self.state != FROZEN:
                raise FarmDamagedError(self.problem)
        except (FreezeTimeoutError, *FarmErrors):
            self.thaw()
            raise

    def thaw(self) -> None:
        """Lets requests pass again; does nothing when the farm is not frozen."""
        with self._state_lock:
            if self.state != FROZEN:
                return
            self.state = RUNNING
            self.frozen_seconds = time.monotonic() - self._frozen_at
        self.gate.open()

    def record_backup(self, components: list[str], set_id: str, moment: str) -> None:
        """Notes in the configuration which components were backed up.

        Errors: FarmErrors; GateShutError.
        """
        if self.state != RUNNING:
            raise FarmDamagedError(f"the farm is {self.state}, so the backup is not recorded")
        with self.request(), self.config.write() as connection:
            rows = [(component, moment, set_id) for component in components]
            connection.executemany("INSERT INTO backups VALUES (?, ?, ?)", rows)
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('last_backup', ?)", (moment,))

    def adjust_money(self, reason: str, moment: str) -> int:
        """Takes the money as it is for right, after a restore of a part of the farm; returns the difference."""
        difference = self.money()[0] - self.expected_money()
        if difference:
            with self.config.write() as connection:
                connection.execute(
                    "UPDATE meta SET value = CAST(value AS INTEGER) + ? WHERE key = 'expected_total'", (difference,)
                )
                connection.execute("INSERT INTO adjustments VALUES (?, ?, ?)", (moment, reason, difference))
        return difference

    # --- restore

    def prepare_restore(self, cancelled: Callable[[], bool]) -> None:
        """Stops requests and closes all files. A damaged farm is not waited for."""
        with self._state_lock:
            self.state = RESTORING
        self.gate.close()
        self.gate.drain(cancelled)
        self.close()

    def problems(self) -> list[str]:
        """What the integrity checks of the open databases find."""
        databases = [*([self._config] if self._config else []), *self._content.values()]
        return [problem for problem in (database.problem() for database in databases) if problem]


def remove_side_files(database: str) -> None:
    """Removes journals of a lost database, which SQLite would play into the restored one."""
    for suffix in SIDE_FILES:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(database + suffix)


def empty_directory(directory: str) -> None:
    """Removes what a directory holds."""
    os.makedirs(directory, exist_ok=True)
    for path in [*glob.glob(os.path.join(glob.escape(directory), "*"), include_hidden=True)]:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
