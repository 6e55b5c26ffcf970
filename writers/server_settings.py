"""What the configuration files of writers have in common."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeVar, get_args

import msgspec

from shadowset.vss.codes import Code, VssError

LogLevel = Literal["debug", "info", "warning", "error"]


class Entry(Protocol):
    """One of the things that a file configures."""

    def problem(self) -> str:
        """What is wrong; empty when nothing is."""


class ServerSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One server. ``data_directory`` is needed when it shall be known while its server is down."""

    data_directory: str = ""
    stop_command: list[str] = []
    start_command: list[str] = []

    def problem(self) -> str:
        """What is wrong; empty when nothing is."""
        if self.data_directory and not os.path.isabs(self.data_directory):
            return f"has the data_directory {self.data_directory}; give an absolute path"
        if (self.stop_command or self.start_command) and not self.data_directory:
            return "has commands, but no data_directory by which a restore would know it; add data_directory"
        return ""


class WriterSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The rest of the file."""

    name: str = ""
    freeze_timeout_ms: int = 60_000
    log_level: LogLevel = "info"

    def entries(self) -> Sequence[Entry]:
        """What is configured: servers, or whatever the writer protects."""
        return ()


SettingsT = TypeVar("SettingsT", bound=WriterSettings)


def read_settings(path: str, kind: type[SettingsT]) -> SettingsT:
    """Reads a file. Errors: E_INVALIDARG naming the file and the setting."""
    try:
        settings = msgspec.convert(tomllib.loads(Path(path).read_text(encoding="utf-8")), kind)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise VssError(Code.E_INVALIDARG, f"the configuration {path} cannot be used: {error}") from error
    for number, entry in enumerate(settings.entries(), 1):
        if problem := entry.problem():
            raise VssError(Code.E_INVALIDARG, f"{path}: entry {number} {problem}")
    return settings


def writer_parser(program: str, description: str) -> argparse.ArgumentParser:
    """A command line with what all these writers take."""
    parser = argparse.ArgumentParser(program, description=description)
    parser.add_argument("--config", metavar="TOML", help="file with all settings")
    parser.add_argument("--name", help="instance name, when several of these writers run on one host")
    parser.add_argument("--log-level", choices=get_args(LogLevel), help="what goes to standard error (info)")
    return parser


def run_program(
    parser: argparse.ArgumentParser, argv: list[str] | None, run: Callable[[argparse.Namespace], None]
) -> int:
    """A writer's ``main``: exit status 1 with one sentence when it cannot run."""
    try:
        run(parser.parse_args(argv))
    except VssError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


def settings_of(arguments: argparse.Namespace, kind: type[SettingsT]) -> SettingsT:
    """The configuration file's settings with what the command line says; the log goes to standard error from now on.

    Errors: E_INVALIDARG.
    """
    settings = read_settings(arguments.config, kind) if arguments.config else kind()
    settings.name = arguments.name if arguments.name is not None else settings.name
    settings.log_level = arguments.log_level or settings.log_level
    logging.basicConfig(level=settings.log_level.upper(), format="%(message)s", stream=sys.stderr)
    return settings
