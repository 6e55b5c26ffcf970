"""The grammar of restore options as VSS publishes it.

Items ``"Name"="Value"`` stand one after the other with commas between. One that begins with ``"Sub\\Component":`` is
meant for that component and all beneath it, and so are those that follow, up to the next with such a beginning. Names
are compared without case.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from shadowset.vss.codes import Code, VssError

_ITEM = re.compile(r'\s*(?:"(?P<path>[^"]*)"\s*:\s*)?"(?P<name>[^"]+)"\s*=\s*"(?P<value>[^"]*)"\s*(?P<end>,|$)')
SEPARATOR = "\\"


class RestoreOption(NamedTuple):
    """``path`` is the full path of the component at the top of the subtree meant, empty for all of the component."""

    path: str
    name: str
    value: str


def parse_options(text: str) -> list[RestoreOption]:
    """All items in order. Errors: E_INVALIDARG naming the place where the grammar ends."""
    options = []
    position, path, more = 0, "", bool(text.strip())
    while more:
        found = _ITEM.match(text, position)
        if found is None:
            rest = text[position : position + 40]
            raise VssError(
                Code.E_INVALIDARG, f'restore options go wrong at {rest!r}; write "Name"="Value" with commas between'
            )
        path = found["path"].strip(SEPARATOR) if found["path"] is not None else path
        options.append(RestoreOption(path, found["name"], found["value"]))
        position, more = found.end(), found["end"] == ","
    return options


def options_text(options: list[RestoreOption]) -> str:
    """Options as text. Errors: E_INVALIDARG for a quotation mark, which the grammar cannot hold."""
    if any('"' in part for option in options for part in option):
        raise VssError(Code.E_INVALIDARG, "a restore option cannot hold a quotation mark; leave it out")
    items, path = [], ""
    for option in options:
        prefix = f'"{option.path}":' if option.path != path else ""
        path = option.path
        items.append(f'{prefix}"{option.name}"="{option.value}"')
    return ",".join(items)


def options_for(options: list[RestoreOption], path: str) -> dict[str, str]:
    """What holds for the component with this full path: the last of each name, names in lower case."""
    return {
        option.name.lower(): option.value
        for option in options
        if not option.path or path == option.path or path.startswith(option.path + SEPARATOR)
    }


def check_options(text: str) -> str:
    """The text, when it is of this grammar or is another one's altogether (it does not begin with a quotation mark).

    Errors: E_INVALIDARG.
    """
    if text.lstrip().startswith('"'):
        parse_options(text)
    return text
