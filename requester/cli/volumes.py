"""``shadowset volume …``: which volumes are protected, and their live block devices."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from shadowset.requester.cli import adopt
from shadowset.requester.cli.options import Commands, add_command, add_json, add_volume, parse_size

if TYPE_CHECKING:
    from shadowset.vss.requester_protocol import VolumeInfo


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    group = add_command(
        commands,
        "volume",
        None,
        "protect volumes and attach their live devices",
        "Protect volumes, attach and detach their live block devices, let them grow, list them, stop protecting them.",
        "shadowset volume add data /dev/sdb1\nshadowset volume attach data\nshadowset volume list",
    )
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    _register_add(actions)
    _register_attach(actions)
    _register_detach(actions)
    _register_resize(actions)
    _register_handover(actions)
    _register_fstab(actions)
    adopt.register(actions)
    _register_list(actions)
    _register_remove(actions)


def _register_add(actions: Commands) -> None:
    add = add_command(
        actions,
        "add",
        run_add,
        "protect a block device or image file",
        "Protect a block device or image file under a name. Its contents stay as they are and can be mounted\n"
        "without Shadowset at any time. It must not be mounted now: attach it, then mount the attached device.",
        "shadowset volume add data /dev/sdb1 --storage /var/lib/shadowset/storage/data",
    )
    add.add_argument("name", metavar="NAME", help="the volume's name in Shadowset")
    add.add_argument("origin", metavar="ORIGIN", help="the block device or image file")
    add.add_argument(
        "--storage",
        metavar="DIR",
        help="directory for the shadow storage, on no protected volume (default: storage/NAME in the state directory)",
    )
    add.add_argument(
        "--chunk-size",
        type=parse_size,
        default=16384,
        metavar="BYTES",
        help="unit of copy-on-write, a power of two; K, M, G and T are understood (default: 16K)",
    )
    add.add_argument(
        "--max-copies",
        type=int,
        default=512,
        metavar="NUMBER",
        help="most shadow copies that the volume can have, for a new shadow storage (default: 512)",
    )
    add_json(add)


def _register_attach(actions: Commands) -> None:
    attach = add_command(
        actions,
        "attach",
        run_attach,
        "make a block device of a protected volume",
        "Make a block device of a protected volume. Mount this device, and not the origin, as long as the volume\n"
        "is protected. With --via auto that is nbd where the kernel has it, else a loop device over FUSE.",
        "shadowset volume attach data\nmount /dev/shadowset/data /srv/data",
    )
    add_volume(attach)
    attach.add_argument("--via", choices=("auto", "nbd", "fuse"), default="auto", help="how (default: auto)")
    text = "wait so long for its provider, whose disks may come late (default: 0)"
    attach.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help=text)
    add_json(attach)


def _register_detach(actions: Commands) -> None:
    detach = add_command(
        actions,
        "detach",
        run_detach,
        "take the block device of a volume away",
        "Take the block device of a volume away. Refused while it is mounted. The volume stays protected.",
        "umount /srv/data\nshadowset volume detach data",
    )
    add_volume(detach)
    add_json(detach)


def _register_resize(actions: Commands) -> None:
    resize = add_command(
        actions,
        "resize",
        run_resize,
        "let a volume take in that its origin was enlarged",
        "Let a protected volume, and its block device if it has one, take in that the origin was enlarged (lvextend).\n"
        "Nothing need be unmounted; shadow copies keep the size that they had. The file system is grown afterwards.",
        "shadowset volume resize data\nresize2fs /dev/shadowset/data",
    )
    add_volume(resize)
    add_json(resize)


def _register_handover(actions: Commands) -> None:
    handover = add_command(
        actions,
        "handover",
        run_handover,
        "let a new process of the installed code serve a volume",
        "A live upgrade: a new provider process, of the code that is installed now, goes on in place of the one that\n"
        "serves the volume, with its storage, sockets and clients. Applications wait for milliseconds and see no\n"
        "error; shadow copies stay. When the new process fails, the old one goes on. Restart the coordinator first:\n"
        "it starts the new process.",
        "shadowset volume handover data",
    )
    add_volume(handover)
    add_json(handover)


def _register_fstab(actions: Commands) -> None:
    fstab = add_command(
        actions,
        "fstab",
        run_fstab,
        "print the line for /etc/fstab",
        "Print the line for /etc/fstab that attaches a volume at boot and mounts its file system. The volume is to be\n"
        "attached; without DIR it is to be mounted where it shall be mounted at boot.",
        "shadowset volume fstab data /srv/data",
    )
    add_volume(fstab)
    fstab.add_argument("mountpoint", metavar="DIR", nargs="?", default="", help="where it is to be mounted")
    fstab.add_argument("--options", default="defaults", metavar="LIST", help="mount options (default: %(default)s)")


def _register_list(actions: Commands) -> None:
    command = add_command(
        actions,
        "list",
        run_list,
        "list the protected volumes",
        "List the protected volumes: state, live device, size, number of shadow copies, space they use, how often\n"
        "their providers were restarted since the coordinator started, where mounted.",
        "shadowset volume list --json",
    )
    add_json(command)


def _register_remove(actions: Commands) -> None:
    remove = add_command(
        actions,
        "remove",
        run_remove,
        "stop protecting a volume",
        "Stop protecting a volume. Its shadow copies are deleted; the volume's own contents stay as they are.\n"
        "Refused while it is attached, or has shadow copies and --force is not given.",
        "shadowset volume remove data --force",
    )
    add_volume(remove)
    remove.add_argument("--force", action="store_true", help="also when it has shadow copies, which are deleted")
    add_json(remove)


def run_add(options: argparse.Namespace) -> int:
    """Protect a volume."""
    from shadowset.requester.administration import Administration
    from shadowset.vss.paths import Paths

    paths = Paths.from_environment(os.environ)
    storage = os.path.abspath(options.storage) if options.storage else default_storage(paths.state, options.name)
    with Administration(paths, client="shadowset volume add") as administration:
        volume = administration.volume_add(
            options.name, os.path.abspath(options.origin), storage, options.chunk_size, options.max_copies
        )
    _tell(options, volume, f"Volume {volume.name} is protected; 'shadowset volume attach {volume.name}' comes next.")
    return 0


def default_storage(state: str, name: str) -> str:
    """A place in the state directory; its parent is made here, since the coordinator asks that it be there."""
    os.makedirs(f"{state}/storage", mode=0o700, exist_ok=True)
    return os.path.abspath(f"{state}/storage/{name}")


def run_attach(options: argparse.Namespace) -> int:
    """Attach a volume."""
    from shadowset.requester.administration import Administration

    with Administration(client="shadowset volume attach") as administration:
        administration.volume_wait(options.name, options.wait)
        volume = administration.volume_attach(options.name, options.via)
    _tell(options, volume, f"Volume {volume.name} is attached as {volume.device} (via {volume.via}).")
    return 0


def run_detach(options: argparse.Namespace) -> int:
    """Detach a volume."""
    from shadowset.requester.administration import Administration

    with Administration(client="shadowset volume detach") as administration:
        volume = administration.volume_detach(options.name)
    _tell(options, volume, f"Volume {volume.name} is detached.")
    return 0


def run_resize(options: argparse.Namespace) -> int:
    """Take in what the origin has gained."""
    from shadowset.requester.administration import Administration

    with Administration(client="shadowset volume resize") as administration:
        volume = administration.volume_resize(options.name)
    _tell(options, volume, f"Volume {volume.name} has {volume.size} bytes. {_growing(volume)}")
    return 0


def run_handover(options: argparse.Namespace) -> int:
    """Upgrade the process of a volume."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.output import answer
    from shadowset.requester.sentences import printable

    with Administration(client="shadowset volume handover", timeout=60) as administration:
        done = administration.volume_hand_over(options.name)
    version = f"version {done.version}" + (f" (was {done.before})" if done.before not in ("", done.version) else "")
    waits = f"{done.stall_ms:.1f} ms" + (f" and {done.device_stall_ms:.1f} ms" if done.device_stall_ms else "")
    sentence = f"Volume {done.name} is served by process {done.pid}, {version}; requests waited {waits}."
    answer(options.json, done, printable(sentence))
    return 0


def run_fstab(options: argparse.Namespace) -> int:
    """The line for a file system on a volume."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.output import say
    from shadowset.requester.volumes.fstab import fstab_line

    with Administration(client="shadowset volume fstab") as administration:
        volume = administration.volume(options.name)
    say(fstab_line(volume, options.mountpoint, options.options))
    return 0


def _growing(volume: VolumeInfo) -> str:
    """What makes the file system as large as its device."""
    from shadowset.requester.backup.mounts import read_mounts

    if not volume.device:
        return "It is not attached; grow its file system when it is."
    types = {mount.path: mount.fs_type for mount in read_mounts()}
    known = {
        "ext4": f"resize2fs {volume.device}",
        "xfs": "xfs_growfs {}",
        "btrfs": "btrfs filesystem resize max {}",
    }
    for place in volume.mount_points:
        command = known.get(types.get(place, ""))
        if command:
            return f"Now let the file system grow: {command.format(place)}"
    hints = f"resize2fs {volume.device} for ext4, xfs_growfs MOUNTPOINT for XFS"
    return f"Now let what is on {volume.device} grow: {hints}."


def run_remove(options: argparse.Namespace) -> int:
    """Remove a volume."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.output import answer
    from shadowset.requester.sentences import printable

    with Administration(client="shadowset volume remove") as administration:
        administration.volume_remove(options.name, options.force)
    sentence = f"Volume {printable(options.name)} is no longer protected."
    answer(options.json, {"name": options.name, "removed": True}, sentence)
    return 0


def run_list(options: argparse.Namespace) -> int:
    """List the volumes."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.output import emit_json, say
    from shadowset.requester.progress import size_text
    from shadowset.requester.sentences import printable, table

    with Administration(client="shadowset volume list") as administration:
        volumes = administration.volume_list()
    if options.json:
        emit_json(volumes)
        return 0
    if not volumes:
        say("No volume is protected; 'shadowset volume add' begins.")
        return 0
    rows = [
        [
            volume.name,
            volume.state,
            f"{volume.device} ({volume.via})" if volume.device else "",
            size_text(volume.size),
            str(volume.copies),
            size_text(volume.storage_used),
            str(volume.restarts),
            ", ".join(volume.mount_points),
            volume.origin,
        ]
        for volume in volumes
    ]
    heads = ["VOLUME", "STATE", "DEVICE", "SIZE", "COPIES", "USED", "RESTARTS", "MOUNTED ON", "ORIGIN"]
    say(table(heads, rows, right=(3, 4, 5, 6)))
    for volume in volumes:
        if volume.message:
            say(f"{printable(volume.name)}: {printable(volume.message)}")
        elif volume.restarts:
            times = "once" if volume.restarts == 1 else f"{volume.restarts} times"
            say(f"{printable(volume.name)}: its provider was restarted {times}; last it {printable(volume.last_end)}")
    return 0


def _tell(options: argparse.Namespace, volume: VolumeInfo, sentence: str) -> None:
    from shadowset.requester.cli.output import answer
    from shadowset.requester.sentences import printable

    answer(options.json, volume, printable(sentence))
