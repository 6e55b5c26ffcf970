"""What several commands' parsers have in common."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TypeAlias

from shadowset.requester.durations import seconds_in

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run = Callable[[argparse.Namespace], int]

SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


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


def add_copy(command: argparse.ArgumentParser, meaning: str = "a copy's id, device name or number") -> None:
    """The argument COPY, which ``identify.find_copy`` understands."""
    command.add_argument("copy", metavar="COPY", help=meaning)


def add_volume(command: argparse.ArgumentParser) -> None:
    """The argument NAME, of a protected volume."""
    command.add_argument("name", metavar="NAME", help="the volume")


def add_volume_filter(command: argparse.ArgumentParser, meaning: str) -> None:
    """The option --volume; "" where it is not given."""
    command.add_argument("--volume", metavar="VOLUME", default="", help=meaning)


def add_yes(command: argparse.ArgumentParser) -> None:
    """The option --yes, for ``confirm.confirmed``."""
    command.add_argument("--yes", action="store_true", help="do not ask")


def parse_size(text: str) -> int:
    """Bytes from ``16384``, ``16K`` or ``1M``."""
    digits = text.upper().removesuffix("B").removesuffix("I")
    suffix = digits[-1:] if digits[-1:].isalpha() else ""
    number = digits.removesuffix(suffix) if suffix else digits
    if suffix not in SUFFIXES or not (number.isascii() and number.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give bytes, or a number with K, M, G or T")
    return int(number) * SUFFIXES[suffix]


def add_wait(command: argparse.ArgumentParser) -> None:
    """The option --wait, in seconds."""
    command.add_argument(
        "--wait",
        type=parse_duration,
        default=600,
        metavar="TIME",
        help="how long to wait while other sets are made, as 30s, 10m or 2h; 0s fails at once (default: 10m)",
    )


def add_tries(command: argparse.ArgumentParser) -> None:
    """The options --tries and --retry-wait."""
    command.add_argument(
        "--tries",
        type=parse_tries,
        default=1,
        metavar="NUMBER",
        help="try this often in all when a failure may pass by itself, as VSS_E_WRITERERROR_RETRYABLE (default: 1)",
    )
    command.add_argument(
        "--retry-wait",
        type=parse_duration,
        default=600,
        metavar="TIME",
        help="how long to wait between two tries (default: 10m)",
    )


def parse_tries(text: str) -> int:
    """A number from 1 to 99."""
    if not re.fullmatch(r"[1-9][0-9]?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tries; give one from 1 to 99")
    return int(text)


def parse_duration(text: str) -> int:
    """Seconds from a number with a unit."""
    try:
        return seconds_in(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines())
