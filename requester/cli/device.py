"""``shadowset device``: a shadow copy as a block device."""

from __future__ import annotations

import argparse

from shadowset.requester.cli.options import Commands, add_command, add_copy, add_json


def register(commands: Commands) -> None:
    """Add the command of this module."""
    device = add_command(
        commands,
        "device",
        run_device,
        "make a read-only block device of a shadow copy",
        "Make a read-only block device of a shadow copy and print its name: /dev/nbdN where the kernel has nbd,\n"
        "else a loop device. It stays until it is removed or its copy goes.\n\n"
        "Programs that read a file as well need none: the copy's device object is there already ('shadowset list').",
        "shadowset device 1c9e\nshadowset device 1c9e --remove",
    )
    add_copy(device)
    device.add_argument("--via", choices=("auto", "nbd", "loop"), default="auto", help="how (default: auto)")
    device.add_argument("--remove", action="store_true", help="take the device away; refused while it is used")
    add_json(device)


def run_device(options: argparse.Namespace) -> int:
    """Make or remove one."""
    from shadowset.requester.backup_components import BackupComponents
    from shadowset.requester.cli.identify import find_copy
    from shadowset.requester.cli.output import answer, emit_json

    with BackupComponents(client="shadowset device") as calls:
        copy = find_copy(options.copy, calls.query())
        if options.remove:
            calls.detach_snapshot(copy.snapshot_id)
            if options.json:
                emit_json({"snapshot_id": copy.snapshot_id})
            return 0
        device = calls.attach_snapshot(copy.snapshot_id, options.via)
    answer(options.json, {"snapshot_id": copy.snapshot_id, "device": device}, device)
    return 0
