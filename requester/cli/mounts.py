"""``shadowset mount`` and ``shadowset umount``: shadow copies as directories."""

from __future__ import annotations

import argparse
import os

from shadowset.requester.cli.options import Commands, add_command, add_json


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    mount = add_command(
        commands,
        "mount",
        run_mount,
        "mount a shadow copy, or all of a set, read-only",
        "Mount a shadow copy read-only and print where. Without DIR a place below the run-time directory is used.\n\n"
        "With --all, mount all copies of a set (the newest one, unless SET is given) below the empty directory\n"
        "DIR, at the paths that their volumes had when the set was cut: what was /srv/data is DIR/srv/data.\n\n"
        "Where the file system was not frozen for the cut, as that of a virtual machine, its log is replayed\n"
        "beside the copy, which stays as it is.",
        "shadowset mount 1c9e /mnt/yesterday\nshadowset mount --all /mnt/yesterday\nshadowset mount --all 7d02 /mnt",
    )
    mount.add_argument("copy", metavar="COPY|SET", nargs="?", help="a copy's id, device name or number; a set's id")
    mount.add_argument("directory", metavar="DIR", nargs="?", help="an empty directory")
    mount.add_argument("--all", action="store_true", help="all copies of a set, below DIR")
    mount.set_defaults(parser=mount)
    add_json(mount)
    umount = add_command(
        commands,
        "umount",
        run_umount,
        "unmount what 'shadowset mount' mounted",
        "Unmount a shadow copy, or all copies of a set, that 'shadowset mount' mounted. The copies stay.",
        "shadowset umount 1c9e\nshadowset umount /mnt/yesterday",
    )
    umount.add_argument(
        "copy", metavar="COPY|SET|DIR", help="a copy's id, device name or number, a set's id, or where it is mounted"
    )
    add_json(umount)


def run_mount(options: argparse.Namespace) -> int:
    """Mount a copy, or a set."""
    from shadowset.requester.backup_components import BackupComponents
    from shadowset.requester.cli.identify import find_copy
    from shadowset.requester.cli.output import answer
    from shadowset.requester.sentences import printable

    if options.copy is None:
        options.parser.error("name a shadow copy, or with --all a directory")
    if options.all:
        return _mount_all(options)
    with BackupComponents(client="shadowset mount") as calls:
        copy = find_copy(options.copy, calls.query())
        place = calls.expose_snapshot(copy.snapshot_id, os.path.abspath(options.directory) if options.directory else "")
    answer(options.json, {"snapshot_id": copy.snapshot_id, "path": place}, printable(place))
    return 0


def _mount_all(options: argparse.Namespace) -> int:
    """Of the two words the directory is the last one."""
    from shadowset.requester.backup_components import BackupComponents
    from shadowset.requester.cli.identify import find_set
    from shadowset.requester.cli.output import answer
    from shadowset.requester.sentences import printable
    from shadowset.vss.codes import Code, VssError

    root = os.path.abspath(options.directory or options.copy)
    with BackupComponents(client="shadowset mount") as calls:
        copies = calls.query()
        if options.directory:
            set_id = find_set(options.copy, copies)
        elif mounted := [copy for copy in copies if copy.mount_points]:
            set_id = max(mounted, key=lambda copy: copy.created_ns).snapshot_set_id
        else:
            message = "there is no shadow copy of a mounted volume; 'shadowset create' makes a set"
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
        places = calls.expose_set(set_id, root)
    answer(options.json, {"set_id": set_id, "path": root, "mounts": places}, "\n".join(map(printable, places)))
    return 0


def run_umount(options: argparse.Namespace) -> int:
    """Unmount a copy, or a set."""
    from shadowset.requester.backup_components import BackupComponents
    from shadowset.requester.cli.identify import find_object
    from shadowset.requester.cli.output import emit_json
    from shadowset.vss.codes import VssError
    from shadowset.vss.enums import ObjectType

    with BackupComponents(client="shadowset umount") as calls:
        copies = calls.query()
        place = os.path.abspath(options.copy)
        mounted = [copy for copy in copies if copy.exposed_name and copy.exposed_name == place]
        try:
            chosen = (ObjectType.SNAPSHOT, mounted[0].snapshot_id) if mounted else find_object(options.copy, copies)
        except VssError:
            if not os.path.isdir(place):
                raise
            chosen = (ObjectType.SNAPSHOT_SET, place)
        kind, found = chosen
        if kind is ObjectType.SNAPSHOT:
            place = next(copy.exposed_name for copy in copies if copy.snapshot_id == found)
            calls.unexpose_snapshot(found)
        else:
            calls.unexpose_set(found)
    if options.json:
        emit_json({"snapshot_id" if kind is ObjectType.SNAPSHOT else "set": found, "path": place})
    return 0
