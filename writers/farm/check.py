"""Judges a farm that nobody runs: a shadow copy, a backup, a restored or stopped farm.

Everything is copied to a temporary directory and opened there: the farm may lie on a read-only file system, and SQLite
and tantivy both want to write while they open (journals, locks). So the farm itself is left exactly as it was found.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from shadowset.vss.codes import Code, VssError
from shadowset.writers.farm.layout import Places, Registry, connect, read_registry
from shadowset.writers.farm.ledger import money

SIDE_FILES = ("", "-wal", "-journal")


@dataclass
class Report:
    """What was found; ``problems`` are sentences, none when every rule holds."""

    money: int = 0
    expected_money: int = 0
    transfers_under_way: int = 0
    documents: int = 0
    indexed: int = 0
    not_indexed: int = 0
    orders: int = 0
    last_backup: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether every rule holds."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "sound": self.sound}


class Reader:
    """One database, read."""

    def __init__(self, path: str) -> None:
        self._connection = connect(path)

    def read(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows of one query.

        Errors: sqlite3.Error.
        """
        return self._connection.execute(statement, parameters).fetchall()

    def close(self) -> None:
        """Lets go of the file."""
        self._connection.close()


def is_running(places: Places) -> bool:
    """Whether a process runs the farm in these very directories."""
    try:
        with open(places.lock, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def check(places: Places, allow_pending: bool = False) -> Report:
    """Judges the farm. ``allow_pending``: the copy was made without the farm taking part, so transfers may be under way
    and the newest documents may be missing in index and site map; nothing else may differ.

    Errors: VSS_E_BAD_STATE when the farm is running; VSS_E_OBJECT_NOT_FOUND when there is none.
    """
    if not os.path.exists(places.config):
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no farm in {places.a}; make one with init")
    if is_running(places):
        message = f"the farm in {places.a} is running; stop it first, or check a shadow copy of it"
        raise VssError(Code.VSS_E_BAD_STATE, message)
    with tempfile.TemporaryDirectory(prefix="farm-check-") as scratch:
        return Judge(places, scratch, allow_pending).judge()


class Judge:
    """One check, on copies in a scratch directory."""

    def __init__(self, places: Places, scratch: str, allow_pending: bool) -> None:
        self._places = places
        self._scratch = scratch
        self._allow_pending = allow_pending
        self._readers: dict[str, Reader] = {}
        self.report = Report()

    def judge(self) -> Report:
        """The whole check."""
        try:
            registry = self._registry()
            if registry is not None and self._open_all(registry):
                self._money(registry)
                self._documents(registry)
                self._third_party(registry)
        except (sqlite3.Error, OSError) as error:
            self._complain(f"the farm cannot be read: {error}")
        finally:
            for reader in self._readers.values():
                reader.close()
        return self.report

    def _complain(self, sentence: str) -> None:
        self.report.problems.append(sentence)

    def _registry(self) -> Registry | None:
        if not self._open("config", self._places.config):
            return None
        connection = connect(os.path.join(self._scratch, "config"))
        try:
            return read_registry(self._places, connection)
        finally:
            connection.close()

    def _open(self, name: str, path: str) -> bool:
        copy = os.path.join(self._scratch, name)
        try:
            for suffix in SIDE_FILES:
                if suffix == "" or os.path.exists(path + suffix):
                    shutil.copyfile(path + suffix, copy + suffix)
            self._readers[name] = Reader(copy)
            rows = self._readers[name].read("PRAGMA integrity_check(3)")
        except (sqlite3.Error, OSError) as error:
            self._complain(f"the database {path} cannot be read: {error}")
            return False
        if rows != [("ok",)]:
            self._complain(f"the database {path} is not sound: {'; '.join(row[0] for row in rows)}")
        return rows == [("ok",)]

    def _open_all(self, registry: Registry) -> bool:
        opened = [self._open(name, path) for name, path in {**registry.content, **registry.third_party}.items()]
        return all(opened)  # every database is looked at, whatever the first one says

    def _money(self, registry: Registry) -> None:
        total, under_way = money({name: self._readers[name] for name in registry.content})
        meta = dict(self._readers["config"].read("SELECT key, value FROM meta"))
        expected = int(meta["expected_total"])
        self.report.money, self.report.expected_money = total, expected
        self.report.transfers_under_way, self.report.last_backup = under_way, meta.get("last_backup", "")
        if total != expected:
            self._complain(f"the money of all content databases is {total}, and should be {expected}")
        if under_way and not self._allow_pending:
            self._complain(f"{under_way} transfers are under way, though the farm was quiesced")

    def _documents(self, registry: Registry) -> None:
        stored: dict[str, int] = {}
        for name in registry.content:
            stored.update(self._readers[name].read("SELECT key, version FROM documents"))
            self._site_map(name)
        self.report.documents = len(stored)
        for name, directory in registry.indexes.items():
            entries = self._entries(name, directory)
            if entries is not None:
                self._agreement(stored, entries)

    def _site_map(self, database: str) -> None:
        listed = {
            row[0] for row in self._readers["config"].read("SELECT key FROM site_map WHERE database = ?", database)
        }
        stored = {row[0] for row in self._readers[database].read("SELECT key FROM documents")}
        if listed - stored:
            self._complain(f"the site map lists {len(listed - stored)} documents that {database} does not have")
        if stored - listed and not self._allow_pending:
            self._complain(f"{database} has {len(stored - listed)} documents that the site map does not list")

    def _entries(self, name: str, directory: str) -> list[tuple[str, int]] | None:
        from shadowset.writers.farm.index import SearchIndex

        copy = os.path.join(self._scratch, f"{name}-index")
        try:
            os.mkdir(copy)
            for file in glob.glob(os.path.join(glob.escape(directory), "*"), include_hidden=True):
                shutil.copy(file, copy)
            return SearchIndex(copy).entries()
        except BaseException as error:  # tantivy's panics are no Exception
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                raise
            self._complain(f"the index {directory} cannot be read: {error}")
            return None

    def _agreement(self, stored: dict[str, int], entries: list[tuple[str, int]]) -> None:
        times = Counter(key for key, _version in entries)
        indexed = dict(entries)
        self.report.indexed = len(entries)
        twice = [key for key, number in times.items() if number > 1]
        unknown = [key for key in indexed if key not in stored]
        newer = [key for key, version in indexed.items() if version > stored.get(key, version)]
        older = [key for key, version in stored.items() if indexed.get(key, 0) < version]
        self.report.not_indexed = len(older)
        if twice:
            self._complain(f"{len(twice)} documents are in the index more than once, {twice[0]} among them")
        if unknown:
            self._complain(f"the index knows {len(unknown)} documents that no database has, {unknown[0]} among them")
        if newer:
            self._complain(f"the index knows newer versions of {len(newer)} documents, {newer[0]} among them")
        if older and not self._allow_pending:
            self._complain(f"{len(older)} documents are missing or old in the index, {older[0]} among them")

    def _third_party(self, registry: Registry) -> None:
        for name in registry.third_party:
            reader = self._readers[name]
            self.report.orders += reader.read("SELECT count(*) FROM orders")[0][0]
            query = "SELECT count(*) FROM orders WHERE total != (SELECT sum(amount) FROM lines WHERE order_id = id)"
            wrong = reader.read(query)[0][0]
            if wrong:
                self._complain(f"{wrong} orders of {name} do not have the total of their lines")
