"""``shadowset serve`` and ``shadowset status``: the coordinator itself."""

from __future__ import annotations

import argparse
import os
import sys

from shadowset.requester.cli.options import Commands, add_command, add_json


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    serve = add_command(
        commands,
        "serve",
        run_serve,
        "run the coordinator in the foreground",
        "Run the coordinator (shadowsetd) in the foreground, in place of this command. Options after the\n"
        "command's name are handed on to it; 'shadowsetd --help' lists them.",
        "shadowset serve\nSHADOWSET_RUNTIME_DIR=/tmp/run SHADOWSET_STATE_DIR=/tmp/state shadowset serve",
    )
    serve.set_defaults(hands_on=True)
    status = add_command(
        commands,
        "status",
        run_status,
        "tell whether the coordinator runs, and what it looks after",
        "Tell whether the coordinator runs, its version and process, and how many volumes, writers and sessions\n"
        "it has. Ends with status 2 when none answers.",
        "shadowset status --json",
    )
    add_json(status)


def run_serve(options: argparse.Namespace) -> int:
    """Become the coordinator."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "shadowset.daemon.main", *options.handed_on])


def run_status(options: argparse.Namespace) -> int:
    """Print what the coordinator says of itself."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.output import emit_json, say
    from shadowset.requester.sentences import fields

    with Administration(client="shadowset status") as administration:
        info = administration.hello()
    if options.json:
        emit_json(info)
    else:
        say(
            fields(
                [
                    ("Coordinator", f"running, process {info.pid}"),
                    ("Version", f"{info.version} (protocol {info.protocol})"),
                    ("Volumes", str(info.volumes)),
                    ("Writers", str(info.writers)),
                    ("Sessions", str(info.sessions)),
                    ("Device objects", f"served by process {info.devices_pid}" if info.devices_pid else "away"),
                ]
            )
        )
    return 0
