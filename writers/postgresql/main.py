"""``shadowset-writer-postgresql``: the PostgreSQL writer as a process, run as the owner of the clusters."""

from __future__ import annotations

import argparse
import logging
import sys

from shadowset.vss.codes import VssError
from shadowset.writers.postgresql.server import require_driver
from shadowset.writers.postgresql.settings import ClusterSettings, Settings, read_settings
from shadowset.writers.sdk import run_until_signal

LEVELS = ("debug", "info", "warning", "error")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        "shadowset-writer-postgresql",
        description="VSS writer for PostgreSQL clusters; without any, for those whose servers run",
    )
    arguments.add_argument(
        "connections", nargs="*", metavar="CONNECTION", help="how libpq reaches a cluster, without a password"
    )
    arguments.add_argument("--config", metavar="TOML", help="file with clusters and settings")
    arguments.add_argument("--name", help="instance name, when several of these writers run on one host")
    arguments.add_argument("--log-level", choices=LEVELS, help="what goes to standard error (info)")
    return arguments


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The configuration file's settings with what the command line adds. Errors: E_INVALIDARG."""
    settings = read_settings(arguments.config) if arguments.config else Settings()
    settings.cluster += [ClusterSettings(connection=text) for text in arguments.connections]
    settings.name = arguments.name if arguments.name is not None else settings.name
    settings.log_level = arguments.log_level or settings.log_level
    return settings


def main(argv: list[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT. Exit status 1 with one sentence when it cannot."""
    try:
        require_driver()
        from shadowset.writers.postgresql.writer import PostgresqlWriter

        settings = settings_of(parser().parse_args(argv))
        logging.basicConfig(level=settings.log_level.upper(), format="%(message)s", stream=sys.stderr)
        run_until_signal(PostgresqlWriter(settings))
    except VssError as error:
        print(f"shadowset-writer-postgresql: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
