"""``shadowset backup``: the components of writers, copied out of shadow copies into a directory."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json, add_tries, add_wait

UNSUPPORTED = ("whole", "skip", "refuse")
DESCRIPTION = (
    "Back up what the writers have: their components are chosen, the volumes they need are cut at one instant,\n"
    "their files are copied out of the shadow copies, and the shadow copies are deleted.\n\n"
    "TARGET becomes a directory with the files, the documents of the writers and of the backup, and a manifest\n"
    "with a digest of every file. It must be empty, or new in a directory that is there, and on none of the\n"
    "volumes that are cut. A component fails as a whole when one of its files cannot be read; the others are\n"
    "backed up all the same, and the exit status is 1. So it is when something is left out that your options do\n"
    "not leave out: a component whose files lie on an unprotected file system, or a writer that runs and did not\n"
    "describe itself.\n\n"
    "An incremental, differential or log backup needs the one that it builds on (--base). Its files alone are no\n"
    "backup: keep the whole chain. Components whose writers do not make such backups are taken whole and named."
)

if TYPE_CHECKING:
    from shadowset.requester.backup.engine import BackupReport
    from shadowset.vss.selection import Selector


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "backup",
        run,
        "back up applications into a directory",
        DESCRIPTION,
        "shadowset backup /backup/monday --type full\n"
        "shadowset backup /backup/tuesday --type incremental --base /backup/monday\n"
        "shadowset backup /backup/monday --writer 'SQLite Writer' --json\n"
        "shadowset backup /backup/monday --component 'SQLite Writer:databases/orders'",
    )
    command.add_argument("target", metavar="TARGET", help="a new or empty directory")
    add_selection(command)
    command.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="VOLUME",
        help="cut this volume too (files only as components say)",
    )
    command.add_argument(
        "--type",
        choices=("copy", "full", "incremental", "differential", "log"),
        default="copy",
        help="copy changes nothing; full is one that writers count and others build on; incremental takes what changed "
        "since the last full or incremental one, differential since the last full one, log only log files "
        "(default: copy)",
    )
    command.add_argument(
        "--base",
        default="",
        metavar="DIR",
        help="the backup that this one builds on; auto: the newest beside it that will do",
    )
    command.add_argument(
        "--unsupported",
        choices=UNSUPPORTED,
        default="whole",
        help="what to do with components that cannot build on the base: take them whole, skip them, or refuse the "
        "whole backup (default: whole)",
    )
    command.add_argument(
        "--option",
        action="append",
        default=[],
        nargs=2,
        metavar=("WRITER:PATH", "TEXT"),
        help="hand the component's writer this text; may be repeated",
    )
    add_wait(command)
    add_tries(command)
    add_json(command)


def add_selection(command: argparse.ArgumentParser) -> None:
    """The options that choose writers and components, for backup and restore alike."""
    command.add_argument(
        "--writer", action="append", default=[], metavar="NAME", help="only this writer (name or id); may be repeated"
    )
    command.add_argument(
        "--exclude-writer", action="append", default=[], metavar="NAME", help="not this writer; may be repeated"
    )
    command.add_argument(
        "--component",
        action="append",
        default=[],
        metavar="WRITER:PATH",
        help="only this component, by its logical path (/ or \\ between elements); may be repeated",
    )


def selection(options: argparse.Namespace) -> tuple[tuple[Selector, ...] | None, tuple[Selector, ...]]:
    """What is wanted (None: everything) and what is excluded."""
    from shadowset.requester.backup.plan import parse_selector
    from shadowset.vss.selection import Selector

    wanted = [Selector(name) for name in options.writer] + [parse_selector(text) for text in options.component]
    return tuple(wanted) or None, tuple(Selector(name) for name in options.exclude_writer)


def run(options: argparse.Namespace) -> int:
    """Make a backup."""
    from shadowset.requester.backup.engine import BackupJob
    from shadowset.requester.backup.kinds import Unsupported
    from shadowset.requester.backup.plan import Choice, parse_selector
    from shadowset.requester.cli.output import answer, note
    from shadowset.requester.cli.watch import TerminalObserver
    from shadowset.requester.retry import Policy, with_retries
    from shadowset.vss.enums import BackupType

    wanted, excluded = selection(options)
    choice = Choice(
        BackupType[options.type.upper()],
        wanted,
        excluded,
        tuple(options.volume),
        _base(options),
        Unsupported(options.unsupported),
        tuple((parse_selector(who), text) for who, text in options.option),
    )
    report = with_retries(
        lambda last: BackupJob(options.target, choice, observer=TerminalObserver(), wait=options.wait).run(),
        Policy(options.tries, options.retry_wait),
        lambda sentence: note(f"shadowset: {sentence}"),
    )
    answer(options.json, report, report_text(report))
    if not report.succeeded:
        failed = sum(1 for component in report.components if not component.succeeded)
        note(
            f"shadowset: the backup is not complete: {failed} of {len(report.components)} components failed, "
            f"{len(report.problems)} writers failed afterwards"
            + (f", {len(report.left_out)} left out" if report.left_out else "")
        )
        for sentence in report.left_out:
            note(f"shadowset: {sentence}")
    return 0 if report.succeeded else 1


def _base(options: argparse.Namespace) -> str:
    import os

    from shadowset.requester.backup.catalogue import Catalogue
    from shadowset.vss.enums import BackupType

    if options.base != "auto":
        return str(options.base)
    beside = os.path.dirname(os.path.abspath(options.target))
    return Catalogue([beside]).base_for(BackupType[options.type.upper()])


def report_text(report: BackupReport) -> str:
    """How a backup went."""
    from shadowset.requester.progress import size_text
    from shadowset.requester.sentences import printable, table

    rows = [
        [
            component.writer,
            component.full_path,
            "backed up" if component.succeeded else "FAILED",
            str(component.files),
            size_text(component.bytes),
            component.reason,
        ]
        for component in report.components
    ]
    lines = [table(["WRITER", "COMPONENT", "RESULT", "FILES", "SIZE", "REASON"], rows, right=(3, 4))]
    lines += [
        printable(f"component {component.full_path} of writer {component.writer} is whole: {component.why}")
        for component in report.components
        if component.why
    ]
    lines += [printable(sentence) for sentence in (*report.dropped, *report.skipped, *report.remarks, *report.problems)]
    there = size_text(report.bytes - report.stored_bytes)
    if report.resumed:
        lines.append(f"went on with a backup that was interrupted, of which {there} could be used")
    lines.append(
        printable(
            f"{report.files} files, {size_text(report.bytes)} in {report.target}; volumes "
            f"{', '.join(report.volumes) or 'none'} cut within {report.skew_ms:.3f} ms"
        )
    )
    return "\n".join(lines)
