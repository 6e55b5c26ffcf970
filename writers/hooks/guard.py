"""The thaw of the hooks of a writer that died."""

from __future__ import annotations

import sys

import msgspec

from shadowset.writers.guard import guard
from shadowset.writers.hooks.runner import thaw
from shadowset.writers.hooks.scripts import steps_of
from shadowset.writers.hooks.settings import Hook


def thaw_all(line: bytes) -> None:
    """Runs the thaw of all hooks in ``line``, the last one first."""
    for hook in reversed(msgspec.json.decode(line, type=list[Hook])):
        thaw(hook, steps_of(hook))


if __name__ == "__main__":
    sys.exit(guard(thaw_all))
