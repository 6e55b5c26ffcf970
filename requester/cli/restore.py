"""``shadowset restore``: a backup goes back to where it came from, or into a directory."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from shadowset.requester.cli.backup import add_selection, selection
from shadowset.requester.cli.options import Commands, add_command, add_json

if TYPE_CHECKING:
    from shadowset.requester.restore.report import RestoreReport
    from shadowset.requester.restore.simulate import SimulatedComponent
    from shadowset.requester.restore.wishes import Wishes
    from shadowset.vss.enums import RollForward


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
        "A backup that builds on others is restored with them, oldest first; its writers hear that more is to come.\n\n"
        "With --to the files go below a directory of their own, in their original tree, and no writer is asked.",
        "shadowset restore /backup/monday\n"
        "shadowset restore /backup/monday --component 'SQLite Writer:databases/orders'\n"
        "shadowset restore /backup/monday --to /tmp/look",
    )
    command.add_argument("source", metavar="SOURCE", help="the directory of the backup")
    command.add_argument("--to", metavar="DIR", help="put the files below this new or empty directory, without writers")
    command.add_argument("--dry-run", action="store_true", help="only say what would go where; nobody is asked")
    add_selection(command)
    add_wishes(command)
    add_json(command)


def add_wishes(command: argparse.ArgumentParser) -> None:
    """The options by which a writer is told how to restore; each may be repeated."""
    wishes = command.add_argument_group("wishes", "WRITER:PATH is a component, WRITER alone all of that writer's")

    def add(name: str, metavar: str | tuple[str, ...], text: str) -> None:
        count = len(metavar) if isinstance(metavar, tuple) else None
        wishes.add_argument(name, action="append", default=[], nargs=count, metavar=metavar, help=text)

    add("--new-target", ("WRITER:PATH", "OLD", "NEW"), "files declared in directory OLD or beneath go to NEW")
    add("--authoritative", "WRITER:PATH", "what is restored wins over other replicas")
    add("--roll-forward", ("WRITER:PATH", "HOW"), "none, all, or partial:POINT in the writer's words")
    add("--rename", ("WRITER:PATH", "NAME"), "the component gets this name")
    add("--instance", ("WRITER", "INSTANCE"), "this running instance takes it")
    add("--option", ("WRITER:PATH", "TEXT"), 'a text for the writer, as "Name"="Value","Sub\\Component":"Name"="Value"')


def wishes_of(options: argparse.Namespace) -> Wishes:
    """The wishes of a command line. Errors: VssError, E_INVALIDARG."""
    from shadowset.requester.backup.plan import parse_selector
    from shadowset.requester.restore.wishes import Relocation, Wishes
    from shadowset.vss.restore_options import check_options

    return Wishes(
        options=tuple((parse_selector(who), check_options(text)) for who, text in options.option),
        authoritative=tuple(parse_selector(who) for who in options.authoritative),
        names=tuple((parse_selector(who), name) for who, name in options.rename),
        roll_forward=tuple((parse_selector(who), *_roll_forward(how)) for who, how in options.roll_forward),
        relocations=tuple(Relocation(parse_selector(who), old, new) for who, old, new in options.new_target),
        instances=tuple((parse_selector(who), instance) for who, instance in options.instance),
    )


def _roll_forward(text: str) -> tuple[RollForward, str]:
    from shadowset.vss.codes import Code, VssError
    from shadowset.vss.enums import RollForward

    word, _, point = text.partition(":")
    known = {"none": RollForward.NONE, "all": RollForward.ALL, "partial": RollForward.PARTIAL}
    if word.lower() not in known or bool(point) != (word.lower() == "partial"):
        raise VssError(Code.E_INVALIDARG, f"{text!r} is no way to roll forward; write none, all or partial:POINT")
    return known[word.lower()], point


def run(options: argparse.Namespace) -> int:
    """Restore a backup."""
    from shadowset.requester.cli.output import answer, note
    from shadowset.requester.cli.watch import TerminalObserver
    from shadowset.requester.restore.engine import RestoreJob

    wanted, excluded = selection(options)
    wishes = wishes_of(options)
    job = RestoreJob(options.source, wanted=wanted, excluded=excluded, observer=TerminalObserver(), wishes=wishes)
    if options.dry_run:
        found = job.simulate()
        answer(
            options.json, found, "\n".join([*(line for one in found for line in simulated_lines(one)), in_all(found)])
        )
        return 1 if any(one.reason for one in found) else 0
    report = job.run_to(options.to) if options.to else job.run()
    answer(options.json, report, report_text(report))
    if report.reboot_required:
        note("shadowset: restart the host to finish the restore")
    if not report.succeeded:
        note("shadowset: the restore is not complete; the reasons stand with the components")
    return 0 if report.succeeded else 1


def in_all(found: list[SimulatedComponent]) -> str:
    """What would become of how many files."""
    from shadowset.requester.progress import size_text

    files = [file for one in found if not one.reason for file in one.files]
    number = Counter(file.action for file in files)
    removed = sum(len(one.removed) for one in found if not one.reason)
    parts = [f"{number['create']} to create", f"{number['replace']} to replace", f"{number['change']} to change"]
    size = size_text(sum(file.bytes for file in files))
    return f"In all {len(files)} files of {size}: {', '.join(parts)}; {removed} to remove."


def simulated_lines(found: SimulatedComponent) -> list[str]:
    """What would be done with one component."""
    from shadowset.requester.sentences import printable

    events = "its writer would be told" if found.events else "its writer would not be told"
    lines = [f"{found.writer}: {found.component} from {found.backup} by {found.method}, {events}"]
    if found.reason:
        lines.append(f"  would not be restored: {found.reason}")
    if found.service:
        lines.append(f"  service {found.service} would be stopped and started")
    if found.at_reboot:
        lines.append("  at the next boot:")
    lines += [f"  {file.action} {file.destination}" for file in found.files]
    lines += [f"  remove {path}" for path in found.removed]
    return [printable(line) for line in lines]


def report_text(report: RestoreReport) -> str:
    """How a restore went."""
    from shadowset.requester.progress import size_text
    from shadowset.requester.sentences import printable, table
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
        places = (*component.mapped, *component.moved_to)
        lines += [printable(f"{component.component} was put into {place} instead") for place in places]
        if component.at_reboot:
            lines.append(printable(f"{component.component} takes its place at the next boot"))
        if component.restore_metadata:
            lines.append(printable(f"{component.component}: its writer notes {component.restore_metadata}"))
        if component.backups > 1:
            lines.append(printable(f"{component.component} was restored from {component.backups} backups"))
    lines += [printable(problem) for problem in report.problems]
    return "\n".join(lines)
