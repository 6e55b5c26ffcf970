"""``shadowset backups``: which backups there are, and which of them hold a component or a file."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shadowset.requester.cli.backup import add_selection, selection
from shadowset.requester.cli.options import Commands, add_command, add_json

if TYPE_CHECKING:
    from shadowset.requester.backup.catalogue import FoundFile, Version


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "backups",
        run,
        "list backups, and search them for components and files",
        "List the backups in these directories and beneath, oldest first, with what each builds on. One that cannot\n"
        "be restored, since it is damaged or its base is gone, is named with the reason, and the exit status is 1.\n\n"
        "With --file the files are listed that fit a pattern, in every backup that has them.",
        "shadowset backups /backup\n"
        "shadowset backups /backup --component 'SQLite Writer:databases/orders'\n"
        "shadowset backups /backup --file '*/orders.db'",
    )
    command.add_argument("places", nargs="+", metavar="DIR", help="a backup, or a directory with backups")
    command.add_argument("--file", default="", metavar="PATTERN", help="list files by path or name, with * and ?")
    add_selection(command)
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """List backups or files."""
    from shadowset.requester.backup.catalogue import Catalogue
    from shadowset.requester.cli.output import emit_json, note, say
    from shadowset.requester.sentences import printable

    wanted, _ = selection(options)
    catalogue = Catalogue(options.places)
    if options.file:
        files = list(catalogue.files(options.file, wanted or ()))
        if options.json:
            emit_json(files)
        else:
            say(files_text(files))
        return 0 if files else 1
    versions = catalogue.versions(wanted or ())
    if options.json:
        emit_json(versions)
    else:
        say(versions_text(versions))
    broken = [version for version in versions if version.trouble]
    for version in broken:
        note(printable(f"shadowset: {version.directory} cannot be restored: {version.trouble}"))
    return 1 if broken else 0


def versions_text(versions: list[Version]) -> str:
    """One line for each backup."""
    from shadowset.requester.progress import size_text
    from shadowset.requester.sentences import table

    rows = [
        [
            version.created,
            version.backup_type.lower(),
            "yes" if version.complete else "no",
            ", ".join(sorted({component.writer for component in version.components})),
            str(version.files),
            size_text(version.bytes),
            version.directory,
            version.needs,
        ]
        for version in versions
    ]
    return table(
        ["CREATED", "TYPE", "COMPLETE", "WRITERS", "FILES", "SIZE", "DIRECTORY", "BUILDS ON"], rows, right=(4, 5)
    )


def files_text(files: list[FoundFile]) -> str:
    """One line for each file in each backup."""
    from datetime import UTC, datetime

    from shadowset.requester.progress import size_text
    from shadowset.requester.sentences import table

    rows = [
        [
            file.created,
            file.path,
            size_text(file.bytes),
            datetime.fromtimestamp(file.mtime_ns // 10**9, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            file.directory,
        ]
        for file in files
    ]
    return table(["BACKUP", "FILE", "SIZE", "CHANGED", "DIRECTORY"], rows, right=(2,))
