"""``shadowset restore``: a backup goes back to where it came from, or into a directory."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shadowset.requester.cli.backup import add_selection, selection
from shadowset.requester.cli.options import Commands, add_command, add_json

if TYPE_CHECKING:
    from shadowset.requester.restore.engine import RestoreReport


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "restore",
        run,
        "restore a backup",
        "Restore a backup that 'shadowset backup' made. First the whole backup is checked against its digests. Then\n"
        "the writers make way, the files are put back, and the writers take over.\n\n"
        "Each component is restored as a whole: its new files are all written and read back before the first old one\n"
        "is replaced, and files that belong to it but are not in the backup are removed (for example a data base's\n"
        "write-ahead log that is newer than the backup). This needs room for the component a second time.\n\n"
        "A volume that was mounted at the backup must be mounted again before files go there.\n\n"
        "With --to the files go below a directory of their own, in their original tree, and no writer is asked.",
        "shadowset restore /backup/monday\n"
        "shadowset restore /backup/monday --component 'SQLite Writer:databases/orders'\n"
        "shadowset restore /backup/monday --to /tmp/look",
    )
    command.add_argument("source", metavar="SOURCE", help="the directory of the backup")
    command.add_argument("--to", metavar="DIR", help="put the files below this new or empty directory, without writers")
    add_selection(command)
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Restore a backup."""
    from shadowset.requester.cli.output import emit_json, note, say
    from shadowset.requester.cli.watch import TerminalObserver
    from shadowset.requester.restore.engine import RestoreJob

    wanted, excluded = selection(options)
    job = RestoreJob(options.source, wanted=wanted, excluded=excluded, observer=TerminalObserver())
    report = job.run_to(options.to) if options.to else job.run()
    if options.json:
        emit_json(report)
    else:
        say(report_text(report))
    if not report.succeeded:
        note("shadowset: the restore is not complete; the reasons stand with the components")
    return 0 if report.succeeded else 1


def report_text(report: RestoreReport) -> str:
    """How a restore went."""
    from shadowset.requester.cli.output import printable, table
    from shadowset.requester.progress import size_text
    from shadowset.vss.enums import FileRestoreStatus

    words = {
        FileRestoreStatus.ALL: "restored",
        FileRestoreStatus.NONE: "NOT RESTORED",
        FileRestoreStatus.FAILED: "FAILED",
    }
    rows = [
        [
            component.writer,
            component.component,
            words[component.status],
            str(component.files),
            size_text(component.bytes),
            component.reason,
        ]
        for component in report.components
    ]
    lines = [table(["WRITER", "COMPONENT", "RESULT", "FILES", "SIZE", "REASON"], rows, right=(3, 4))]
    for component in report.components:
        lines += [printable(f"removed {path}, which is not in the backup") for path in component.removed]
        lines += [printable(f"{component.component} was put into {place} instead") for place in component.mapped]
    lines += [printable(problem) for problem in report.problems]
    return "\n".join(lines)
