"""One table of a configuration, whatever its syntax: values by their snake_case names, read once and checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from shadowset.vss.codes import Code, VssError

T = TypeVar("T")
YES_NO = {"yes": True, "no": False}


class Table:
    """``place`` is the file and the way to this table; ``spell`` turns a name into what the file's author writes.

    Every method that reads a value fails with E_INVALIDARG: one sentence with the place and what is allowed.
    """

    def __init__(self, values: Mapping[str, Any], place: str, spell: Callable[[str], str] = str) -> None:
        self.place = place
        self._values = values
        self._spell = spell
        self._asked: list[str] = []

    def refuse(self, sentence: str) -> NoReturn:
        """Errors: E_INVALIDARG, always."""
        raise VssError(Code.E_INVALIDARG, f"{self.place}: {sentence}")

    def _take(self, name: str) -> Any:
        self._asked.append(name)
        return self._values.get(name)

    def has(self, name: str) -> bool:
        """Whether the file gives a value."""
        return name in self._values

    def text(self, name: str, default: str | None = None) -> str:
        """A string; required when there is no default."""
        value = self._take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or (default is None and not value):
            self.refuse(f"{self._spell(name)} has to be a text" + ("" if default is not None else " that is not empty"))
        return value

    def flag(self, name: str, default: bool) -> bool:
        """``yes`` or ``no``; TOML's true and false mean the same."""
        value = self._take(name)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        return self._choose(name, value, YES_NO)

    def number(self, name: str, default: int | None, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``; required when there is no default."""
        value = self._take(name)
        if value is None and default is not None:
            return default
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.refuse(f"{self._spell(name)} has to be a whole number from {low} to {high}")
        return value

    def word(self, name: str, words: Mapping[str, T], default: T | None = None) -> T:
        """One of ``words``; required when there is no default."""
        value = self._take(name)
        if value is None and default is not None:
            return default
        return self._choose(name, value, words)

    def _choose(self, name: str, value: Any, words: Mapping[str, T]) -> T:
        if not isinstance(value, str) or value not in words:
            found = "is missing" if value is None else f"is {str(value)[:60]!r}"
            self.refuse(f"{self._spell(name)} {found}; it has to be one of {', '.join(words)}")
        return words[value]

    def tables(self, name: str) -> list[Table]:
        """The tables of this name, in order; one that stands alone counts as a list of one."""
        value = self._take(name)
        items = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(item, dict) for item in items):
            self.refuse(f"{self._spell(name)} has to be a table, not a value")
        step = self._spell(name)
        return [Table(item, f"{self.place}/{step}[{n}]", self._spell) for n, item in enumerate(items, 1)]

    def done(self) -> None:
        """Refuses what nobody has asked for."""
        for name in self._values:
            if name not in self._asked:
                known = ", ".join(self._spell(each) for each in self._asked)
                self.refuse(f"there is no {self._spell(name)} here; known are {known}")
