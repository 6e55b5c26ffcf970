"""``shadowset hold`` and ``shadowset priority``: which copies stay when room is short, and which nobody may delete."""

from __future__ import annotations

import argparse
import time
from datetime import datetime

from shadowset.requester.cli.options import Commands, add_command, add_copy, add_json, parse_duration


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    hold = add_command(
        commands,
        "hold",
        run_hold,
        "keep a copy from being deleted for a time",
        "Hold a shadow copy: until then it is not deleted, not even with --force, and it is not lost when the shadow\n"
        "storage is full; writes to the live volume then fail instead when nothing else can be given up.",
        "shadowset hold 3f2a --for 30d\nshadowset hold 3f2a --end",
    )
    add_copy(hold)
    when = hold.add_mutually_exclusive_group(required=True)
    when.add_argument("--for", dest="duration", type=parse_duration, metavar="TIME", help="so long: 90m, 12h, 30d, 8w")
    when.add_argument("--until", type=parse_time, metavar="TIME", help="until then: 2030-01-31 or 2030-01-31T12:00")
    when.add_argument("--end", action="store_true", help="end the hold now")
    add_json(hold)
    priority = add_command(
        commands,
        "priority",
        run_priority,
        "set which copies go first when the storage is full",
        "Set the priority of a shadow copy, 0 to 255 (128 when nothing was set). When the shadow storage is full, the\n"
        "copy of the lowest priority is lost first, and among equals the oldest.",
        "shadowset priority 3f2a 200",
    )
    add_copy(priority)
    priority.add_argument("priority", metavar="NUMBER", type=parse_priority, help="0 (first to go) to 255")
    add_json(priority)


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 from an ISO 8601 time; local time unless it says otherwise."""
    try:
        return int(datetime.fromisoformat(text).timestamp()) * 10**9
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give one as 2030-01-31T12:00") from None


def parse_priority(text: str) -> int:
    """0 to 255."""
    if not (text.isascii() and text.isdigit() and int(text) <= 255):
        raise argparse.ArgumentTypeError(f"{text!r} is no priority; give 0 to 255")
    return int(text)


def run_hold(options: argparse.Namespace) -> int:
    """Hold a copy, or end its hold."""
    from shadowset.requester.cli import UsageError

    now = time.time_ns()
    until = 0 if options.end else options.until if options.until is not None else now + options.duration * 10**9
    if until and until <= now:
        raise UsageError("that time has passed; give a later one, or --end")
    return _keep(options, "hold", None, until)


def run_priority(options: argparse.Namespace) -> int:
    """Set a priority."""
    return _keep(options, "priority", options.priority, None)


def _keep(options: argparse.Namespace, name: str, priority: int | None, until: int | None) -> int:
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.identify import find_copy
    from shadowset.requester.cli.output import answer
    from shadowset.requester.sentences import time_text

    with Administration(client=f"shadowset {name}") as administration:
        copy = find_copy(options.copy, administration.query())
        copy = administration.keep_snapshot(copy.snapshot_id, priority, until)
    held = f"held until {time_text(copy.hold_until_ns)}" if copy.hold_until_ns else "not held"
    answer(options.json, copy, f"Shadow copy {copy.snapshot_id} has priority {copy.priority} and is {held}.")
    return 0
