"""``shadowset-writer-sqlite``: the SQLite writer as a process. It needs no rights beyond those on the databases."""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import tomllib
from typing import Any

from shadowset.vss.codes import Code, VssError
from shadowset.writers.sdk import run_until_signal
from shadowset.writers.sqlite.writer import SqliteWriter

SETTINGS: dict[str, type] = {
    "databases": list,
    "name": str,
    "busy_timeout_ms": int,
    "freeze_timeout_ms": int,
    "log_level": str,
}
LEVELS = ("debug", "info", "warning", "error")


def read_config(path: str) -> dict[str, Any]:
    """The settings of a TOML file, by the names of ``SETTINGS``.

    Errors: E_INVALIDARG naming the file and the setting.
    """
    try:
        with open(path, "rb") as file:
            settings = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise VssError(Code.E_INVALIDARG, f"the configuration {path} cannot be read: {error}") from error
    for name, value in settings.items():
        if name not in SETTINGS:
            known = ", ".join(SETTINGS)
            raise VssError(Code.E_INVALIDARG, f"{path}: there is no setting {name}; known are {known}")
        if not isinstance(value, SETTINGS[name]):
            raise VssError(Code.E_INVALIDARG, f"{path}: {name} has to be of type {SETTINGS[name].__name__}")
    return settings


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser("shadowset-writer-sqlite", description="VSS writer for SQLite databases")
    arguments.add_argument("databases", nargs="*", metavar="DATABASE", help="database file or glob pattern")
    arguments.add_argument("--name", help="instance name, when several of these writers run on one host")
    arguments.add_argument("--config", metavar="TOML", help="file with the same settings: " + ", ".join(SETTINGS))
    arguments.add_argument("--busy-timeout-ms", type=int, help="longest wait for another writer of a database (5000)")
    arguments.add_argument("--freeze-timeout-ms", type=int, help="longest time between freeze and thaw (60000)")
    arguments.add_argument("--log-level", choices=LEVELS, help="what goes to standard error (info)")
    return arguments


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The configuration file's settings, overridden by the command line's; databases of both are taken.

    Errors: E_INVALIDARG.
    """
    settings = read_config(arguments.config) if arguments.config else {}
    settings["databases"] = [*settings.get("databases", []), *arguments.databases]
    for name in ("name", "busy_timeout_ms", "freeze_timeout_ms", "log_level"):
        if getattr(arguments, name) is not None:
            settings[name] = getattr(arguments, name)
    if not settings["databases"] or not all(isinstance(item, str) for item in settings["databases"]):
        raise VssError(Code.E_INVALIDARG, "no database was named: give a path, a glob pattern or a configuration file")
    if settings.get("log_level", "info") not in LEVELS:
        raise VssError(Code.E_INVALIDARG, f"log_level has to be one of {', '.join(LEVELS)}")
    return settings


def allow_many_files() -> None:
    """A held database takes up to six descriptors; the usual limit of 1024 is there for programs that use select()."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(argv: list[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT. Exit status 1 with one sentence when it cannot."""
    try:
        settings = settings_of(parser().parse_args(argv))
        logging.basicConfig(level=settings.get("log_level", "info").upper(), format="%(message)s", stream=sys.stderr)
        writer = SqliteWriter(
            settings["databases"],
            instance_name=settings.get("name", ""),
            busy_timeout_ms=settings.get("busy_timeout_ms", 5000),
            freeze_timeout_ms=settings.get("freeze_timeout_ms", 60_000),
        )
        allow_many_files()
        run_until_signal(writer)
    except VssError as error:
        print(f"shadowset-writer-sqlite: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
