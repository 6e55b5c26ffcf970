"""``shadowset-writer-groonga``: the Groonga writer as a process, run as the owner of the databases."""

from __future__ import annotations

import argparse
import sys

from shadowset.vss.codes import Code, VssError
from shadowset.writers.groonga.files import require_programs
from shadowset.writers.groonga.settings import GroongaServer, Settings
from shadowset.writers.groonga.writer import GroongaWriter
from shadowset.writers.sdk import run_until_signal
from shadowset.writers.server_settings import run_program, settings_of, writer_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = writer_parser(
        "shadowset-writer-groonga",
        "VSS writer for Groonga databases; without any, for the one of Groonga's own service",
    )
    arguments.add_argument("database", nargs="?", metavar="DATABASE", help="the first file of a database")
    arguments.add_argument("--url", help="http://HOST:PORT of the server that has DATABASE open")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Runs until SIGTERM or SIGINT. Errors: VssError."""
    require_programs()
    settings = settings_of(arguments, Settings)
    if arguments.database:
        server = GroongaServer(database=arguments.database, url=arguments.url or "")
        if problem := server.problem():
            raise VssError(Code.E_INVALIDARG, f"the command line {problem}")
        settings.server.append(server)
    elif arguments.url:
        raise VssError(Code.E_INVALIDARG, f"no database goes with --url {arguments.url}; name its first file")
    run_until_signal(GroongaWriter(settings))


def main(argv: list[str] | None = None) -> int:
    """The program."""
    return run_program(parser(), argv, run)


if __name__ == "__main__":
    sys.exit(main())
