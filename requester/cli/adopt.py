"""``shadowset volume adopt`` and ``release``: a file system in use moves in, and out again."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json, add_volume

if TYPE_CHECKING:
    from shadowset.requester.volumes.adoption import Plan
    from shadowset.vss.requester_protocol import VolumeInfo

ENDING = (signal.SIGTERM, signal.SIGHUP)


def register(actions: Commands) -> None:
    """Add both commands."""
    adopt = add_command(
        actions,
        "adopt",
        run_adopt,
        "protect a block device whose file system is in use, in seconds",
        "Protect a block device with its file system: unmount it, protect and attach it, and mount the live device in\n"
        "the same place with the same options. Nothing on it changes. Whoever uses it is named and nothing is done;\n"
        "when a step fails, all is taken back. 'shadowset volume release' is the way back.",
        "shadowset volume adopt /dev/vdb --dry-run",
    )
    adopt.add_argument("device", metavar="DEVICE", help="the block device")
    adopt.add_argument(
        "--name", default="", metavar="NAME", help="the volume's name (default: that of the mount point)"
    )
    adopt.add_argument("--mountpoint", default="", metavar="DIR", help="where to mount it, if it is not mounted now")
    adopt.add_argument("--storage", default="", metavar="DIR", help="directory for the shadow storage, elsewhere")
    adopt.add_argument("--via", choices=("auto", "nbd", "fuse"), default="auto", help="how (default: auto)")
    _add_dry_run(adopt)
    release = add_command(
        actions,
        "release",
        run_release,
        "give a protected volume back as the plain device that it was",
        "The way back from 'shadowset volume adopt': unmount, detach and stop protecting a volume, and mount its\n"
        "plain device in the same place with the same options. When a step fails, all is taken back. Refused while it\n"
        "is used, or has shadow copies and --force is not given: these are deleted then, and do not come back.",
        "shadowset volume release data --dry-run",
    )
    add_volume(release)
    release.add_argument("--force", action="store_true", help="also when it has shadow copies, which are deleted")
    _add_dry_run(release)


def _add_dry_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dry-run", action="store_true", help="say what would be done, after all checks")
    add_json(command)


def run_adopt(options: argparse.Namespace) -> int:
    """Move a file system in."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.volumes import default_storage
    from shadowset.requester.volumes.adoption import plan_adoption
    from shadowset.vss.paths import Paths

    paths = Paths.from_environment(os.environ)
    name = options.name or _name_of(options.device, options.mountpoint)
    storage = os.path.abspath(options.storage) if options.storage else default_storage(paths.state, name)
    device = os.path.realpath(options.device)
    with Administration(paths, client="shadowset volume adopt") as administration:
        plan = plan_adoption(administration, device, name, storage, options.mountpoint, options.via)
        done = _carry_out(options, plan)
        if done and not options.json:
            _tell_of_fstab(administration.volume(name), plan)
    return 0


def run_release(options: argparse.Namespace) -> int:
    """Move it out."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.volumes.adoption import plan_release

    with Administration(client="shadowset volume release") as administration:
        _carry_out(options, plan_release(administration, options.name, options.force))
    return 0


def _name_of(device: str, mount_point: str) -> str:
    """The last part of where it is mounted, or of the device's own name."""
    from shadowset.requester.volumes.mounting import mounts_of

    found = [each.path for each in mounts_of(device)] if os.path.exists(device) else []
    return os.path.basename((mount_point or (found[0] if found else device)).rstrip("/")) or "root"


def _carry_out(options: argparse.Namespace, plan: Plan) -> bool:
    """Whether it was done, and not only told of."""
    from shadowset.requester.cli.output import answer, note
    from shadowset.requester.sentences import printable
    from shadowset.requester.volumes.adoption import carry_out

    if options.dry_run:
        steps = [f"  {printable(each)}" for each in plan.sentences()]
        effect = f"{plan.place.path} would be away for some seconds." if plan.was_mounted else "Nobody would notice."
        text = "\n".join(["Nothing is in the way. These steps would be taken:", *steps, effect])
        answer(options.json, {"steps": plan.sentences(), "mounted": plan.was_mounted}, text)
        return False
    for number in ENDING:  # an end on the way takes everything back, too
        signal.signal(number, lambda got, _: sys.exit(128 + got))
    moved = carry_out(plan, note)
    away = f"; {plan.place.path} was away for {moved.away_s:.1f} s" if plan.was_mounted else ""
    answer(options.json, dataclasses.asdict(moved), printable(f"Done: {plan.result}{away}."))
    return True


def _tell_of_fstab(volume: VolumeInfo, plan: Plan) -> None:
    """At the next boot the plain device must not be mounted beside the volume."""
    from shadowset.requester.cli.output import say
    from shadowset.requester.volumes.fstab import fstab_line

    say("In /etc/fstab, this line is to stand in place of the device's own, if it has one:")
    say(fstab_line(volume, plan.place.path))
