"""Files of JSON lines that are added to: what a power loss tore is passed over."""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


def read_lines(path: str, kind: type[T]) -> list[T]:
    """All whole lines, oldest first; none when there is no file. Errors: OSError."""
    try:
        with open(path, "rb") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=kind))
        except msgspec.DecodeError:
            continue
    return found
