"""``shadowset extract``: single files of a backup."""

from __future__ import annotations

import argparse
import os
import sys

from shadowset.requester.cli.options import Commands, add_command, add_json


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "extract",
        run,
        "take single files out of a backup",
        "Write files, as they were at the time of a backup, to their own places, below another directory (--to), or\n"
        "one of them to standard output (--print). They are put together from the backups that it builds on, and\n"
        "checked. Writers do not hear of it: what needs them for a restore is restored with 'shadowset restore'.\n\n"
        "The exit status is 1 when a file was left as it is, since one is there already (--existing skip).",
        "shadowset extract /backup/monday /srv/data/report.odt --existing keep-both\n"
        "shadowset extract /backup/monday '*.odt' --to /tmp/look\n"
        "shadowset extract /backup/monday /srv/data/list.txt --print",
    )
    command.add_argument("backup", metavar="BACKUP", help="the directory of a backup")
    command.add_argument("pattern", metavar="FILE", help="path or name, with * and ?")
    where = command.add_mutually_exclusive_group()
    where.add_argument("--to", default="", metavar="DIR", help="below this directory, with their own paths")
    where.add_argument("--print", action="store_true", help="one file, by its path, to standard output")
    command.add_argument(
        "--existing",
        choices=("skip", "overwrite", "keep-both"),
        default="skip",
        help="where a file is there already: leave it, replace it, or put the other one beside it, with the backup's "
        "time in its name (default: skip)",
    )
    command.add_argument("--dry-run", action="store_true", help="only say what would go where")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Extract files."""
    from shadowset.requester.cli import UsageError
    from shadowset.requester.cli.output import answer, note
    from shadowset.requester.progress import size_text
    from shadowset.requester.restore.extract import extracted
    from shadowset.requester.restore.single_files import restore_files
    from shadowset.requester.sentences import table

    if options.print:
        if set(options.pattern) & set("*?[") and not options.pattern.startswith("/"):
            raise UsageError("--print writes one file; give its whole path")
        with extracted(options.backup, options.pattern) as source:
            _pour(source, sys.stdout.fileno())
        return 0
    found = restore_files(options.backup, options.pattern, options.existing, options.to, options.dry_run)
    rows = [[each.path, each.place or "left as it is", size_text(each.bytes)] for each in found]
    if not all(each.place for each in found):
        note("shadowset: what is there already was left as it is; --existing overwrite or keep-both does otherwise")
    answer(options.json, found, table(["FILE", "GOES TO" if options.dry_run else "IS AT", "SIZE"], rows, right=(2,)))
    return 0 if all(each.place for each in found) else 1


def _pour(source: int, target: int) -> None:
    while data := os.read(source, 1 << 20):
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
