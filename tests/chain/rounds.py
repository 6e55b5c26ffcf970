"""The table of the writers: what a round of load, set, backup, destruction and restore shows of each of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

KEPT = Path(__file__).resolve().parents[2] / "build" / "rounds"
FROZEN = ("freeze", "thaw")


class Row(NamedTuple):
    """One writer in one round, or in several."""

    writer: str
    freeze_ms: float
    thaw_ms: float
    longest_stall_ms: int
    bytes: int
    numbers: int
    result: str


def row(record: Any, done: Any, writers: Sequence[str], name: str, stall: float, numbers: int) -> Row:
    """``record`` is the set, ``done`` the backup; the first of ``writers`` is the one whose times are shown. ``stall``
    is in seconds. The restore was checked."""
    times = [lasted(record, writers[0], phase) for phase in FROZEN]
    size = sum(entry["bytes"] for entry in done["components"] if label(entry["writer"], entry) in writers)
    return Row(name, *times, round(stall * 1000), size, numbers, "restored")


def label(writer: str, entry: dict[str, Any]) -> str:
    """A writer with its instance, as sets show it."""
    return f"{writer} ({entry['instance_name']})" if entry["instance_name"] else writer


def lasted(record: Any, writer: str, phase: str) -> float:
    """How long a writer took for an event of a set, in milliseconds."""
    entries = [each for each in record["timeline"] if each["phase"] == phase]
    (entry,) = [each for each in entries if each["actor"].startswith(f"writer {writer} [")]
    return round(float(entry["end_ms"] - entry["start_ms"]), 1)


def table(rows: Iterable[Row]) -> str:
    lines = [[each.replace("_", " ") for each in Row._fields], *([f"{cell}" for cell in row] for row in rows)]
    widths = [max(len(line[number]) for line in lines) for number in range(len(Row._fields))]
    shown = ("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n" + "\n".join(shown)


def middle(rows: Sequence[Row]) -> Row:
    """One writer's rounds in one row: the medians of the times, the longest stall, the rest of the last round."""
    freeze, thaw = (sorted(row[number] for row in rows)[len(rows) // 2] for number in (1, 2))
    stall = max(row.longest_stall_ms for row in rows)
    last = rows[-1]
    return Row(last.writer, freeze, thaw, stall, last.bytes, last.numbers, f"{len(rows)} times restored")


def keep(name: str, rows: Sequence[Row], first: bool = True) -> None:
    """Adds a round to those that ``docs/generate_rounds.py`` shows; the first one forgets the rest."""
    os.makedirs(KEPT, exist_ok=True)
    with open(KEPT / f"{name}.jsonl", "w" if first else "a", encoding="utf-8") as file:
        file.write(json.dumps([each._asdict() for each in rows]) + "\n")


def keep_kills(application: str, victim: str, ended: dict[str, str]) -> None:
    """How a backup ended by the phase in which the victim was killed."""
    os.makedirs(KEPT, exist_ok=True)
    found = {"application": application, "victim": victim, "ended": ended}
    (KEPT / f"kill-{application}-{victim}.json").write_text(json.dumps(found) + "\n")
