"""What is drawn, as SVG elements: how full a storage is and was, and who did what when in a set; pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from shadowset.requester.page.elements import Element, el
from shadowset.requester.progress import size_text
from shadowset.vss.codes import code_name
from shadowset.vss.requester_protocol import TimelineEntry

ALMOST_FULL = 0.9


class Sample(msgspec.Struct):
    """Room that a volume's shadow storage took at a time (Unix seconds); ``limit`` 0 is none. Bytes."""

    time: float
    volume: str
    used: int
    limit: int


def gauge(used: int, limit: int) -> Element:
    """How full: a bar of 120 pixels, empty where there is no limit."""
    part = min(1.0, used / limit) if limit else 0.0
    words = f"{size_text(used)} of {size_text(limit)}" if limit else f"{size_text(used)}, no limit"
    return el(
        "svg",
        el("title", words),
        el("rect", width=120, height=14, class_="bar"),
        el("rect", width=round(120 * part, 1), height=14, class_="full" if part >= ALMOST_FULL else "fill"),
        width=120,
        height=14,
        role="img",
    )


def course(samples: Sequence[Sample], width: int = 640, height: int = 120) -> Element:
    """Use over time. ``samples`` are of one volume, oldest first, at least two."""
    left, bottom = 70, 20
    start, end = samples[0].time, samples[-1].time
    limit = samples[-1].limit
    most = max([sample.used for sample in samples] + [1])
    top = max(most, limit) if limit and most > limit / 4 else most

    def point(time: float, used: float) -> str:
        x = left + (time - start) / max(end - start, 1e-9) * (width - left)
        return f"{x:.1f},{(height - bottom) * (1 - used / top):.1f}"

    line = " ".join(point(sample.time, sample.used) for sample in samples)
    area = f"{point(start, 0)} {line} {point(end, 0)}"
    limited = None
    if limit and limit <= top:
        (x1, y1), (x2, y2) = (point(time, limit).split(",") for time in (start, end))
        limited = el("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="limit")
    base = height - bottom
    return el(
        "svg",
        el("title", f"shadow storage of volume {samples[0].volume} over time"),
        el("polygon", points=area, class_="area"),
        el("polyline", points=line, class_="line"),
        limited,
        el("line", x1=left, y1=base, x2=width, y2=base, class_="axis"),
        el("text", size_text(top), x=left - 6, y=12, text_anchor="end"),
        el("text", "0", x=left - 6, y=base, text_anchor="end"),
        el("text", _moment(start), x=left, y=height - 4),
        el("text", _moment(end), x=width, y=height - 4, text_anchor="end"),
        width=width,
        height=height,
        role="img",
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%d %b %H:%M")


def timeline(entries: Sequence[TimelineEntry], width: int = 1000) -> Element:
    """One bar for each thing that somebody did in a set, against a scale in milliseconds."""
    left, right, row = 330, 110, 20
    total = max([0.001, *(entry.end_ms for entry in entries)])
    scale = (width - left - right) / total
    lines: list[Element] = []
    for place, entry in enumerate(entries):
        y = place * row
        bar = max(2.0, (entry.end_ms - entry.start_ms) * scale)
        start = left + min(entry.start_ms, total) * scale
        words = f"{entry.start_ms:.1f} + {entry.end_ms - entry.start_ms:.1f} ms"
        told = f"{entry.actor}: {entry.phase}, {words}"
        told += f", {code_name(entry.code)}: {entry.message}" if entry.code else ""
        lines += [
            el("text", f"{entry.actor}  {entry.phase}"[:52], x=0, y=y + 14),
            el(
                "rect",
                el("title", told),
                x=round(start, 1),
                y=y + 3,
                width=round(bar, 1),
                height=row - 6,
                class_="failed" if entry.code else "span",
            ),
            el("text", words, x=width, y=y + 14, text_anchor="end"),
        ]
    height = len(entries) * row + 24
    axis = el("line", x1=left, y1=height - 22, x2=width - right, y2=height - 22, class_="axis")
    ends = [
        el("text", "0 ms", x=left, y=height - 6),
        el("text", f"{total:.1f} ms", x=width - right, y=height - 6, text_anchor="end"),
    ]
    return el("svg", el("title", "who did what when"), *lines, axis, *ends, width=width, height=height, role="img")
