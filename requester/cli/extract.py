"""``shadowset extract``: one file of a backup."""

from __future__ import annotations

import argparse
import os
import sys

from shadowset.requester.cli.options import Commands, add_command


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "extract",
        run,
        "write one file of a backup",
        "Write the contents of one file, as they were at the time of a backup, into a new file or to standard output.\n"
        "They are put together from the backups that it builds on, and checked. Writers do not hear of it: what needs\n"
        "them for a restore is restored with 'shadowset restore'.",
        "shadowset extract /backup/monday /srv/data/report.odt report-then.odt\n"
        "shadowset extract /backup/monday /srv/data/list.txt -",
    )
    command.add_argument("backup", metavar="BACKUP", help="the directory of a backup")
    command.add_argument("file", metavar="FILE", help="the file's own path")
    command.add_argument("output", metavar="OUTPUT", help="a new file, or - for standard output")


def run(options: argparse.Namespace) -> int:
    """Extract a file."""
    from shadowset.requester.restore.extract import extracted

    with extracted(options.backup, options.file) as source:
        if options.output == "-":
            _pour(source, sys.stdout.fileno())
            return 0
        target = os.open(options.output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            _pour(source, target)
            os.fsync(target)
        except BaseException:
            os.unlink(options.output)
            raise
        finally:
            os.close(target)
    return 0


def _pour(source: int, target: int) -> None:
    while data := os.read(source, 1 << 20):
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
