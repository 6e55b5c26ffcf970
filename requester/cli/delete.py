"""``shadowset delete``: shadow copies and sets go."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json, add_volume_filter, add_yes

if TYPE_CHECKING:
    from shadowset.vss.enums import ObjectType
    from shadowset.vss.requester_protocol import DeletedCopy, DeleteResult, SnapshotProperties


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "delete",
        run,
        "delete shadow copies or sets",
        "Delete shadow copies: those named (an id of a set deletes its copies), all, or those of one volume.\n"
        "A mounted copy is refused unless --force is given. --all asks first, or wants --yes without a terminal.",
        "shadowset delete 3f2a\nshadowset delete --volume data --oldest\nshadowset delete --all --yes",
    )
    command.add_argument("objects", metavar="ID", nargs="*", help="a copy's id, device name or number, or a set's id")
    command.add_argument("--all", action="store_true", help="all copies, or with --volume all of that volume")
    add_volume_filter(command, "the volume for --all or --oldest")
    command.add_argument("--oldest", action="store_true", help="with --volume: the oldest copy only")
    command.add_argument("--force", action="store_true", help="also copies that are mounted or being read")
    add_yes(command)
    add_json(command)
    _register_undelete(commands)


def _register_undelete(commands: Commands) -> None:
    command = add_command(
        commands,
        "undelete",
        run_undelete,
        "take deleted shadow copies back",
        "Take deleted shadow copies back, where deletion is delayed (deletion_grace_ms among the settings). Without\n"
        "ID and --all: list those that can be taken back, for how long, and who deleted them.",
        "shadowset undelete\nshadowset undelete 3f2a\nshadowset undelete --all --volume data",
    )
    command.add_argument("objects", metavar="ID", nargs="*", help="a copy's id, device name or number, or a set's id")
    command.add_argument("--all", action="store_true", help="all that can be taken back")
    add_volume_filter(command, "only copies of this volume")
    add_json(command)


def run_undelete(options: argparse.Namespace) -> int:
    """Take copies back, or list them."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli import UsageError
    from shadowset.requester.cli.output import answer, emit_json, say

    if options.objects and options.all:
        raise UsageError("name copies, or choose them with --all, but not both")
    with Administration(client="shadowset undelete") as administration:
        deleted = administration.list_deleted(options.volume)
        if not options.objects and not options.all:
            emit_json(deleted) if options.json else say(_deleted_text(deleted))
            return 0
        wanted = [each.copy.snapshot_id for each in deleted] if options.all else _deleted_ids(options.objects, deleted)
        back = [administration.undelete_snapshot(snapshot_id) for snapshot_id in wanted]
    answer(options.json, back, f"{_copies(len(back))} taken back.")
    return 0


def _deleted_ids(objects: list[str], deleted: list[DeletedCopy]) -> list[str]:
    from shadowset.requester.cli.identify import find_object
    from shadowset.vss.enums import ObjectType

    copies = [each.copy for each in deleted]
    found = []
    for text in objects:
        kind, object_id = find_object(text, copies)
        of_set = kind == ObjectType.SNAPSHOT_SET
        found += [
            copy.snapshot_id for copy in copies if object_id == (copy.snapshot_set_id if of_set else copy.snapshot_id)
        ]
    return list(dict.fromkeys(found))


def _deleted_text(deleted: list[DeletedCopy]) -> str:
    from shadowset.requester.cli.identify import short_ids
    from shadowset.requester.sentences import table, time_text

    if not deleted:
        return "There are no deleted shadow copies that could be taken back."
    short = short_ids(each.copy.snapshot_id for each in deleted)
    rows = [
        [
            short[each.copy.snapshot_id],
            each.copy.original_volume,
            time_text(each.copy.created_ns),
            time_text(each.deleted_ns),
            _left(each.left_ms // 1000),
            each.actor,
        ]
        for each in deleted
    ]
    return table(["ID", "VOLUME", "MADE", "DELETED", "STILL FOR", "BY"], rows)


def _left(seconds: int) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def run(options: argparse.Namespace) -> int:
    """Delete copies."""
    from shadowset.requester.backup_components import BackupComponents
    from shadowset.requester.cli.confirm import confirmed
    from shadowset.requester.cli.output import answer, note
    from shadowset.vss.requester_protocol import DeleteResult

    _require_sense(options)
    total = DeleteResult(0)
    with BackupComponents(client="shadowset delete") as calls:
        chosen = _choose(options, calls.query(volume=options.volume))
        why = "--all deletes without a way back"
        if options.all and chosen and not confirmed(options.yes, f"Delete {_copies(len(chosen))}?", why):
            return 1
        for object_type, object_id in chosen:
            result = calls.delete_snapshots(object_id, object_type, options.force)
            total.deleted += result.deleted
            total.recoverable_until_ns = max(total.recoverable_until_ns, result.recoverable_until_ns)
            if result.not_deleted and not total.not_deleted:
                total.not_deleted, total.message = result.not_deleted, result.message
    answer(options.json, total, _told(total))
    if total.not_deleted:
        note(f"shadowset: {total.not_deleted} was not deleted: {total.message or 'the provider refused'}")
        return 1
    return 0


def _told(total: DeleteResult) -> str:
    from shadowset.requester.sentences import time_text

    until = total.recoverable_until_ns
    back = f" Until {time_text(until)} 'shadowset undelete' takes back what was deleted." if until else ""
    return f"{_copies(total.deleted)} deleted.{back}"


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


def _choose(options: argparse.Namespace, copies: list[SnapshotProperties]) -> list[tuple[ObjectType, str]]:
    from shadowset.requester.cli.identify import find_object
    from shadowset.vss.enums import ObjectType

    if options.objects:
        return list(dict.fromkeys(find_object(text, copies) for text in options.objects))
    copies = sorted(copies, key=lambda copy: (copy.created_ns, copy.device_number))
    return [(ObjectType.SNAPSHOT, copy.snapshot_id) for copy in (copies[:1] if options.oldest else copies)]


def _copies(number: int) -> str:
    return f"{number} shadow {'copy' if number == 1 else 'copies'}"
