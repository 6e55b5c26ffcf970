"""``shadowset metrics``: what monitoring wants to know."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command

if TYPE_CHECKING:
    from shadowset.requester.metrics import Seen


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "metrics",
        run,
        "print metrics for Prometheus",
        "Print what there is to watch, in the text format of Prometheus: volumes, shadow copies and their age, room\n"
        "of the shadow storage, writers, what the newest set cost, and when each kind of event came last. It\n"
        "needs the Python package prometheus-client.\n\n"
        "With --output the text goes to a file that is replaced as a whole, for node_exporter's textfile collector;\n"
        "run it by a timer. Without a coordinator it says 'shadowset_up 0', and the exit status is 0 all the same.",
        "shadowset metrics\nshadowset metrics --output /var/lib/prometheus/node-exporter/shadowset.prom",
    )
    command.add_argument("--output", default="", metavar="FILE", help="replace this file instead of printing")


def run(options: argparse.Namespace) -> int:
    """Print or write the metrics."""
    from shadowset.vss.codes import Code, VssError

    try:
        from shadowset.requester.metrics import exposition
    except ImportError as error:
        message = f"the Prometheus library is not there ({error}); install it with pip install 'shadowset[metrics]'"
        raise VssError(Code.VSS_E_NOT_SUPPORTED, message) from error
    from shadowset.requester.cli.output import say

    text = exposition(_look())
    if options.output:
        _replace(options.output, text)
    else:
        say(text.decode().rstrip("\n"))
    return 0


def _look() -> Seen | None:
    from shadowset.requester.administration import Administration
    from shadowset.requester.connection import ServiceUnavailable
    from shadowset.requester.metrics import Seen, newest_sets

    try:
        with Administration(client="shadowset metrics") as administration:
            copies = administration.query()
            return Seen(
                service=administration.hello(),
                volumes=administration.volume_list(),
                storages=administration.storage_list(),
                writers=administration.list_writers(),
                copies=copies,
                sets=[administration.get_set(set_id) for set_id in newest_sets(copies)],
                events=administration.list_events(),
            )
    except ServiceUnavailable:
        return None


def _replace(path: str, text: bytes) -> None:
    import os

    with open(f"{path}.new", "wb") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)
    os.replace(f"{path}.new", path)
