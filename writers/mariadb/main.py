"""``shadowset-writer-mariadb``: the MariaDB writer as a process, run as the owner of the servers or as root."""

from __future__ import annotations

import argparse
import sys

from shadowset.writers.mariadb.server import require_driver
from shadowset.writers.mariadb.settings import MariadbServer, Settings
from shadowset.writers.sdk import run_until_signal
from shadowset.writers.server_settings import run_program, settings_of, writer_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = writer_parser(
        "shadowset-writer-mariadb",
        "VSS writer for MariaDB and MySQL servers; without any, for the one in the usual place",
    )
    arguments.add_argument("sockets", nargs="*", metavar="SOCKET", help="the Unix socket of a server")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Runs until SIGTERM or SIGINT. Errors: VssError."""
    require_driver()
    from shadowset.writers.mariadb.writer import MariadbWriter

    settings = settings_of(arguments, Settings)
    settings.server += [MariadbServer(socket=path) for path in arguments.sockets]
    run_until_signal(MariadbWriter(settings))


def main(argv: list[str] | None = None) -> int:
    """The program."""
    return run_program(parser(), argv, run)


if __name__ == "__main__":
    sys.exit(main())
