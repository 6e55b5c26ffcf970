"""Write the tables of docs/writer-protocol.md from the message definitions: python docs/generate_writer_protocol.py

With --check it only tells, by its exit status, whether the page is up to date.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import msgspec

from shadowset.vss import components, enums, metadata, writer_protocol
from shadowset.vss.wire import MAX_FRAME, PROTOCOL_VERSION

PAGE = Path(__file__).parent / "writer-protocol.md"
BEGIN = "<!-- generated from the message definitions; do not edit below -->\n"

MESSAGES = (
    ("Messages of a writer", typing.get_args(writer_protocol.FromWriter)),
    ("Messages of the coordinator", typing.get_args(writer_protocol.ToWriter)),
)
VALUES = (
    writer_protocol.EventVolume,
    metadata.WriterMetadata,
    metadata.RestoreMethod,
    metadata.ComponentInfo,
    metadata.FileSet,
    metadata.ExcludedFiles,
    metadata.LocationMapping,
    metadata.Dependency,
    components.Component,
    components.Failure,
    components.PartialFile,
    components.DifferencedFile,
    components.DirectedTarget,
    components.RestoreSubcomponent,
)
ENUMS = (
    enums.Level,
    enums.WriterEvent,
    enums.BackupType,
    enums.RestoreType,
    enums.ComponentType,
    enums.UsageType,
    enums.SourceType,
    enums.RestoreMethodType,
    enums.WriterRestore,
    enums.RestoreTarget,
    enums.FileRestoreStatus,
)
PLAIN = {str: "string", int: "integer", bool: "boolean", bytes: "binary", float: "float"}


def type_name(kind: Any) -> str:
    """A field's type in words of MessagePack."""
    if kind in PLAIN:
        return PLAIN[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (list, tuple):
        return f"array of {type_name(arguments[0])}"
    if origin in (typing.Union, types.UnionType):
        names = [type_name(argument) for argument in arguments if argument is not type(None)]
        return " or ".join([*names, "nil"])
    if issubclass(kind, StrEnum):
        return f"string ({link(kind)})"
    if issubclass(kind, IntEnum):
        return f"integer ({link(kind)})"
    return link(kind)


def link(kind: type) -> str:
    return f"[{kind.__name__}](#{kind.__name__.lower()})"


def default_of(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
        if isinstance(value, msgspec.Struct):
            return "its own defaults"
    if isinstance(value, (IntEnum, StrEnum)):
        return f"`{value.value}`"
    if isinstance(value, msgspec.Struct):
        return "its own defaults"
    if value is None or isinstance(value, bool):
        return {None: "nil", False: "false", True: "true"}[value]
    return f"`{value}`" if value else "empty" if value != 0 else "`0`"


def described(kind: type, title: str) -> str:
    text = inspect.cleandoc(kind.__doc__ or "").replace("``", "`")
    fields = msgspec.structs.fields(kind)
    if not fields:
        return f"### {title}\n\n{text}\n"
    rows = [f"| `{field.encode_name}` | {type_name(field.type)} | {default_of(field)} |" for field in fields]
    return "\n".join([f"### {title}\n", f"{text}\n", "| field | type | default |", "|---|---|---|", *rows, ""])


def generated() -> str:
    parts = [BEGIN, f"Version {PROTOCOL_VERSION}; frames up to {MAX_FRAME >> 20} MiB.\n"]
    for title, kinds in MESSAGES:
        parts.append(f"## {title}\n")
        parts += [described(kind, f"`{kind.__struct_config__.tag}`") for kind in kinds]
    parts.append("## Values\n")
    parts += [described(kind, kind.__name__) for kind in VALUES]
    parts.append("## Numbers and words\n")
    for kind in ENUMS:
        parts.append(f"### {kind.__name__}\n\n{inspect.cleandoc(kind.__doc__ or '')}\n")
        parts.append(", ".join(f"{member.name} `{member.value}`" for member in kind) + "\n")
    return "\n".join(parts)


def main() -> int:
    page = PAGE.read_text()
    written = page[: page.index(BEGIN)] + generated()
    if "--check" in sys.argv:
        return 0 if written == page else 1
    PAGE.write_text(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
