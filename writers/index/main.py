"""``shadowset-writer-index``: the search index writer as a process, run as the owner of the indexes."""

from __future__ import annotations

import argparse
import os
import sys

from shadowset.vss.codes import Code, VssError
from shadowset.writers.index.settings import Settings
from shadowset.writers.index.writer import IndexWriter
from shadowset.writers.sdk import run_until_signal
from shadowset.writers.server_settings import run_program, settings_of, writer_parser


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = writer_parser("shadowset-writer-index", "VSS writer for search indexes of Xapian and tantivy")
    arguments.add_argument("--check", action="store_true", help="only check each index and print what it holds")
    return arguments


def check(writer: IndexWriter) -> None:
    """Prints a line for each index. Errors: VSS_E_WRITERERROR_NONRETRYABLE when one is not sound."""
    problems = []
    for settings in writer.settings.index:
        path = os.path.realpath(settings.path)
        library = writer.library(path)
        problem = library.problem(path)
        print(f"{path}: {problem or library.read(path).stamp()}")
        problems += [settings.path] if problem else []
    if problems:
        message = f"of {len(writer.settings.index)} indexes, {len(problems)} are not sound; restore {problems[0]}"
        raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)


def run(arguments: argparse.Namespace) -> None:
    """Runs until SIGTERM or SIGINT. Errors: VssError."""
    settings = settings_of(arguments, Settings)
    if not settings.index:
        raise VssError(Code.E_INVALIDARG, "no index was named; give --config a file with [[index]] tables")
    writer = IndexWriter(settings)
    if arguments.check:
        check(writer)
    else:
        run_until_signal(writer)


def main(argv: list[str] | None = None) -> int:
    """The program."""
    return run_program(parser(), argv, run)


if __name__ == "__main__":
    sys.exit(main())
