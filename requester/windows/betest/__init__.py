"""The command ``betest``: a requester that tests writers, with the options of the published tool."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from shadowset.requester.cli import EXIT_OK, guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 wrong usage or no coordinator."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return guarded("betest", lambda: _run(given))


def _run(given: list[str]) -> int:
    from shadowset import __version__
    from shadowset.requester.cli.output import say
    from shadowset.requester.windows.betest.options import USAGE, parse_options

    if not given or any(one in ("-?", "/?", "-h", "--help") for one in given):
        say(f"betest (Shadowset {__version__})\n{USAGE}")
        return EXIT_OK
    from shadowset.requester.windows.betest.work import Work

    return Work(parse_options(given)).run()
