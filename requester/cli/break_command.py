"""``shadowset break``: an ordinary volume of a shadow copy."""

from __future__ import annotations

import argparse
import sys

from shadowset.requester.cli.options import Commands, add_command, add_copy, add_json, add_yes


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "break",
        run,
        "make an ordinary volume of a shadow copy",
        "Make an ordinary volume of a shadow copy, which then is no shadow copy any more: a new image file, a block\n"
        "device, or for a copy of a btrfs subvolume a new subvolume on the same file system. The volume is read-only,\n"
        "and its file system gets a UUID of its own, so that it can be mounted beside the original.",
        "shadowset break 3f2a /srv/images/data.img --writable\nshadowset break 3f2a /dev/sdc1 --yes\n"
        "shadowset break 3f2a /srv/restored",
    )
    add_copy(command, "a copy's id, device name or number")
    command.add_argument("target", metavar="TARGET", help="a new file, a block device, or a new subvolume")
    command.add_argument("--writable", action="store_true", help="the volume may be written to")
    command.add_argument("--keep-uuid", action="store_true", help="the file system keeps the original's UUID")
    command.add_argument("--keep-copy", action="store_true", help="the shadow copy stays as well")
    add_yes(command)
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Break a copy."""
    import os
    import stat

    from shadowset.requester.administration import Administration
    from shadowset.requester.backup_components import BackupComponents
    from shadowset.requester.break_copy import break_copy
    from shadowset.requester.cli.confirm import confirmed
    from shadowset.requester.cli.identify import find_copy
    from shadowset.requester.cli.output import answer
    from shadowset.requester.progress import Meter
    from shadowset.vss.enums import ObjectType

    with Administration(client="shadowset break") as administration:
        copy = find_copy(options.copy, administration.query())
        device = os.path.exists(options.target) and stat.S_ISBLK(os.stat(options.target).st_mode)
        question = f"Overwrite {options.target} with this shadow copy?"
        if device and not confirmed(options.yes, question, f"{options.target} is overwritten"):
            return 1
        meter = Meter(sys.stderr, f"writing {options.target}", copy.size)
        volumes = administration.volume_list()
        uuid = break_copy(copy, options.target, volumes, options.writable, options.keep_uuid, meter.add)
        meter.finish()
        if not options.keep_copy:
            with BackupComponents() as calls:
                result = calls.delete_snapshots(copy.snapshot_id, ObjectType.SNAPSHOT)
            if result.not_deleted:
                sys.stderr.write(f"shadowset: {options.target} is complete, but the copy stays: {result.message}\n")
    made = {"target": options.target, "uuid": uuid, "writable": options.writable}
    answer(options.json, made, f"{options.target} is an ordinary volume now{f', UUID {uuid}' if uuid else ''}.")
    return 0
