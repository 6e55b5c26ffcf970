"""The administrator's files: time-outs and caps in ``shadowsetd.toml`` and its drop-ins."""

from __future__ import annotations

import grp
import os
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shadowset.daemon.limits import Limits
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths

KEYS = {"limit", "writer-window", "revert", "devices"}


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


def _files(paths: Paths) -> Iterator[tuple[str, dict[str, Any]]]:
    files = [paths.daemon_config] if os.path.lexists(paths.daemon_config) else []
    for path in [*files, *toml_files(paths.daemon_drop_ins)]:
        tables = read_toml(path)
        for name in tables.keys() - KEYS:
            raise refuse(path, f"there is no key {name!r}; known are {', '.join(map(repr, sorted(KEYS)))}")
        yield path, tables


@dataclass(frozen=True)
class Told:
    """What one file says: limits and windows in the form of ``--limit`` and ``--writer-window``, a group's number."""

    path: str
    limits: list[str]
    windows: list[str]
    blockers: list[str]
    group: str


def each_file(paths: Paths) -> Iterator[Told]:
    """The files in the order in which they count, later ones over earlier ones. Errors: VssError."""
    for path, tables in _files(paths):
        yield Told(
            path,
            _numbers(path, tables, "limit"),
            _numbers(path, tables, "writer-window"),
            _blockers(path, tables),
            _group(path, tables),
        )


def limit_options(paths: Paths) -> tuple[list[str], list[str]]:
    """What the files set, in the form of ``--limit`` and ``--writer-window``, later files last. Errors: VssError."""
    told = list(each_file(paths))
    return [option for each in told for option in each.limits], [option for each in told for option in each.windows]


def revert_blockers(paths: Paths) -> set[str]:
    """Writer classes whose files no revert may overwrite, of all files together. Errors: VssError."""
    return {writer_id for each in each_file(paths) for writer_id in each.blockers}


def device_group(paths: Paths) -> str:
    """The group that may read the device objects, "" for the usual one; the last file counts. Errors: VssError."""
    return next((each.group for each in reversed(list(each_file(paths))) if each.group), "")


def _group(path: str, tables: dict[str, Any]) -> str:
    table = tables.get("devices", {})
    if not isinstance(table, dict) or table.keys() - {"group"}:
        raise refuse(path, "key 'devices' must be a table with the key 'group'")
    name = table.get("group", "")
    try:
        if type(name) is int and name >= 0:
            return str(name)
        if isinstance(name, str):
            return str(grp.getgrnam(name).gr_gid) if name else ""
    except KeyError:
        pass
    raise refuse(path, f"key 'devices.group': there is no group {name!r} on this host")


def _blockers(path: str, tables: dict[str, Any]) -> list[str]:
    table = tables.get("revert", {})
    listed = table.get("blocked-by", []) if isinstance(table, dict) and table.keys() <= {"blocked-by"} else None
    if not isinstance(listed, list):
        raise refuse(path, "key 'revert' must be a table with the list 'blocked-by'")
    for name in listed:
        if not isinstance(name, str) or not _guid(name):
            raise refuse(path, f"key 'revert.blocked-by': {name!r} is not the id of a writer class")
    return [_guid(name) for name in listed]


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
