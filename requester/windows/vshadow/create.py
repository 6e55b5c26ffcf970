"""vshadow's making of a shadow copy set, and its events around a restore."""

from __future__ import annotations

import os
import sys

from shadowset.requester.backup.manifest import write_atomically
from shadowset.requester.backup.verdicts import writer_failure_text
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.cli import EXIT_FAILURE, EXIT_OK
from shadowset.requester.cli.output import note, say
from shadowset.requester.cli.watch import show_notice
from shadowset.requester.sentences import printable
from shadowset.requester.windows.creation import Creation, Made, Wish, or_take_back
from shadowset.requester.windows.restoration import Restoration
from shadowset.requester.windows.scripts import ScriptFailed, run_file
from shadowset.requester.windows.shadow_text import VSHADOW, copy_text
from shadowset.requester.windows.vshadow.options import Options
from shadowset.requester.windows.vshadow.variables import shell_script, variables
from shadowset.requester.windows.words import braced
from shadowset.vss.enums import BackupType
from shadowset.vss.selection import Selector

CLIENT = "vshadow"


def create(options: Options) -> int:
    """Make a set and show it, write what is to be written, run what is to be run, and tell the writers.

    As published: the backup is a full one, and with a command that fails the set is taken back and the writers are
    not told that it is complete. Errors: VssError.
    """
    wish = _wish(options)
    say(f"- Setting the VSS context to: 0x{wish.context:08x}")
    with BackupComponents(client=CLIENT, on_notice=show_notice) as calls:
        creation = Creation(calls, wish)
        made = creation.make()
        _show(options, made)
        with or_take_back(calls, made):
            _save(options, creation, made)
            if options.has("exec"):
                run_file(options.of("exec"), variables(made.record.set_id, made.copies))
        failed = creation.complete(made)
        _save_document(options, creation, made)
        for status in failed:
            note(f"Error: after the backup {writer_failure_text(status)}")
        say("\nSnapshot creation done.")
        if options.has("wait"):
            _wait()
    return EXIT_FAILURE if failed or made.failed else EXIT_OK


def _wish(options: Options) -> Wish:
    return Wish(
        volumes=tuple((volume, "") for volume in options.volumes),
        context=options.context,
        backup_type=BackupType.FULL,
        required=_selectors(options, "wi"),
        excluded=_selectors(options, "wx"),
    )


def _wait() -> None:
    """Before the end of the session, with which the copies go that are not to stay."""
    say("Press Enter to end.")
    sys.stdout.flush()
    sys.stdin.readline()


def _selectors(options: Options, flag: str) -> tuple[Selector, ...]:
    return tuple(Selector.parse(text) for text in options.flags.get(flag, []))


def _show(options: Options, made: Made) -> None:
    say(f"Creating shadow set {braced(made.record.set_id)} ...")
    for volume in options.volumes:
        say(f"- Adding volume {printable(volume)} to the shadow set...")
    if options.has("tracing"):
        say("\n".join(made.details()))
    # Spelt as the published tool spells it, since scripts look for the line.
    say("Shadow copy set succesfully created.\n\nList of created shadow copies:\n")
    for copy in made.copies:
        say(copy_text(copy, VSHADOW))


def _save(options: Options, creation: Creation, made: Made) -> None:
    _save_document(options, creation, made)
    if options.has("script"):
        text = shell_script(variables(made.record.set_id, made.copies))
        write_atomically(os.path.abspath(options.of("script")), text.encode("utf-8", "surrogateescape"))


def _save_document(options: Options, creation: Creation, made: Made) -> None:
    file = options.of("bc") or options.of("t")
    if file:
        write_atomically(os.path.abspath(file), creation.documents(made)[0][1])


def restore(options: Options) -> int:
    """The writers' events around the command that puts the files back."""
    with BackupComponents(client=CLIENT, on_notice=show_notice) as calls:
        restoration = _restoration(options, calls)
        _show_chosen(restoration)
        restoration.begin()
        try:
            if options.has("exec"):
                run_file(options.of("exec"), {})
        except ScriptFailed:
            restoration.end(succeeded=False)
            raise
        restoration.end()
    say("\nRestore done.")
    return EXIT_OK


def simulate(options: Options) -> int:
    """Whom a restore would concern; no writer hears of it."""
    with BackupComponents(client=CLIENT) as calls:
        _show_chosen(_restoration(options, calls))
    say("\nRestore simulation done.")
    return EXIT_OK


def _restoration(options: Options, calls: BackupComponents) -> Restoration:
    with open(options.value, encoding="utf-8", errors="surrogateescape") as file:
        document = file.read()
    return Restoration(calls, document, _selectors(options, "wi"), _selectors(options, "wx"))


def _show_chosen(restoration: Restoration) -> None:
    for one in restoration.choose():
        say(printable(f'- Component "{one.writer.name}:\\{one.component.full_path}" is to be restored.'))
