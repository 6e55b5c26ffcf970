"""The command ``diskshadow``: Windows's script language for shadow copies, at a prompt or from a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from io import TextIOWrapper
from typing import TextIO

from shadowset.requester.cli import EXIT_OK, UsageError, guarded

USAGE = """\
usage: diskshadow [/s SCRIPT] [/l LOG]

Without a script it asks for commands; HELP lists them. With one it does the commands of
the file SCRIPT ('-' is standard input) up to the first that fails. What is printed also
goes to the file LOG. Exit status: 0 done, 1 a command failed, 2 wrong usage or no coordinator.

example: diskshadow /s nightly.dsh /l /var/log/nightly.log"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a script or a prompt; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return guarded("Error", lambda: _run(given))


def _run(given: list[str]) -> int:
    from shadowset import __version__
    from shadowset.requester.cli.output import say
    from shadowset.requester.windows.diskshadow.interpreter import commands_text, run_prompt, run_script
    from shadowset.requester.windows.diskshadow.session import Session

    if any(one in ("/?", "-?", "-h", "--help") for one in given):
        say(f"{USAGE}\n\ncommands:\n{commands_text()}")
        return EXIT_OK
    files = _files(given)
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    with ExitStack() as stack:
        log = stack.enter_context(open_log(files["l"])) if "l" in files else None
        script = files.get("s", "")
        lines = sys.stdin if script in ("", "-") else stack.enter_context(open_script(script))
        session = stack.enter_context(closing(Session(log)))
        session.tell(f"diskshadow (Shadowset {__version__})\nVolume Shadow Copy Service for Linux\n")
        return run_script(session, lines) if script else run_prompt(session, input)


def open_script(path: str) -> TextIO:
    """A script; bytes that are no UTF-8 stay what they are, for names of files. Errors: OSError."""
    return open(path, encoding="utf-8-sig", errors="surrogateescape")


def open_log(path: str) -> TextIO:
    """A new log. Errors: OSError."""
    return open(path, "w", encoding="utf-8", errors="backslashreplace")


def _files(given: list[str]) -> dict[str, str]:
    """The files by the letters of their switches. Errors: UsageError."""
    files: dict[str, str] = {}
    rest = list(given)
    while rest:
        switch = rest.pop(0)
        letter = switch.lstrip("/-").lower()
        if switch[:1] not in "/-" or letter not in ("s", "l") or not rest or letter in files:
            raise UsageError(f"{switch!r} does not belong here; 'diskshadow /?' shows the usage")
        files[letter] = rest.pop(0)
    return files
