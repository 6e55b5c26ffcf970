"""Values of the protocol in words: tables, times, names, JSON; nothing from others reaches a terminal raw. Pure."""

from __future__ import annotations

import binascii
import unicodedata
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import msgspec

from shadowset.vss.codes import code_name
from shadowset.vss.enums import Attribute, Context

_WORDS = {
    Attribute.CLIENT_ACCESSIBLE: "Client-accessible",
    Attribute.HARDWARE_ASSISTED: "Hardware-assisted",
    Attribute.NO_AUTORECOVERY: "No auto recovery",
    Attribute.AUTORECOVER: "Auto recovered",
    Attribute.TXF_RECOVERY: "TxF recovery",
}


def printable(text: str) -> str:
    """Text from elsewhere, with control, formatting and undecodable characters written as escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def width_of(text: str) -> int:
    """Columns that a text takes on a terminal."""
    wide = sum(1 for character in text if unicodedata.east_asian_width(character) in "WF")
    return len(text) + wide - sum(1 for character in text if unicodedata.combining(character))


def pad(text: str, width: int) -> str:
    """Text filled with spaces up to ``width`` columns."""
    return text + " " * (width - width_of(text))


def table(headings: list[str], rows: list[list[str]], right: tuple[int, ...] = (), indent: str = "") -> str:
    """An aligned table; columns in ``right`` are numbers and stand at the right of their column."""
    lines = [headings, *([printable(cell) or "-" for cell in row] for row in rows)]
    widths = [max(width_of(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(indent + _table_line(line, widths, right).rstrip() for line in lines)


def _table_line(cells: list[str], widths: list[int], right: tuple[int, ...]) -> str:
    filled = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        space = " " * (width - width_of(cell))
        filled.append(space + cell if column in right else cell + space)
    return "  ".join(filled)


def fields(pairs: list[tuple[str, str]], indent: str = "") -> str:
    """Names and values, one a line, values aligned."""
    width = max((len(name) for name, _ in pairs), default=0) + 1
    return "\n".join(f"{indent}{name + ':':<{width}} {printable(value) or '-'}".rstrip() for name, value in pairs)


def time_iso(nanoseconds: int) -> str:
    """Unix nanoseconds as ISO 8601 in UTC with microseconds; "" for 0, which stands for never."""
    if not nanoseconds:
        return ""
    moment = datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{nanoseconds // 1000 % 1_000_000:06d}Z"


def time_text(nanoseconds: int) -> str:
    """Unix nanoseconds in the local time zone, as tables show them."""
    if not nanoseconds:
        return "-"
    return _here(datetime.fromtimestamp(nanoseconds // 1_000_000_000))


def moment_text(text: str) -> str:
    """A moment that is written as in ISO 8601, as ``time_text`` shows it; any other text as it is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return _here(moment)


def _here(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def attribute_names(attributes: int) -> list[str]:
    """The names of the bits that are set; unknown bits in hexadecimal."""
    names = [flag.name for flag in Attribute if attributes & flag and flag.name]
    unknown = attributes & ~int(sum(Attribute))
    return [*names, f"0x{unknown:X}"] if unknown else names


def attributes_text(attributes: int) -> str:
    """Attributes in words, as administrators know them."""
    words = [
        _WORDS.get(flag, (flag.name or "").replace("_", " ").capitalize()) for flag in Attribute if attributes & flag
    ]
    return ", ".join(words)


def context_name(context: int) -> str:
    """The name of a context, or its attributes' names where it is none of the named ones."""
    try:
        return Context(context).name
    except ValueError:
        return "|".join(attribute_names(context))


def plain(value: Any) -> Any:
    """A protocol value as JSON sees it: enums and codes by name, attributes as lists of names, times as ISO 8601,
    bytes in base 64."""
    if isinstance(value, msgspec.Struct):
        pairs = (_plain_field(name, getattr(value, name)) for name in value.__struct_fields__)
        return dict(pairs)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bytes):
        return binascii.b2a_base64(value, newline=False).decode()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def _plain_field(name: str, value: Any) -> tuple[str, Any]:
    if name.endswith("_ns"):
        return name.removesuffix("_ns"), time_iso(value)
    if name == "attributes" and isinstance(value, int):
        return name, attribute_names(value)
    if name == "context":
        return name, context_name(value)
    if name == "code":
        return name, code_name(value)
    return name, plain(value)
