"""``shadowset delta``: which parts of a volume changed since a shadow copy."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json

if TYPE_CHECKING:
    from shadowset.vss.codes import VssError
    from shadowset.vss.provider_protocol import ChangedRanges
    from shadowset.vss.requester_protocol import SnapshotProperties, VolumeInfo

NOW = "now"


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "delta",
        run,
        "list which parts of a volume changed since a shadow copy",
        "List which parts of a volume changed since a shadow copy, until a later copy of it or until now: offset and\n"
        "length in bytes, one range a line. What changed is always listed; what is listed may be as it was. For an\n"
        "incremental backup make the next copy first, ask for the changes between the two, and read them from the\n"
        "later copy's device; --apply does that for an image file of the earlier copy. Interrupted, it leaves a\n"
        "mixture; the same command makes it whole.\n\n"
        "Where it is not known, because a copy is gone or the provider keeps no account, the exit status is 1 and\n"
        "only a full backup helps.",
        "shadowset delta 3f2a 7c11 --json\nshadowset delta HarddiskVolumeShadowCopy3\n"
        "shadowset delta 3f2a 7c11 --apply /backup/data.img",
    )
    command.add_argument("since", metavar="COPY", help="the earlier copy's id, device name or number")
    command.add_argument(
        "until", metavar="COPY|now", nargs="?", default=NOW, help="a later copy of the same volume (default: now)"
    )
    command.add_argument(
        "--apply", metavar="IMAGE", help="bring this image file of the earlier copy up to the later one"
    )
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """List changed ranges."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.identify import find_copy
    from shadowset.requester.delta import whole_delta
    from shadowset.vss.codes import Code, VssError

    try:
        with Administration(client="shadowset delta") as administration:
            copies = administration.query()
            since = find_copy(options.since, copies)
            until = None if options.until == NOW else find_copy(options.until, copies)
            later = until.snapshot_id if until else ""
            delta = whole_delta(lambda at: administration.query_snapshot_delta(since.snapshot_id, later, at))
            if options.apply:
                _apply(options.apply, since, until, delta, administration.volume_list())
    except VssError as error:
        if error.code not in (Code.VSS_E_OBJECT_NOT_FOUND, Code.VSS_E_NOT_SUPPORTED):
            raise
        return _unknown(options, error)
    _tell(options, delta, since.snapshot_id, later)
    return 0


def _apply(
    image: str,
    since: SnapshotProperties,
    until: SnapshotProperties | None,
    delta: ChangedRanges,
    volumes: list[VolumeInfo],
) -> None:
    from shadowset.requester.cli import UsageError
    from shadowset.requester.image_update import check_image, update_image
    from shadowset.requester.progress import Meter

    if until is None:
        raise UsageError("--apply needs a later copy, since the live volume changes while it is read")
    check_image(image, (since.size, until.size), volumes)
    meter = Meter(sys.stderr, f"updating {image}", sum(length for _, length in delta.ranges))
    update_image(image, until.device_object, delta, meter.add)
    meter.finish()


def _unknown(options: argparse.Namespace, error: VssError) -> int:
    from shadowset.requester.cli.output import emit_json, note

    if options.json:
        emit_json({"known": False, "reason": error.message, "ranges": []})
    note(f"shadowset: what changed is unknown, take a full backup: {error}")
    return 1


def _tell(options: argparse.Namespace, delta: ChangedRanges, since: str, until: str) -> None:
    from shadowset.requester.cli.output import emit_json, note, say
    from shadowset.requester.progress import size_text

    changed = sum(length for _, length in delta.ranges)
    if options.json:
        emit_json(
            {
                "known": True,
                "since": since,
                "until": until or NOW,
                "block_size": delta.block_size,
                "size": delta.size,
                "changed": changed,
                "ranges": [{"offset": offset, "length": length} for offset, length in delta.ranges],
            }
        )
        return
    for offset, length in () if options.apply else delta.ranges:
        say(f"{offset} {length}")
    note(f"{size_text(changed)} of {size_text(delta.size)} changed, in blocks of {size_text(delta.block_size)}")
