"""Lines of diskshadow's language: comments, words, quotes and ``%ALIAS%``. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from shadowset.requester.cli import UsageError

_WORD = re.compile(r'"([^"]*)"|(\S+)')
_ALIAS = re.compile(r"%([^%\s]+)%")


def is_comment(line: str) -> bool:
    """Whether a line says nothing: empty, or after ``#`` or ``rem``."""
    text = line.strip()
    return not text or text.startswith("#") or text.split(maxsplit=1)[0].lower() == "rem"


def words(line: str) -> list[str]:
    """The words of a line; double quotes keep spaces in one. Errors: UsageError for a quote that does not end."""
    if line.count('"') % 2:
        raise UsageError(f"a quotation mark has no end in {line.strip()!r}")
    return [quoted or plain for quoted, plain in _WORD.findall(line)]


def substitute(line: str, aliases: Mapping[str, str], environment: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """A line with ``%NAME%`` replaced, and what each name stood for.

    Aliases are found in any case and go before variables of the environment. Errors: UsageError for an unknown name.
    """
    known = {name.upper(): value for name, value in aliases.items()}
    used: dict[str, str] = {}

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        value = known.get(name.upper(), environment.get(name))
        if value is None:
            raise UsageError(f"%{name}% is neither an alias nor in the environment; 'add' lists the aliases")
        used[name] = value
        return value

    return _ALIAS.sub(replace, line), used
