"""Write docs/writers/rounds.md from what the long tests have kept below build/rounds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "rounds"
PAGE = ROOT / "docs" / "writers" / "rounds.md"
COLUMNS = ("freeze_ms", "thaw_ms", "longest_stall_ms", "bytes", "numbers")
PHASES = ("prepare-backup", "prepare-snapshot", "freeze", "hold", "thaw", "post-snapshot", "backup-complete")

HEAD = """\
# Rounds

Each application works while a shadow copy set is made and a backup is taken; then it is killed, all its files are
deleted, and the backup is restored. Afterwards it must have every number that it had answered before the set, none
that was begun after it, and none missing in between, and its own check must be content. `make test` makes such a
round with those of the first table that Debian has, at once and on two volumes. `make test-long` makes twenty of
them, with MySQL, and the rounds of guests, scripts and the system; `make test-farm` makes the Plone farm's. They keep
what they see, and `python docs/generate_rounds.py` writes this page from it.

Times are the medians of freeze and thaw over the rounds, and the longest time that any request of a client took; those
of the first table are of two cores that did nothing else, those of the second of two on which much else ran. They tell
one application from another, not how fast a server is.

"""
KILLS = """
## Kills

One party is killed (SIGKILL) in a phase of a backup, while a writer of another application waits there; in *hold* all
file systems are frozen, and writes are held. Whatever is killed, the application serves again, nothing stays frozen,
held or locked, the next set is made, and what is told as backed up was destroyed and came back from that backup. The
cells say what the backup told.

"""
TAIL = """
*void*: no copy was made. *failed*: the set was made, and the component is told as failed with its writer's reason. A
writer of the farm is its third party's SQLite writer; its own is in its process, and dies with it.

## Without a row

The [Oracle writer](oracle.md) was never tried with the product, so there is nothing to destroy. The [test
writer](../test-writer.md) and writers that are only declared in a file have no application. Guests, scripts, the
system and the Plone farm are not killed here: their writers' own tests kill writer, guard and agent.
"""


def rounds(name: str) -> list[list[dict[str, Any]]]:
    """What was kept of one lane: a list of rows for each round."""
    try:
        return [json.loads(line) for line in (KEPT / f"{name}.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        return []


def middle(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One writer's rounds in one row."""
    times = {name: sorted(row[name] for row in rows)[len(rows) // 2] for name in COLUMNS[:2]}
    return {**rows[-1], **times, "longest_stall_ms": max(row["longest_stall_ms"] for row in rows), "rounds": len(rows)}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; the first column to the left."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def measured(names: Sequence[str]) -> str:
    """The rounds of some lanes."""
    rows = []
    for name in names:
        for each in zip(*rounds(name), strict=True):
            one = middle(each)
            rows.append(
                [
                    one["writer"],
                    *(f"{one[column]:,}" for column in COLUMNS),
                    f"{one['rounds']} times restored" if one["rounds"] > 1 else "restored",
                ]
            )
    return table(["application", *(column.replace("_", " ") for column in COLUMNS), "result"], rows)


def killed() -> str:
    """How backups ended whose application or writer was killed."""
    found = [json.loads(path.read_text()) for path in sorted(KEPT.glob("kill-*.json"))]
    rows = [
        [each["application"], each["victim"], *(each["ended"][phase].replace("component ", "") for phase in PHASES)]
        for each in found
    ]
    return table(["application", "killed", *PHASES], rows)


def main() -> int:
    """Exit status 1 when no round was kept."""
    if not rounds("1-fleet"):
        print("there are no rounds below build/rounds; run make test-long first", file=sys.stderr)
        return 1
    others = measured(["3-guest", "4-hooks", "5-system", "2-plone"])
    PAGE.write_text(f"{HEAD}{measured(['1-fleet'])}\n{others}{KILLS}{killed()}{TAIL}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
