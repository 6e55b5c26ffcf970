"""An application that keeps numbers by a library: ``KIND DIRECTORY``. Asked line by line; see ``applications.py``."""

from __future__ import annotations

import json
import sqlite3
import sys
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


KINDS: dict[str, Any] = {"sqlite": Sqlite}


def main() -> None:
    application = KINDS[sys.argv[1]](sys.argv[2])
    for line in sys.stdin:
        call, *number = line.split()
        answer = application.put(int(number[0])) if call == "put" else application.numbers()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
