"""``shadowset-writer-qemu``: the QEMU writer as a process."""

from __future__ import annotations

import argparse
import sys

from shadowset.writers.qemu.settings import Settings
from shadowset.writers.qemu.writer import QemuWriter
from shadowset.writers.sdk import run_until_signal
from shadowset.writers.server_settings import run_program, settings_of, writer_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return writer_parser(
        "shadowset-writer-qemu",
        "VSS writer for QEMU's guests; without a configuration, for all that run on this host",
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs until SIGTERM or SIGINT. Errors: VssError."""
    run_until_signal(QemuWriter(settings_of(arguments, Settings)))


def main(argv: list[str] | None = None) -> int:
    """The program."""
    return run_program(parser(), argv, run)


if __name__ == "__main__":
    sys.exit(main())
