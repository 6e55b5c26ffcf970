"""The command ``vshadow``: the flags of the SDK's tool over the requester library."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from shadowset.requester.cli import EXIT_OK, guarded

if TYPE_CHECKING:
    from shadowset.requester.windows.vshadow.options import Options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 wrong usage or no coordinator."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return guarded("Error", lambda: _run(given))


def _run(given: list[str]) -> int:
    from shadowset import __version__
    from shadowset.requester.cli.output import say
    from shadowset.requester.windows.vshadow.options import parse_options, usage

    banner = f"vshadow (Shadowset {__version__})\nVolume Shadow Copy Service for Linux\n"
    if not given or any(one in ("-?", "/?", "-h", "--help") for one in given):
        say(f"{banner}\n{usage()}")
        return EXIT_OK
    options = parse_options(given)
    if options.command != "wm3":
        say(banner)
    return _perform(options.command)(options)


def _perform(command: str) -> Callable[[Options], int]:
    from shadowset.requester.windows.vshadow import create, manage

    functions: dict[str, Callable[[Options], int]] = {
        "create": create.create,
        "r": create.restore,
        "rs": create.simulate,
        "el": manage.expose,
        "revert": manage.revert,
    }
    functions |= dict.fromkeys(("q", "qx", "s"), manage.query)
    functions |= dict.fromkeys(("b", "bw", "bex"), manage.break_copies)
    functions |= dict.fromkeys(("da", "do", "dx", "ds"), manage.delete)
    functions |= dict.fromkeys(("ws", "wm", "wm2", "wm3"), manage.writers)
    return functions.get(command, manage.refuse)
