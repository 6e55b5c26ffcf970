"""Asking before something that has no way back."""

from __future__ import annotations

import sys

from shadowset.requester.cli import UsageError


def confirmed(yes: bool, question: str, why: str) -> bool:
    """Whether to go on: ``yes`` is the option --yes, else the person at the terminal is asked.

    Errors: UsageError with ``why`` it would have been asked, where nobody is at a terminal.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(f"{why}; give --yes where nobody can be asked")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
