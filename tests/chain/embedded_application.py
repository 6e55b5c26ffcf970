"""An application that keeps numbers by a library: ``KIND PLACE…``. Asked line by line; see ``applications.py``."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import time
from typing import Any


class Sqlite:
    """A row for each number, committed."""

    def __init__(self, directory: str) -> None:
        self._connection = sqlite3.connect(f"{directory}/taken.db", isolation_level=None, timeout=60)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("CREATE TABLE IF NOT EXISTS taken (number INTEGER PRIMARY KEY)")

    def put(self, number: int) -> None:
        self._connection.execute("INSERT INTO taken VALUES (?)", (number,))

    def numbers(self) -> list[int]:
        return [row[0] for row in self._connection.execute("SELECT number FROM taken ORDER BY 1")]


class Xapian:
    """A document for each number; whoever has the lock is waited for."""

    def __init__(self, directory: str) -> None:
        from shadowset.writers.index.xapian_library import load

        self._xapian, self._directory = load(), directory
        self._xapian.WritableDatabase(directory, self._xapian.DB_CREATE_OR_OPEN | self._xapian.DB_RETRY_LOCK).close()

    def put(self, number: int) -> None:
        database = self._xapian.WritableDatabase(self._directory, self._xapian.DB_OPEN | self._xapian.DB_RETRY_LOCK)
        document = self._xapian.Document()
        document.set_data(str(number))
        document.add_term(f"Q{number}")
        database.replace_document(f"Q{number}", document)
        database.commit()
        database.close()

    def numbers(self) -> list[int]:
        database = self._xapian.Database(self._directory)
        return sorted(int(database.get_document(posting.docid).get_data()) for posting in database.postlist(""))


class Tantivy:
    """A document for each number, with a writer of its own; a busy lock is an error, and tried again."""

    def __init__(self, directory: str) -> None:
        import tantivy

        builder = tantivy.SchemaBuilder()
        builder.add_integer_field("number", stored=True, indexed=True)
        self._tantivy, self._index = tantivy, tantivy.Index(builder.build(), path=directory)

    def _writer(self) -> Any:
        while True:
            try:
                return self._index.writer(15_000_000, 1)
            except ValueError as error:
                if "LockBusy" not in str(error):
                    raise
                time.sleep(0.01)

    def put(self, number: int) -> None:
        writer = self._writer()
        writer.delete_documents_by_term("number", number)
        writer.add_document(self._tantivy.Document(number=number))
        writer.commit()
        writer.wait_merging_threads()

    def numbers(self) -> list[int]:
        self._index.reload()
        searcher = self._index.searcher()
        hits = searcher.search(self._tantivy.Query.all_query(), max(1, searcher.num_docs)).hits
        return sorted(searcher.doc(address)["number"][0] for _score, address in hits)


class Farm:
    """A demonstration farm with its writer: a document and a transfer for each number, and a third party beside."""

    def __init__(self, a: str, b: str, socket_path: str) -> None:
        from shadowset.writers.farm.app import Farm, FarmErrors
        from shadowset.writers.farm.layout import Places
        from shadowset.writers.farm.thirdparty import ThirdParty
        from shadowset.writers.farm.writer import FarmWriter

        self._farm = Farm(Places(a, b))
        with contextlib.suppress(FarmErrors):  # it is damaged then, and waits to be restored
            self._farm.open()
            self._farm.admit()
        third_parties = [ThirdParty(path, 0.02) for path in self._farm.registry.third_party.values()]
        for each in third_parties:
            each.start()
        self._writer = FarmWriter(self._farm, third_parties, socket_path=socket_path)
        self._writer.start()

    def put(self, number: int) -> None:
        source, target = self._farm.content_names[:: 1 if number % 2 else -1]
        with self._farm.request():
            self._farm.transfer(source, target, number % 50, number % 49, 7)
            self._farm.store(source, f"{number}", f"number{number} alder beech")

    def numbers(self) -> list[int]:
        return sorted(int(key) for key in self._farm.documents())


KINDS: dict[str, Any] = {"farm": Farm, "sqlite": Sqlite, "tantivy": Tantivy, "xapian": Xapian}


def main() -> None:
    application = KINDS[sys.argv[1]](*sys.argv[2:])
    print("null", flush=True)
    for line in sys.stdin:
        call, *number = line.split()
        answer = application.put(int(number[0])) if call == "put" else application.numbers()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
