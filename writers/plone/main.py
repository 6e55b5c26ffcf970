"""``shadowset-writer-plone``: the writer of a Plone farm as a process."""

from __future__ import annotations

import argparse
import sys

from shadowset.vss.codes import Code, VssError
from shadowset.writers.postgresql.server import require_driver
from shadowset.writers.sdk import run_until_signal
from shadowset.writers.server_settings import run_program, settings_of, writer_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = writer_parser(
        "shadowset-writer-plone", "VSS writer for a farm of Plone sites on Zope with RelStorage in PostgreSQL"
    )
    arguments.add_argument(
        "--create-register", action="store_true", help="make the tables of the farm's register, and end"
    )
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Runs until SIGTERM or SIGINT. Errors: VssError."""
    require_driver()
    from shadowset.writers.plone.settings import Settings
    from shadowset.writers.plone.writer import PloneWriter

    if not arguments.config:
        raise VssError(Code.E_INVALIDARG, "no farm was named; give a configuration file with --config")
    settings = settings_of(arguments, Settings)
    if arguments.create_register:
        create_register(settings.farm.connection)
    else:
        run_until_signal(PloneWriter(settings))


def create_register(connection: str) -> None:
    """Makes the tables of the register where they are missing. Errors: VssError."""
    import psycopg

    from shadowset.writers.plone.register import SCHEMA
    from shadowset.writers.plone.suspension import connect, failed

    try:
        with connect(connection) as session:
            session.execute(SCHEMA.encode())
    except psycopg.Error as error:
        raise failed("with its register", "does not take its tables", error) from error


def main(argv: list[str] | None = None) -> int:
    """The program."""
    return run_program(parser(), argv, run)


if __name__ == "__main__":
    sys.exit(main())
