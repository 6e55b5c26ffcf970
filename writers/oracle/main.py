"""``shadowset-writer-oracle``: the Oracle writer as a process."""

from __future__ import annotations

import argparse
import sys

from shadowset.vss.codes import Code, VssError
from shadowset.writers.oracle.settings import Settings
from shadowset.writers.oracle.writer import OracleWriter
from shadowset.writers.sdk import run_until_signal
from shadowset.writers.server_settings import run_program, settings_of, writer_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return writer_parser(
        "shadowset-writer-oracle",
        "VSS writer for Oracle databases, over a driver module. It was tested with a simulator, not on the product",
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs until SIGTERM or SIGINT. Errors: VssError."""
    settings = settings_of(arguments, Settings)
    if not settings.database:
        raise VssError(Code.E_INVALIDARG, "no database is configured; give --config with a [[database]]")
    run_until_signal(OracleWriter(settings))


def main(argv: list[str] | None = None) -> int:
    """The program."""
    return run_program(parser(), argv, run)


if __name__ == "__main__":
    sys.exit(main())
