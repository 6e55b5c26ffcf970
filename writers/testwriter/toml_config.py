"""A configuration as TOML: the names of the XML form in snake_case, elements as tables."""

from __future__ import annotations

import tomllib

from shadowset.vss.codes import Code, VssError
from shadowset.writers.testwriter.table import Table


def toml_table(text: bytes, place: str) -> Table:
    """The root. Errors: E_INVALIDARG with the line."""
    try:
        values = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise VssError(Code.E_INVALIDARG, f"{place}: this is not TOML: {error}") from error
    return Table(values, place)
