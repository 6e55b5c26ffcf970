"""Write docs/events.md from the events that there are; with --check only say whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from shadowset.vss.events import EVENTS, message_id

PAGE = Path(__file__).with_name("events.md")
PRIORITY = {3: "error", 4: "warning", 5: "notice", 6: "info"}

HEAD = """\
# Events

What the coordinator records, for `shadowset events`, which keeps the last 10,000, and for the log. Numbers and
MESSAGE_IDs never change; a new event gets a new number. Under systemd each stands in the journal with its fields:

    journalctl SHADOWSET_EVENT=snapshot-lost
    journalctl -u shadowsetd -p err -o verbose
    journalctl MESSAGE_ID={example}

| field | what |
|---|---|
| `MESSAGE_ID`, `SHADOWSET_EVENT`, `SHADOWSET_EVENT_NUMBER` | which event |
| `PRIORITY` | 3 error, 4 warning, 5 notice, 6 info |
| `SHADOWSET_VOLUME`, `SHADOWSET_SET` | what it is about, where it is about one |
| `SHADOWSET_BY` | who asked for it: user, log-in and process as the kernel says, and what the program calls itself |

The last column names the events under which administrators of Windows know the like of it. They are not the same: what
Windows reports as a shadow copy aborted for one of many reasons is here one event whose sentence gives the cause.

| number | event | priority | what happened | Windows | MESSAGE_ID |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = [
        f"| {kind.number} | `{name}` | {PRIORITY[kind.priority]} | {kind.meaning} | {kind.windows} "
        f"| `{message_id(name)}` |"
        for name, kind in sorted(EVENTS.items(), key=lambda item: item[1].number)
    ]
    return HEAD.format(example=message_id("snapshot-lost")) + "\n".join(rows) + "\n"


def main(arguments: list[str]) -> int:
    """Exit status 1 when the page is not up to date."""
    if "--check" in arguments:
        return int(not PAGE.exists() or PAGE.read_text() != page())
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
