"""``shadowset delete``: shadow copies and sets go."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json, add_volume_filter, add_yes

if TYPE_CHECKING:
    from shadowset.vss.requester_protocol import SnapshotProperties


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "delete",
        run,
        "delete shadow copies or sets",
        "Delete shadow copies: those named (an id of a set deletes its copies), all, or those of one volume.\n"
        "Those that are mounted stay unless --force is given, those that are held stay in any case, and each that\n"
        "stays is named with its reason. --all lists them and asks first, or wants --yes without a terminal.",
        "shadowset delete 3f2a\nshadowset delete --volume data --oldest\nshadowset delete --all --yes",
    )
    command.add_argument("objects", metavar="ID", nargs="*", help="a copy's id, device name or number, or a set's id")
    command.add_argument("--all", action="store_true", help="all copies, or with --volume all of that volume")
    add_volume_filter(command, "the volume for --all or --oldest")
    command.add_argument("--oldest", action="store_true", help="with --volume: the oldest copy only")
    command.add_argument("--force", action="store_true", help="also copies that are mounted or being read")
    add_yes(command)
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Delete copies."""
    from shadowset.requester.backup_components import BackupComponents
    from shadowset.requester.cli.confirm import confirmed
    from shadowset.requester.cli.output import answer, note
    from shadowset.requester.deletion import delete_copies, deletion_text, question
    from shadowset.requester.sentences import printable

    _require_sense(options)
    with BackupComponents(client="shadowset delete") as calls:
        chosen = _choose(options, calls.query(volume=options.volume))
        if options.all and chosen and not options.yes:
            for line in question(chosen, calls.connection.service.deletion_grace_ms).splitlines():
                note(line)
            if not confirmed(False, "Delete them?", "--all deletes all of these"):
                return 1
        done = delete_copies(calls, chosen, options.force)
    answer(options.json, done, "\n".join(printable(line) for line in deletion_text(done).splitlines()))
    for stays in done.staying:
        note(f"shadowset: {stays.name} stays: {stays.message}")
    return int(bool(done.staying))


def _require_sense(options: argparse.Namespace) -> None:
    from shadowset.requester.cli import UsageError

    if options.objects and (options.all or options.oldest or options.volume):
        raise UsageError("name copies, or choose them with --all, --volume and --oldest, but not both")
    if options.volume and options.all == options.oldest:
        raise UsageError("with --volume say which: --oldest or --all")
    if options.oldest and not options.volume:
        raise UsageError("--oldest needs --volume VOLUME")
    if not options.objects and not options.volume and not options.all:
        raise UsageError("name the copies to delete, or give --all; 'shadowset list' shows what there is")


def _choose(options: argparse.Namespace, copies: list[SnapshotProperties]) -> list[SnapshotProperties]:
    from shadowset.requester.cli.identify import find_object
    from shadowset.vss.enums import ObjectType

    copies = sorted(copies, key=lambda copy: (copy.created_ns, copy.device_number))
    if options.objects:
        wanted = {find_object(text, copies) for text in options.objects}
        sets = {each for kind, each in wanted if kind == ObjectType.SNAPSHOT_SET}
        return [
            copy for copy in copies if copy.snapshot_set_id in sets or (ObjectType.SNAPSHOT, copy.snapshot_id) in wanted
        ]
    return copies[:1] if options.oldest else copies
