"""Lengths of time as people write them."""

from __future__ import annotations

import re

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def seconds_in(text: str) -> int:
    """Seconds from a number with a unit. Errors: ValueError."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if match is None:
        raise ValueError(f"{text!r} is no length of time; give a number with s, m, h, d or w")
    return int(match[1]) * UNITS[match[2]]
