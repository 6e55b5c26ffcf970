"""``shadowset verify``, ``restore-pending`` and ``betest``: what comes after a backup or a restore, and trying them."""

from __future__ import annotations

import argparse

from shadowset.requester.cli.backup import add_selection, selection
from shadowset.requester.cli.options import Commands, add_command, add_json


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    _register_verify(commands)
    _register_pending(commands)
    _register_betest(commands)


def _register_pending(commands: Commands) -> None:
    command = add_command(
        commands,
        "restore-pending",
        run_pending,
        "put files in place that a restore left for the next boot",
        "Some writers want their files replaced at boot, before anything uses them. A restore then writes the files\n"
        "beside their places; this command, which shadowset-restore-pending.service runs at boot, puts them there.\n"
        "What cannot be put in place, since its file system is not mounted, stays for the next time.",
        "shadowset restore-pending --list\nshadowset restore-pending",
    )
    what = command.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="only say what waits")
    what.add_argument("--cancel", action="store_true", help="give it all up: remove what was written")


def run_pending(options: argparse.Namespace) -> int:
    """Put waiting files in place, list them or give them up."""
    import os

    from shadowset.requester.cli.output import note, say
    from shadowset.requester.restore.pending import PendingList
    from shadowset.requester.sentences import printable
    from shadowset.vss.paths import Paths

    waiting = PendingList(Paths.from_environment(os.environ).pending)
    if options.list or options.cancel:
        records = waiting.cancel() if options.cancel else [record for _, record in waiting.records()]
        for record in records:
            say(printable(f"{record.writer}: {record.component} from {record.source}, {len(record.swaps)} files"))
        return 0
    status = 0
    for record, trouble in waiting.carry_out():
        if trouble:
            note(f"shadowset: {record.component} of {record.writer} still waits: {trouble}")
            status = 1
        else:
            say(printable(f"{record.component} of {record.writer} is in place, {len(record.swaps)} files"))
    return status


def _register_verify(commands: Commands) -> None:
    command = add_command(
        commands,
        "verify",
        run_verify,
        "check a backup, or restored files, against the digests of the backup",
        "Read a backup and all that it builds on, and compare everything with its digests. With --restored the files\n"
        "at their own places are compared too: every file of the backup has to be there with the same contents.",
        "shadowset verify /backup/monday\nshadowset verify /backup/monday --restored",
    )
    command.add_argument("source", metavar="SOURCE", help="the directory of the backup")
    command.add_argument("--restored", action="store_true", help="compare the files at their own places too")
    add_selection(command)
    add_json(command)


def run_verify(options: argparse.Namespace) -> int:
    """Check a backup."""
    from shadowset.requester.cli.output import emit_json, note, say
    from shadowset.requester.cli.watch import TerminalObserver
    from shadowset.requester.restore.verify import verify
    from shadowset.requester.sentences import printable

    wanted, excluded = selection(options)
    report = verify(options.source, wanted, excluded, options.restored, TerminalObserver())
    if options.json:
        emit_json(report)
    else:
        for difference in report.differences:
            say(printable(difference))
        found = f"{len(report.differences)} not" if report.differences else "all"
        say(f"{report.files} file{'' if report.files == 1 else 's'}, {found} as in the backup")
    if report.differences:
        note("shadowset: not all is as it was backed up; restore what differs")
    return 1 if report.differences else 0


def _register_betest(commands: Commands) -> None:
    command = add_command(
        commands,
        "betest",
        run_betest,
        "try writers with backups and restores, by the options of the published tool",
        "The command betest: 'shadowset betest /?' names its options. It backs up and restores the components that a\n"
        "configuration names, of any type, with or without telling the writers of the end.",
        "shadowset betest /B /S backup.xml /D /var/backups/test /X components.xml",
    )
    command.add_argument("options", nargs=argparse.REMAINDER, metavar="OPTION", help="as betest takes them")


def run_betest(options: argparse.Namespace) -> int:
    """Run betest."""
    from shadowset.requester.windows.betest import main

    return main(options.options or ["/?"])
