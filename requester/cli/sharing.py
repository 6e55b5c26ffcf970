"""``shadowset expose`` and ``shadowset unexpose``: shadow copies that other hosts read."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json

if TYPE_CHECKING:
    from shadowset.requester.sharing.servers import Share
    from shadowset.requester.sharing.work import Shares


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    expose = add_command(
        commands,
        "expose",
        run_expose,
        "share a shadow copy read-only over the network",
        "Mount a shadow copy read-only and share it, or a directory in it: --samba as a share of Samba's server,\n"
        "--nfs as an export of the kernel's NFS server. Prints what clients mount. Without COPY: list the shares.\n\n"
        "What is not there any more after a reboot, a crash or the deletion of a copy, 'shadowset unexpose --stale'\n"
        "takes away, as the service does when it starts.",
        "shadowset expose 3f2a --samba yesterday --allow alice\n"
        "shadowset expose 3f2a --nfs --allow 192.0.2.0/24 --path projects/plans",
    )
    expose.add_argument("copy", metavar="COPY", nargs="?", help="a copy's id, device name or number")
    how = expose.add_mutually_exclusive_group()
    how.add_argument("--samba", metavar="NAME", default="", help="as a share of this name")
    how.add_argument("--nfs", action="store_true", help="as an export of NFS")
    expose.add_argument("--path", metavar="DIR", default="", help="only this directory, from the top of the volume")
    expose.add_argument(
        "--allow",
        metavar="WHO",
        action="append",
        default=[],
        help="for Samba a user or @group (without: whoever has a password); for NFS a host or network; may be repeated",
    )
    expose.add_argument("--guests", action="store_true", help="also who has no password (Samba)")
    expose.add_argument("--smb-conf", default="", metavar="FILE", help="Samba's configuration (default: Samba's own)")
    expose.set_defaults(parser=expose)
    add_json(expose)
    unexpose = add_command(
        commands,
        "unexpose",
        run_unexpose,
        "share a shadow copy no more",
        "Take away a share, an export, or all of a copy, and unmount the copy if it was mounted for that. Clients\n"
        "that read it are cut off. With --stale: what a reboot, a crash or the deletion of a copy left.",
        "shadowset unexpose yesterday\nshadowset unexpose --stale",
    )
    unexpose.add_argument("shared", metavar="NAME|PATH|COPY", nargs="?", help="a share, an exported path, or a copy")
    unexpose.add_argument("--stale", action="store_true", help="what is not there any more")
    unexpose.set_defaults(parser=unexpose)
    add_json(unexpose)


def run_expose(options: argparse.Namespace) -> int:
    """Share a copy, or list what is shared."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.identify import find_copy
    from shadowset.requester.cli.output import answer
    from shadowset.requester.sentences import printable
    from shadowset.requester.sharing.servers import NFS, SAMBA, Share
    from shadowset.requester.sharing.work import Shares
    from shadowset.vss.paths import Paths

    shares = Shares(Paths.from_environment(os.environ))
    if options.copy is None:
        return _list(options, shares.all())
    if not options.samba and not options.nfs:
        options.parser.error("say how: --samba NAME or --nfs")
    if options.nfs and (options.guests or options.smb_conf):
        options.parser.error("--guests and --smb-conf are for --samba")
    with Administration(client="shadowset expose") as administration:
        copy = find_copy(options.copy, administration.query())
    share = Share(
        kind=NFS if options.nfs else SAMBA,
        snapshot_id=copy.snapshot_id,
        name=options.samba,
        allowed=options.allow,
        guests=options.guests,
        smb_conf=os.path.abspath(options.smb_conf) if options.smb_conf else "",
    )
    place = shares.add(share, options.path)
    answer(options.json, {"share": share, "clients_use": place}, printable(place))
    return 0


def _list(options: argparse.Namespace, shares: list[Share]) -> int:
    from shadowset.requester.cli.output import answer
    from shadowset.requester.sentences import table

    if options.samba or options.nfs:
        options.parser.error("name a shadow copy")
    rows = [
        [one.kind, one.name or "-", one.snapshot_id, one.path, ", ".join(one.allowed) or "all", one.created]
        for one in shares
    ]
    answer(options.json, shares, table(["KIND", "NAME", "COPY", "PATH", "FOR", "SINCE"], rows))
    return 0


def run_unexpose(options: argparse.Namespace) -> int:
    """Take shares away."""
    from shadowset.requester.cli.output import answer
    from shadowset.requester.sharing.work import Shares
    from shadowset.vss.paths import Paths

    if (options.shared is None) != options.stale:
        options.parser.error("name a share, an exported path or a copy, or say --stale")
    shares = Shares(Paths.from_environment(os.environ))
    gone = shares.clean() if options.stale else _remove(options.shared, shares)
    answer(options.json, gone, "\n".join(f"{one.title} is gone" for one in gone) or "nothing was left")
    return 0


def _remove(word: str, shares: Shares) -> list[Share]:
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.identify import find_copy
    from shadowset.requester.sharing.work import find
    from shadowset.vss.codes import VssError

    known = shares.all()
    copy = ""
    if not any(word in (one.name, one.path) for one in known):
        with Administration(client="shadowset unexpose") as administration:
            try:
                copy = find_copy(word, administration.query()).snapshot_id
            except VssError:
                copy = ""
    wanted = find(word, known, copy)
    shares.remove(wanted)
    return wanted
