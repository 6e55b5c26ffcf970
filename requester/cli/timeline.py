"""A set's timeline as text: one bar for each thing that somebody did, against a scale in milliseconds."""

from __future__ import annotations

import math

from shadowset.requester.sentences import pad, printable, width_of
from shadowset.vss.codes import code_name
from shadowset.vss.requester_protocol import TimelineEntry

LEAST_BAR = 10
MOST_BAR = 100
HEADING = "start + length"


def draw_timeline(entries: list[TimelineEntry], width: int, block: str = "█") -> str:
    """The timeline in lines of at most ``width`` columns (and never less than the labels and a short bar need)."""
    if not entries:
        return "no timeline was recorded"
    total = max(0.001, *(entry.end_ms for entry in entries))
    labels = [(printable(entry.actor), printable(entry.phase), _span_text(entry)) for entry in entries]
    widths = [max(width_of(label[column]) for label in [("", "", HEADING), *labels]) for column in range(3)]
    space = min(MOST_BAR, max(LEAST_BAR, width - sum(widths) - len("  " * 3) - len("||")))
    lines = [_scale(widths, total, space)]
    for entry, (actor, phase, span) in zip(entries, labels, strict=True):
        bar = pad(_bar(entry, total, space, block), space)
        lines.append(f"{pad(actor, widths[0])}  {pad(phase, widths[1])}  |{bar}|  {span:>{widths[2]}}")
        lines += _failure(entry)
    return "\n".join(lines)


def _span_text(entry: TimelineEntry) -> str:
    return f"{entry.start_ms:.1f} + {entry.end_ms - entry.start_ms:.1f} ms"


def _scale(widths: list[int], total: float, space: int) -> str:
    end = f"{total:.1f}"
    scale = f"0{end:>{space - 1}}"
    return f"{'':{widths[0]}}  {'':{widths[1]}}  |{scale}|  {HEADING:>{widths[2]}}"


def _bar(entry: TimelineEntry, total: float, space: int, block: str) -> str:
    first = min(space - 1, max(0, int(entry.start_ms / total * space)))
    last = min(space, max(first + 1, math.ceil(entry.end_ms / total * space)))
    return " " * first + block * (last - first)


def _failure(entry: TimelineEntry) -> list[str]:
    if not entry.code:
        return []
    return [f"    {code_name(entry.code)}: {printable(entry.message)}".rstrip(": ")]
