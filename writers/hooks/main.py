"""``shadowset-writer-hooks``: existing freeze and thaw scripts as a writer."""

from __future__ import annotations

import argparse
import sys

from shadowset.writers.hooks.settings import Settings
from shadowset.writers.hooks.writer import HookWriter
from shadowset.writers.sdk import run_until_signal
from shadowset.writers.server_settings import run_program, settings_of, writer_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return writer_parser(
        "shadowset-writer-hooks",
        "VSS writer that runs the freeze and thaw scripts of QEMU's guest agent, VMware Tools, Azure and Google; "
        "without a configuration, those in their usual places",
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs until SIGTERM or SIGINT. Errors: VssError."""
    run_until_signal(HookWriter(settings_of(arguments, Settings)))


def main(argv: list[str] | None = None) -> int:
    """The program."""
    return run_program(parser(), argv, run)


if __name__ == "__main__":
    sys.exit(main())
