"""``shadowset samba``: previous versions for the clients of Samba shares."""

from __future__ import annotations

import argparse

from shadowset.requester.cli.options import Commands, add_command, add_json


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    top = add_command(
        commands,
        "samba",
        None,
        "previous versions for the clients of Samba shares",
        "Previous versions for the clients of Samba shares on protected volumes.",
        "shadowset samba config projects --path /srv/data/projects\nshadowset samba check projects",
    )
    actions = top.add_subparsers(title="actions", metavar="ACTION", required=True)
    config = add_command(
        actions,
        "config",
        run_config,
        "print a share's section for smb.conf",
        "Print the section of smb.conf for a share whose clients see the client-accessible shadow copies of its\n"
        "volume as previous versions. Make such copies with 'shadowset create VOLUME --context client-accessible'.\n\n"
        "With --fsrvp the section also lets clients ask for shadow copies over the network (FSRVP).",
        "shadowset samba config projects --path /srv/data/projects",
    )
    config.add_argument("share", metavar="SHARE", help="the share's name")
    config.add_argument("--path", required=True, metavar="DIR", help="the directory to share")
    config.add_argument("--fsrvp", action="store_true", help="let clients make shadow copies, too")
    check = add_command(
        actions,
        "check",
        run_check,
        "see whether a share's clients get previous versions",
        "Compare a share's parameters with what they should be, and ask the server with smbclient which previous\n"
        "versions it tells of. Exit status 1 when something is wrong, with a sentence for each.\n\n"
        "A password is read from the file of --authentication-file (as smbclient reads it) or from $PASSWD.",
        "shadowset samba check projects --user backup --authentication-file /root/smb.credentials",
    )
    check.add_argument("share", metavar="SHARE", help="the share's name")
    check.add_argument("--smb-conf", default="", metavar="FILE", help="Samba's configuration (default: Samba's own)")
    check.add_argument("--server", default="127.0.0.1", metavar="HOST", help="where smbd runs (default: 127.0.0.1)")
    check.add_argument("--port", type=int, default=445, metavar="PORT", help="smbd's port (default: 445)")
    check.add_argument("--user", default="", metavar="USER", help="who looks (default: nobody in particular)")
    check.add_argument("--authentication-file", default="", metavar="FILE", help="user and password")
    add_json(check)


def run_config(options: argparse.Namespace) -> int:
    """Print a section."""
    import os

    from shadowset.requester.administration import Administration
    from shadowset.requester.backup.mounts import VolumeMap, read_mounts
    from shadowset.requester.cli.output import say
    from shadowset.requester.samba.share import parameters, place_of, stanza
    from shadowset.vss.paths import Paths

    with Administration(client="shadowset samba") as administration:
        volumes = administration.volume_list()
    place = place_of(options.path, volumes, VolumeMap(volumes, read_mounts()))
    say(stanza(options.share, parameters(place, Paths.from_environment(os.environ), options.fsrvp)))
    return 0


def run_check(options: argparse.Namespace) -> int:
    """Look at a share."""
    import os

    from shadowset.requester.administration import Administration
    from shadowset.requester.backup.mounts import VolumeMap, read_mounts
    from shadowset.requester.cli.output import emit_json, note, say
    from shadowset.requester.samba.check import Client, ShareReport, compare, mounted_versions
    from shadowset.requester.samba.share import configured, differences, parameters, place_of
    from shadowset.vss.paths import Paths

    paths = Paths.from_environment(os.environ)
    found = configured(options.share, options.smb_conf)
    with Administration(client="shadowset samba") as administration:
        volumes = administration.volume_list()
    place = place_of(found.get("path", ""), volumes, VolumeMap(volumes, read_mounts()))
    client = Client(options.server, options.port, options.user, options.authentication_file, options.smb_conf)
    expected = mounted_versions(f"{paths.previous}/{place.volume}", place.relative)
    seen = client.versions(options.share)
    problems = differences(parameters(place, paths), found) + compare(expected, seen)
    report = ShareReport(share=options.share, volume=place.volume, expected=expected, seen=seen, problems=problems)
    if options.json:
        emit_json(report)
    else:
        say(f"share {options.share} on volume {place.volume}: clients see {len(seen)} of {len(expected)} versions")
    for problem in problems:
        note(f"shadowset: {problem}")
    return 1 if problems else 0
