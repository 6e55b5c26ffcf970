"""``shadowset list`` and ``shadowset show``: what shadow copies there are, and how they were made."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json, add_volume_filter

if TYPE_CHECKING:
    from shadowset.requester.administration import Administration
    from shadowset.vss.enums import ObjectType
    from shadowset.vss.requester_protocol import SetRecord, SnapshotProperties


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "list",
        run_list,
        "list shadow copies, set by set",
        "List the shadow copies, set by set, oldest first.",
        "shadowset list --volume data\nshadowset list --set 3f2a --json",
    )
    add_volume_filter(command, "only copies of this volume")
    command.add_argument("--set", metavar="SET", default="", help="only the copies of this set")
    add_json(command)
    show = add_command(
        commands,
        "show",
        run_show,
        "show everything about a set or a copy",
        "Show everything that is known of a shadow copy set or of one shadow copy. For a set: how long each volume\n"
        "was frozen and held, how far apart the volumes were cut, how each writer stood, and with --timeline who did\n"
        "what when.",
        "shadowset show 3f2a --timeline\nshadowset show HarddiskVolumeShadowCopy3",
    )
    show.add_argument("object", metavar="SET|COPY", help="a set's id, or 'last', or a copy's id, device name or number")
    show.add_argument("--timeline", action="store_true", help="draw the timeline of the set, in milliseconds")
    add_json(show)


def run_list(options: argparse.Namespace) -> int:
    """List copies."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.identify import find_set
    from shadowset.requester.cli.output import emit_json, say

    with Administration(client="shadowset list") as administration:
        copies = administration.query(volume=options.volume)
    if options.set:
        wanted = find_set(options.set, copies)
        copies = [copy for copy in copies if copy.snapshot_set_id == wanted]
    copies.sort(key=lambda copy: (copy.created_ns, copy.snapshot_set_id, copy.device_number))
    if options.json:
        emit_json(copies)
    elif not copies:
        say("There are no shadow copies" + (f" of {options.volume}." if options.volume else "."))
    else:
        sets = list(dict.fromkeys(copy.snapshot_set_id for copy in copies))
        members = ([copy for copy in copies if copy.snapshot_set_id == set_id] for set_id in sets)
        say("\n\n".join(set_text(group, [copy.snapshot_id for copy in copies]) for group in members))
    return 0


def set_text(copies: list[SnapshotProperties], all_ids: list[str] | None = None) -> str:
    """One set as a heading and a table; ids are shortened so that they differ among ``all_ids``."""
    from shadowset.requester.cli.identify import short_ids
    from shadowset.requester.progress import size_text
    from shadowset.requester.sentences import attributes_text, printable, table, time_text

    first = copies[0]
    number = f"{first.snapshots_count} shadow {'copy' if first.snapshots_count == 1 else 'copies'}"
    heading = f"Shadow copy set {printable(first.snapshot_set_id)}, made {time_text(first.created_ns)} with {number}"
    short = short_ids(all_ids or [copy.snapshot_id for copy in copies])
    rows = [
        [
            os.path.basename(copy.device_object),
            short[copy.snapshot_id],
            copy.original_volume,
            size_text(copy.size),
            copy.status.name.lower(),
            attributes_text(copy.attributes),
            copy.exposed_name,
        ]
        for copy in copies
    ]
    columns = ["SHADOW COPY", "ID", "VOLUME", "SIZE", "STATE", "ATTRIBUTES", "MOUNTED ON"]
    return f"{heading}\n{table(columns, rows, right=(3,), indent='  ')}"


def run_show(options: argparse.Namespace) -> int:
    """Show a set or a copy."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.identify import find_copy
    from shadowset.requester.cli.output import answer, emit_json, say
    from shadowset.vss.enums import ObjectType

    with Administration(client="shadowset show") as administration:
        copies = administration.query()
        last = find_record(administration, "last").set_id if options.object == "last" else ""
        kind, object_id = _find(last or options.object, copies)
        set_id = find_copy(object_id, copies).snapshot_set_id if kind == ObjectType.SNAPSHOT else object_id
        record = administration.get_set(set_id) if kind == ObjectType.SNAPSHOT_SET or options.timeline else None
    if kind == ObjectType.SNAPSHOT and not options.timeline:
        copy = find_copy(object_id, copies)
        answer(options.json, copy, copy_text(copy))
        return 0
    assert record is not None
    if options.json:
        emit_json(record)
    else:
        say(record_text(record))
        if options.timeline:
            say(f"\nTimeline\n{_timeline(record)}")
    return 0


def _find(text: str, copies: list[SnapshotProperties]) -> tuple[ObjectType, str]:
    from shadowset.requester.cli.identify import find_object
    from shadowset.vss.codes import Code, VssError
    from shadowset.vss.enums import ObjectType

    try:
        return find_object(text, copies)
    except VssError as error:
        # A set that failed, or whose copies are gone, is still in the coordinator's records under its whole id.
        if error.code != Code.VSS_E_OBJECT_NOT_FOUND or len(text) < 32:
            raise
        return ObjectType.SNAPSHOT_SET, text.strip("{}")


def find_record(administration: Administration, text: str) -> SetRecord:
    """The record of the set that a person means by its id, one of its copies, or 'last'. Errors: VssError."""
    from shadowset.requester.cli.identify import find_copy
    from shadowset.vss.codes import Code, VssError
    from shadowset.vss.enums import ObjectType

    if text == "last":
        made = [event for event in administration.list_events() if event.name in ("set-created", "set-failed")]
        if not made:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, "no set was made yet; 'shadowset create' makes one")
        return administration.get_set(made[-1].set_id)
    copies = administration.query()
    kind, object_id = _find(text, copies)
    if kind == ObjectType.SNAPSHOT:
        object_id = find_copy(object_id, copies).snapshot_set_id
    return administration.get_set(object_id)


def _timeline(record: SetRecord) -> str:
    from shadowset.requester.cli.timeline import draw_timeline

    block = "█" if "utf" in (sys.stdout.encoding or "").lower() else "#"
    return draw_timeline(record.timeline, shutil.get_terminal_size((100, 24)).columns, block)


def copy_text(copy: SnapshotProperties) -> str:
    """One copy, with the fields that vssadmin shows."""
    from shadowset.requester.progress import size_text
    from shadowset.requester.sentences import attributes_text, fields, time_text

    mounts = f" ({', '.join(copy.mount_points)})" if copy.mount_points else ""
    return fields(
        [
            ("Shadow copy ID", copy.snapshot_id),
            ("Shadow copy set ID", copy.snapshot_set_id),
            ("Copies in the set", f"{copy.snapshots_count} at creation time"),
            ("Creation time", time_text(copy.created_ns)),
            ("Original volume", f"{copy.original_volume}{mounts}"),
            ("Shadow copy volume", copy.device_object),
            ("Size", size_text(copy.size)),
            ("Originating machine", copy.originating_machine),
            ("Service machine", copy.service_machine),
            ("Provider", copy.provider_id),
            ("State", copy.status.name.lower()),
            ("Attributes", attributes_text(copy.attributes)),
            ("Mounted on", copy.exposed_name),
            ("Priority", str(copy.priority)),
            ("Held until", time_text(copy.hold_until_ns) if copy.hold_until_ns else ""),
            ("Generation", str(copy.number)),
        ]
    )


def record_text(record: SetRecord) -> str:
    """A set and how it was made."""
    from shadowset.requester.sentences import context_name, fields, time_text
    from shadowset.vss.codes import describe

    pairs = [
        ("Shadow copy set ID", record.set_id),
        ("Creation time", time_text(record.created_ns)),
        ("State", record.status.name.lower()),
        ("Context", context_name(record.context)),
        ("Volumes cut within", f"{record.skew_ms:.3f} ms"),
        ("Session", record.session_id),
    ]
    if record.failure.code:
        pairs.append(("Failure", f"{record.failure.message} [{describe(record.failure.code)}]"))
    return "\n\n".join([fields(pairs), *_record_tables(record)])


def _record_tables(record: SetRecord) -> list[str]:
    from shadowset.requester.cli.writers import writers_table
    from shadowset.requester.sentences import table

    parts = []
    if record.snapshots:
        parts.append(set_text(record.snapshots).partition("\n")[2])
    if record.volumes:
        rows = [
            [
                times.volume,
                *(f"{value:.3f}" for value in (times.frozen_ms, times.drain_ms, times.hold_ms, times.cut_offset_ms)),
                str(times.waited),
            ]
            for times in record.volumes
        ]
        columns = ["VOLUME", "FROZEN ms", "DRAIN ms", "HOLD ms", "CUT AFTER ms", "WRITES HELD"]
        parts.append(table(columns, rows, right=(1, 2, 3, 4, 5), indent="  "))
    if record.writers:
        parts.append(writers_table(record.writers, indent="  "))
    return parts
