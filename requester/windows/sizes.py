"""Sizes of shadow storage as vssadmin reads and writes them. Pure."""

from __future__ import annotations

from shadowset.vss.codes import Code, VssError

UNITS = ("KB", "MB", "GB", "TB", "PB", "EB")
SMALLEST = 1 << 20
UNBOUNDED = 0


def parse_max_size(text: str, disk: int) -> int:
    """Bytes of ``/maxsize=``; UNBOUNDED is 0. A percentage is one of ``disk``, the size of the storage's file system.

    Errors: E_INVALIDARG.
    """
    wanted = text.strip().upper()
    if wanted in ("UNBOUNDED", ""):
        return UNBOUNDED
    unit = next((unit for unit in UNITS if wanted.endswith(unit)), "")
    digits = wanted.removesuffix("%") if wanted.endswith("%") else wanted.removesuffix(unit).removesuffix("B")
    if not (digits.isascii() and digits.isdigit()):
        raise VssError(
            Code.E_INVALIDARG,
            f"{text!r} is no maximum size; give a number with KB, MB, GB, TB, PB, EB or %, or UNBOUNDED",
        )
    if wanted.endswith("%"):
        return _at_least(_percent(int(digits), disk), text)
    return _at_least(int(digits) << (10 * (UNITS.index(unit) + 1) if unit else 0), text)


def _percent(number: int, disk: int) -> int:
    if not disk:
        raise VssError(Code.E_INVALIDARG, "the size of the storage's file system is not known here; give bytes")
    if not 1 <= number <= 100:
        raise VssError(Code.E_INVALIDARG, f"{number}% is no part of the storage volume; give 1% to 100%")
    return disk * number // 100


def _at_least(size: int, text: str) -> int:
    if size < SMALLEST:
        raise VssError(Code.E_INVALIDARG, f"{text} is less than 1 MB, too little for any shadow copy; give more")
    return size


def size_text(size: int) -> str:
    """Bytes in the largest unit that fits: ``0 bytes``, ``384.00 MB``, ``1.93 GB``."""
    if size < 1024:
        return f"{size} bytes"
    power = min((size.bit_length() - 1) // 10, len(UNITS))
    return f"{size / (1 << (10 * power)):.2f} {UNITS[power - 1]}"


def share_text(size: int, disk: int) -> str:
    """A size and its share of ``disk``, as ``1.93 GB (1%)``; 0 as ``disk`` is not known and counts as nothing."""
    return f"{size_text(size)} ({round(size * 100 / disk) if disk else 0}%)"


def limit_text(size: int, disk: int) -> str:
    """A maximum size; 0 is none."""
    return share_text(size, disk) if size else "UNBOUNDED (100%)"
