"""The administrator's files: time-outs and caps in ``shadowsetd.toml`` and its drop-ins."""

from __future__ import annotations

import os
import tomllib
import uuid
from typing import Any

from shadowset.daemon.limits import Limits
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths


def refuse(path: str, sentence: str) -> VssError:
    """A file that cannot be used as it stands, as an error."""
    return VssError(Code.E_INVALIDARG, f"{path}: {sentence}")


def read_toml(path: str) -> dict[str, Any]:
    """Errors: E_INVALIDARG with a sentence that names the file."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise refuse(path, f"it cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refuse(path, f"it is not TOML: {error}") from None


def toml_files(directory: str) -> list[str]:
    """The ``*.toml`` of a directory in the order of their names; none where there is no directory."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise refuse(directory, f"it cannot be read: {error.strerror}") from None
    return [f"{directory}/{name}" for name in sorted(names) if name.endswith(".toml")]


def limit_options(paths: Paths) -> tuple[list[str], list[str]]:
    """What the files set, in the form of ``--limit`` and ``--writer-window``, later files last. Errors: VssError."""
    files = [paths.daemon_config] if os.path.lexists(paths.daemon_config) else []
    limits: list[str] = []
    windows: list[str] = []
    for path in [*files, *toml_files(paths.daemon_drop_ins)]:
        tables = read_toml(path)
        for name in tables.keys() - {"limit", "writer-window"}:
            raise refuse(path, f"there is no key {name!r}; known are 'limit' and 'writer-window'")
        limits += _numbers(path, tables, "limit")
        windows += _numbers(path, tables, "writer-window")
    return limits, windows


def _numbers(path: str, tables: dict[str, Any], title: str) -> list[str]:
    table = tables.get(title, {})
    if not isinstance(table, dict):
        raise refuse(path, f"key {title!r} must be a table, as [{title}]")
    for name, value in table.items():
        if title == "limit" and name not in Limits.names():
            raise refuse(path, f"key 'limit.{name}': there is no such limit; known are {', '.join(Limits.names())}")
        if title == "writer-window" and not _guid(name):
            raise refuse(path, f"key 'writer-window.{name}': that is not the id of a writer class")
        if type(value) is not int or value <= 0:
            raise refuse(path, f"key '{title}.{name}' must be a whole number above zero")
    return [f"{_guid(name) or name}={value}" for name, value in table.items()]


def _guid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return ""
