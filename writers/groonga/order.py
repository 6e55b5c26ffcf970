"""In which order the parts of a database are locked.

Setting one record writes to its table, then to the columns, then to the tables that index them or that they refer to.
Locking in that order lets a record that was begun come to its end: nothing behind it is locked yet. So the first tables
are locked first, records under way get a moment, and then comes the rest.
"""

from __future__ import annotations

from typing import Any

Tables = dict[str, dict[str, Any]]


def _behind(table: dict[str, Any]) -> set[str]:
    """The tables that a record of this one writes to."""
    found = {index["table"] for index in table["indexes"]}
    kinds = [table["key_type"]]
    for column in table["columns"].values():
        if column["type"] != "index":
            found |= {index["table"] for index in column["indexes"]}
            kinds.append(column["value_type"])
    return found | {kind["name"] for kind in kinds if kind and kind["type"] == "reference"}


def lock_order(tables: Tables) -> tuple[list[str], list[str]]:
    """The names to lock before the moment, and those after it. ``tables`` as the command ``schema`` tells them."""
    behind = {name: _behind(table) - {name} for name, table in tables.items()}
    left, order = sorted(tables), []
    while left:
        free = [name for name in left if not any(name in behind[other] for other in left)]
        order.append(free or left[:1])  # a ring is opened somewhere
        left = [name for name in left if name not in order[-1]]
    first = order[0] if order else []
    data: list[str] = []
    indexes: list[str] = []
    for name in (name for group in order for name in group):
        if name not in first:
            data.append(name)
        for column in tables[name]["columns"].values():
            (indexes if column["type"] == "index" else data).append(column["full_name"])
    return first, data + indexes
