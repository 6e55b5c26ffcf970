"""``shadowset top``: a live view."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json

if TYPE_CHECKING:
    from shadowset.requester.administration import Administration
    from shadowset.requester.top import Look

CLEAR = "\x1b[H\x1b[2J"


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "top",
        run,
        "watch volumes, writers and events live",
        "Show, again and again until interrupted, what the live volumes read and write, how their shadow storage\n"
        "grows, what state the writers are in, and the newest events. GROWS is what goes into the shadow storage, so\n"
        "what the copies cost just now. Where the output is no terminal it is shown once.",
        "shadowset top\nshadowset top --interval 5",
    )
    command.add_argument(
        "--interval", type=_seconds, default=2.0, metavar="SECONDS", help="between two looks (default: 2)"
    )
    command.add_argument("--once", action="store_true", help="two looks, and one answer")
    add_json(command)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no time between looks; give 0.1 to 3600 seconds")
    return seconds


def run(options: argparse.Namespace) -> int:
    """Show it until interrupted."""
    import shutil
    import sys
    import time

    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.output import emit_json, say
    from shadowset.requester.top import screen

    once = options.once or options.json or not sys.stdout.isatty()
    with Administration(client="shadowset top") as administration:
        before = None
        while True:
            now = look(administration)
            if before is not None and once:
                if options.json:
                    emit_json(now)
                else:
                    say(screen(now, before, 1000))
                return 0
            if not once:
                say(CLEAR + screen(now, before, shutil.get_terminal_size().lines - 1))
            before = now
            try:
                time.sleep(options.interval)
            except KeyboardInterrupt:
                return 0


def look(administration: Administration) -> Look:
    """What there is now."""
    import time

    from shadowset.requester.top import Look, device_counters

    volumes = administration.volume_list()
    return Look(
        time=time.monotonic(),
        service=administration.hello(),
        volumes=volumes,
        storages=administration.storage_list(),
        writers=administration.list_writers(),
        events=administration.list_events()[-50:],
        devices={volume.name: device_counters(volume.device) for volume in volumes},
    )
