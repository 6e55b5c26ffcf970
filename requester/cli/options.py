"""What several commands' parsers have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run = Callable[[argparse.Namespace], int]


def add_command(
    commands: Commands, name: str, run: Run | None, summary: str, description: str, example: str
) -> argparse.ArgumentParser:
    """A parser for one command, with its one-line summary, its description and an example of its use."""
    command = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example:\n{_indented(example)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if run is not None:
        command.set_defaults(run=run)
    return command


def add_json(command: argparse.ArgumentParser) -> None:
    """The option --json."""
    command.add_argument(
        "--json",
        action="store_true",
        help="print the result as JSON: stable field names, enums by name, times ISO 8601",
    )


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines())
