"""``shadowset mount`` and ``shadowset umount``: shadow copies as directories."""

from __future__ import annotations

import argparse
import os

from shadowset.requester.cli.options import Commands, add_command, add_copy, add_json


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    mount = add_command(
        commands,
        "mount",
        run_mount,
        "mount a shadow copy, read-only",
        "Mount a shadow copy read-only and print where. Without DIR a place below the run-time directory is used.",
        "shadowset mount 1c9e /mnt/yesterday",
    )
    add_copy(mount)
    mount.add_argument("directory", metavar="DIR", nargs="?", help="an empty directory")
    add_json(mount)
    umount = add_command(
        commands,
        "umount",
        run_umount,
        "unmount a shadow copy",
        "Unmount a shadow copy that 'shadowset mount' mounted. The copy stays.",
        "shadowset umount 1c9e\nshadowset umount /mnt/yesterday",
    )
    add_copy(umount, "a copy's id, device name or number, or where it is mounted")
    add_json(umount)


def run_mount(options: argparse.Namespace) -> int:
    """Mount a copy."""
    from shadowset.requester.backup_components import BackupComponents
    from shadowset.requester.cli.identify import find_copy
    from shadowset.requester.cli.output import answer, printable

    with BackupComponents(client="shadowset mount") as calls:
        copy = find_copy(options.copy, calls.query())
        place = calls.expose_snapshot(copy.snapshot_id, os.path.abspath(options.directory) if options.directory else "")
    answer(options.json, {"snapshot_id": copy.snapshot_id, "path": place}, printable(place))
    return 0


def run_umount(options: argparse.Namespace) -> int:
    """Unmount a copy."""
    from shadowset.requester.backup_components import BackupComponents
    from shadowset.requester.cli.identify import find_copy
    from shadowset.requester.cli.output import emit_json

    with BackupComponents(client="shadowset umount") as calls:
        copies = calls.query()
        place = os.path.abspath(options.copy)
        mounted = [copy for copy in copies if copy.exposed_name and copy.exposed_name == place]
        copy = mounted[0] if mounted else find_copy(options.copy, copies)
        calls.unexpose_snapshot(copy.snapshot_id)
    if options.json:
        emit_json({"snapshot_id": copy.snapshot_id, "path": copy.exposed_name})
    return 0
