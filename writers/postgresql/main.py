"""``shadowset-writer-postgresql``: the PostgreSQL writer as a process, run as the owner of the clusters."""

from __future__ import annotations

import argparse
import sys

from shadowset.vss.codes import Code, VssError
from shadowset.writers.postgresql.server import require_driver
from shadowset.writers.postgresql.settings import ClusterSettings, Settings
from shadowset.writers.sdk import run_until_signal
from shadowset.writers.server_settings import run_program, settings_of, writer_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = writer_parser(
        "shadowset-writer-postgresql",
        "VSS writer for PostgreSQL clusters; without any, for those whose servers run",
    )
    arguments.add_argument(
        "connections", nargs="*", metavar="CONNECTION", help="how libpq reaches a cluster, without a password"
    )
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Runs until SIGTERM or SIGINT. Errors: VssError."""
    require_driver()
    from shadowset.writers.postgresql.writer import PostgresqlWriter

    settings = settings_of(arguments, Settings)
    named = [ClusterSettings(connection=text) for text in arguments.connections]
    for number, cluster in enumerate(named, 1):
        if problem := cluster.problem():
            raise VssError(Code.E_INVALIDARG, f"the connection {number} {problem}")
    settings.cluster += named
    run_until_signal(PostgresqlWriter(settings))


def main(argv: list[str] | None = None) -> int:
    """The program."""
    return run_program(parser(), argv, run)


if __name__ == "__main__":
    sys.exit(main())
