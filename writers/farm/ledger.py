"""Moves money between content databases without a transaction that spans them.

A transfer is four transactions, each in one database:

1. source: take the money from the account, and note the transfer in ``outgoing``;
2. target: give it to the account, and note the transfer's id in ``incoming``;
3. source: strike it out of ``outgoing``;
4. target: strike it out of ``incoming``.

A transfer is under way while it stands in ``outgoing`` and not in ``incoming``. At every instant
``balances of all databases + transfers under way`` is what the farm was founded with; so it is in every copy of all
databases that was made at one instant, and in no other copy except by luck. After a crash ``recover`` finishes what was
begun: each step can be repeated.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from shadowset.writers.farm.database import FarmDatabase


class Readable(Protocol):
    """Anything that answers a query."""

    def read(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows of one query."""


def transfer(source: FarmDatabase, target: FarmDatabase, account: int, to_account: int, amount: int) -> bool:
    """One transfer from beginning to end; False when the account is short of money.

    Errors: sqlite3.Error; LostFileError. The transfer is then undone, or under way until ``recover``.
    """
    number = uuid.uuid4().hex
    with source.write() as open_source:
        taken = open_source.execute(
            "UPDATE accounts SET balance = balance - ? WHERE id = ? AND balance >= ?", (amount, account, amount)
        )
        if taken.rowcount == 0:
            return False
        open_source.execute("INSERT INTO outgoing VALUES (?, ?, ?, ?)", (number, target.name, to_account, amount))
    _arrive(source, target, number, to_account, amount)
    return True


def _arrive(source: FarmDatabase, target: FarmDatabase, number: str, account: int, amount: int) -> None:
    with target.write() as open_target:
        if open_target.execute("INSERT OR IGNORE INTO incoming VALUES (?)", (number,)).rowcount:
            open_target.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, account))
    with source.write() as open_source:
        open_source.execute("DELETE FROM outgoing WHERE id = ?", (number,))
    with target.write() as open_target:
        open_target.execute("DELETE FROM incoming WHERE id = ?", (number,))


def recover(databases: Mapping[str, FarmDatabase]) -> int:
    """Finishes the transfers that were under way; returns how many."""
    finished = 0
    for source in databases.values():
        for number, target, account, amount in source.read("SELECT id, target, account, amount FROM outgoing"):
            if target in databases:
                _arrive(source, databases[target], number, account, amount)
                finished += 1
    for target_database in databases.values():
        with target_database.write() as connection:
            connection.execute("DELETE FROM incoming")  # whatever is left has no outgoing any more
    return finished


def money(databases: Mapping[str, Readable]) -> tuple[int, int]:
    """All money, and the number of transfers under way, of databases as of one instant."""
    total = under_way = 0
    arrived = {row[0] for database in databases.values() for row in database.read("SELECT id FROM incoming")}
    for database in databases.values():
        total += database.read("SELECT sum(balance) FROM accounts")[0][0] or 0
        for number, amount in database.read("SELECT id, amount FROM outgoing"):
            if number not in arrived:
                total, under_way = total + amount, under_way + 1
    return total, under_way
