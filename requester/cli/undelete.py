"""``shadowset undelete``: deleted shadow copies come back, where deletion is delayed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json, add_volume_filter

if TYPE_CHECKING:
    from shadowset.vss.requester_protocol import DeletedCopy


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "undelete",
        run,
        "take deleted shadow copies back",
        "Take deleted shadow copies back, where deletion is delayed (deletion_grace_ms among the settings). Without\n"
        "ID and --all: list those that can be taken back, for how long, and who deleted them.",
        "shadowset undelete\nshadowset undelete 3f2a\nshadowset undelete --all --volume data",
    )
    command.add_argument("objects", metavar="ID", nargs="*", help="a copy's id, device name or number, or a set's id")
    command.add_argument("--all", action="store_true", help="all that can be taken back")
    add_volume_filter(command, "only copies of this volume")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Take copies back, or list them."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli import UsageError
    from shadowset.requester.cli.output import answer, emit_json, say
    from shadowset.requester.deletion import copy_name, number_of
    from shadowset.requester.sentences import printable
    from shadowset.vss.codes import Code, VssError

    if options.objects and options.all:
        raise UsageError("name copies, or choose them with --all, but not both")
    with Administration(client="shadowset undelete") as administration:
        deleted = administration.list_deleted(options.volume)
        delayed = administration.hello().deletion_grace_ms > 0
        if not options.objects and not options.all:
            emit_json(deleted) if options.json else say(_deleted_text(deleted, delayed))
            return 0
        if options.objects and not deleted:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, _none(delayed))
        wanted = [each.copy.snapshot_id for each in deleted] if options.all else _deleted_ids(options.objects, deleted)
        back = [administration.undelete_snapshot(snapshot_id) for snapshot_id in wanted]
    names = f": {', '.join(copy_name(copy) for copy in back)}" if back else ""
    answer(options.json, back, printable(f"{number_of(len(back))} taken back{names}."))
    return 0


def _deleted_ids(objects: list[str], deleted: list[DeletedCopy]) -> list[str]:
    from shadowset.requester.cli.identify import find_object
    from shadowset.vss.enums import ObjectType

    copies = [each.copy for each in deleted]
    found = []
    for text in objects:
        kind, object_id = find_object(text, copies, "deleted shadow copy or set", "shadowset undelete")
        of_set = kind == ObjectType.SNAPSHOT_SET
        found += [
            copy.snapshot_id for copy in copies if object_id == (copy.snapshot_set_id if of_set else copy.snapshot_id)
        ]
    return list(dict.fromkeys(found))


def _none(delayed: bool) -> str:
    none = "there are no deleted shadow copies that could be taken back"
    why = "deletion is not delayed here, so what is deleted is gone; deletion_grace_ms in shadowsetd.toml delays it"
    return none if delayed else f"{none}: {why}"


def _deleted_text(deleted: list[DeletedCopy], delayed: bool) -> str:
    from shadowset.requester.cli.identify import short_ids
    from shadowset.requester.sentences import table, time_text

    if not deleted:
        none = _none(delayed)
        return f"{none[:1].upper()}{none[1:]}."
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
