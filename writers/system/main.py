"""``shadowset-writer-system``: the writers for the system itself, as one process."""

from __future__ import annotations

import argparse
import sys

from shadowset.writers.sdk import run_until_signal
from shadowset.writers.server_settings import run_program, settings_of, writer_parser
from shadowset.writers.system.settings import Settings
from shadowset.writers.system.writers import writers_of


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = writer_parser(
        "shadowset-writer-system",
        "VSS writers for the system itself: its state, the layout of its disks, and its users' files",
    )
    arguments.add_argument("--root", metavar="DIR", help="the system's tree, when it is not this host's own (/)")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Runs until SIGTERM or SIGINT. Errors: VssError."""
    settings = settings_of(arguments, Settings)
    settings.root = arguments.root or settings.root
    run_until_signal(*writers_of(settings.checked()))


def main(argv: list[str] | None = None) -> int:
    """The program."""
    return run_program(parser(), argv, run)


if __name__ == "__main__":
    sys.exit(main())
