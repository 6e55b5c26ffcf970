"""What the commands print, on standard output and standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from shadowset.requester.sentences import plain, printable


def say(text: str = "") -> None:
    """Print text made by the functions here."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Tell the person at the terminal something that is no result."""
    sys.stderr.write(printable(text) + "\n")


def answer(as_json: bool, value: Any, text: str) -> None:
    """Print the result of a command: as JSON, or in words."""
    if as_json:
        emit_json(value)
    else:
        say(text)


def emit_json(value: Any) -> None:
    """Print one value as JSON. Escapes keep it ASCII, whatever is in names."""
    sys.stdout.write(json.dumps(plain(value), indent=2) + "\n")
