"""``shadowset writers`` and ``shadowset events``: who takes part, and what happened."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json

if TYPE_CHECKING:
    from shadowset.vss.requester_protocol import EventRecord, WriterStatus

FOLLOW_SECONDS = 1.0


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    writers = add_command(
        commands,
        "writers",
        run_writers,
        "list the writers, their state and their last error",
        "List the registered writers: state, last error, level at which they freeze, the longest time they can stay\n"
        "frozen, and the process that each one is.",
        "shadowset writers",
    )
    writers.add_argument("--long", action="store_true", help="show every field, with ids and programs")
    add_json(writers)
    events = add_command(
        commands,
        "events",
        run_events,
        "show the coordinator's events",
        "Show what the coordinator recorded: sets made and failed, copies lost and why, warnings of full storage.",
        "shadowset events --after 120\nshadowset events --follow",
    )
    events.add_argument("--after", type=int, default=0, metavar="ID", help="only events with a greater number")
    events.add_argument("--follow", action="store_true", help="go on, and show new events as they come")
    add_json(events)


def run_writers(options: argparse.Namespace) -> int:
    """List the writers."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.output import emit_json, say

    with Administration(client="shadowset writers") as administration:
        writers = administration.list_writers()
    if options.json:
        emit_json(writers)
    elif not writers:
        say("No writer is registered.")
    elif options.long:
        say("\n\n".join(writer_text(writer) for writer in writers))
    else:
        say(writers_table(writers))
    return 0


def error_text(writer: WriterStatus) -> str:
    """The last error of a writer in words."""
    from shadowset.vss.codes import code_name

    if not writer.failure.code:
        return "no error"
    own = f", application code {writer.failure.application_code}" if writer.failure.application_code else ""
    message = f": {writer.failure.message}" if writer.failure.message else ""
    return f"{code_name(writer.failure.code)}{own}{message}"


def state_text(writer: WriterStatus) -> str:
    """The state as vssadmin shows it, number first."""
    words = writer.state.name.lower().replace("_", " ")
    return f"[{int(writer.state)}] {words}" + ("" if writer.connected else ", gone")


def window_text(writer: WriterStatus) -> str:
    """How long the writer may stay frozen: the coordinator's word, which the administrator can set."""
    return f"{(writer.freeze_window_ms or writer.freeze_timeout_ms) / 1000:g} s"


def writers_table(writers: list[WriterStatus], indent: str = "") -> str:
    """Writers in a table."""
    from shadowset.requester.cli.output import table

    rows = [
        [
            f"{writer.name} ({writer.instance_name})" if writer.instance_name else writer.name,
            state_text(writer),
            writer.level.name.lower(),
            window_text(writer),
            str(writer.pid or ""),
            error_text(writer),
        ]
        for writer in writers
    ]
    return table(["WRITER", "STATE", "LEVEL", "LIMIT", "PID", "LAST ERROR"], rows, right=(3, 4), indent=indent)


def writer_text(writer: WriterStatus) -> str:
    """One writer with all fields."""
    from shadowset.requester.cli.output import fields

    return fields(
        [
            ("Writer name", writer.name),
            ("Writer ID", writer.writer_id),
            ("Writer instance ID", writer.instance_id),
            ("Instance name", writer.instance_name),
            ("State", state_text(writer)),
            ("Last error", error_text(writer)),
            ("Level", writer.level.name.lower()),
            ("Freeze time-out", window_text(writer)),
            ("Process", f"{writer.pid}, user {writer.uid}" if writer.pid else ""),
            ("Program", writer.executable),
        ]
    )


def run_events(options: argparse.Namespace) -> int:
    """Show events."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.output import emit_json

    last = options.after
    with Administration(client="shadowset events") as administration:
        events = administration.list_events(last)
        if options.json and not options.follow:
            emit_json([_event_fields(event) for event in events])
            return 0
        _show_events(events, options.json)
        while options.follow:
            last = events[-1].id if events else last
            time.sleep(FOLLOW_SECONDS)
            events = administration.list_events(last)
            _show_events(events, options.json)
    return 0


def _event_fields(event: EventRecord) -> dict[str, object]:
    """As JSON shows it: with the number of its kind, which is the same for ever."""
    from shadowset.requester.cli.output import plain
    from shadowset.vss.events import kind_of

    return {**plain(event), "number": kind_of(event.name).number}


def _show_events(events: list[EventRecord], as_json: bool) -> None:
    import json
    import sys

    from shadowset.requester.cli.output import printable, say, time_text
    from shadowset.vss.events import kind_of

    for event in events:
        if as_json:
            say(json.dumps(_event_fields(event)))
        else:
            about = f" {event.volume}" if event.volume else ""
            number = kind_of(event.name).number
            head = f"{event.id:>6}  {time_text(event.time_ns)}  {number:>3} {event.name}{about}"
            by = f" (by {event.actor})" if event.actor else ""
            say(printable(f"{head}: {event.message}{by}"))
    sys.stdout.flush()
