"""What changed between two shadow copies of a volume, or since one, as a whole."""

from __future__ import annotations

from collections.abc import Callable

from shadowset.vss.provider_protocol import ChangedRanges

AskPiece = Callable[[int], ChangedRanges]


def whole_delta(ask: AskPiece) -> ChangedRanges:
    """All pieces that ``ask(offset)`` gives, put together; a volume that grows meanwhile is taken in to its end.

    Errors: those of the call, which mean that the answer is not known and only a full backup helps; E_INVALIDARG.
    """
    whole = ask(0)
    while whole.end < whole.size:
        piece = ask(whole.end)
        _append(whole.ranges, piece.ranges)
        whole.end, whole.size = piece.end, piece.size
    return whole


def _append(ranges: list[tuple[int, int]], more: list[tuple[int, int]]) -> None:
    """Add ranges that come after; where the two lists touch, two ranges become one."""
    if ranges and more and sum(ranges[-1]) == more[0][0]:
        offset, length = ranges.pop()
        more = [(offset, length + more[0][1]), *more[1:]]
    ranges += more
