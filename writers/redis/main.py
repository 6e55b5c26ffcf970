"""``shadowset-writer-redis``: the Redis writer as a process."""

from __future__ import annotations

import argparse
import sys

from shadowset.writers.redis.server import require_driver
from shadowset.writers.redis.settings import RedisServer, Settings
from shadowset.writers.sdk import run_until_signal
from shadowset.writers.server_settings import run_program, settings_of, writer_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = writer_parser(
        "shadowset-writer-redis",
        "VSS writer for Redis servers; without any, for those in the usual places",
    )
    arguments.add_argument("sockets", nargs="*", metavar="SOCKET", help="the Unix socket of a server")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Runs until SIGTERM or SIGINT. Errors: VssError."""
    require_driver()
    from shadowset.writers.redis.writer import RedisWriter

    settings = settings_of(arguments, Settings)
    settings.server += [RedisServer(socket=path) for path in arguments.sockets]
    run_until_signal(RedisWriter(settings))


def main(argv: list[str] | None = None) -> int:
    """The program."""
    return run_program(parser(), argv, run)


if __name__ == "__main__":
    sys.exit(main())
