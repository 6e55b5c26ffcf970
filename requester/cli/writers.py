"""``shadowset writers`` and ``shadowset events``: who takes part, and what happened."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from shadowset.requester.cli import writer_actions
from shadowset.requester.cli.options import Commands, add_command, add_json

if TYPE_CHECKING:
    from shadowset.vss.metadata import WriterMetadata
    from shadowset.vss.requester_protocol import EventRecord, WriterStatus

FOLLOW_SECONDS = 1.0


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    writers = add_command(
        commands,
        "writers",
        run_writers,
        "list the writers, their state and their last error",
        "List the registered writers: state, level at which they freeze, the longest time they can stay frozen, how\n"
        "long they were frozen the last time, how many components they had when they were last asked, the process\n"
        "that each one is, and its last error. With --components they are asked now, and show what a set would\n"
        "freeze; nothing is frozen.",
        "shadowset writers\nshadowset writers detect --write\nshadowset writers test 'SQLite Writer'",
    )
    writer_actions.register(writers.add_subparsers(title="actions", metavar="ACTION", required=False))
    writers.add_argument("--long", action="store_true", help="show every field, with ids and programs")
    writers.add_argument("--components", action="store_true", help="ask the writers what they have, and show it")
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
    from shadowset.requester.cli.output import answer, emit_json, say

    documents = identified() if options.components else []
    with Administration(client="shadowset writers") as administration:
        writers = administration.list_writers()
    if options.components:
        answer(options.json, documents, "\n\n".join(components_lines(writer, documents) for writer in writers))
    elif options.json:
        emit_json(writers)
    elif not writers:
        say("No writer is registered.")
    elif options.long:
        say("\n\n".join(writer_text(writer) for writer in writers))
    else:
        say(writers_table(writers))
    return 0


def identified() -> list[WriterMetadata]:
    """What the writers say of themselves now."""
    from shadowset.requester.backup_components import BackupComponents

    with BackupComponents(client="shadowset writers") as calls:
        calls.initialize_for_backup()
        return calls.gather_writer_metadata().result()


def components_lines(writer: WriterStatus, documents: list[WriterMetadata]) -> str:
    """A writer, and below it each component with its places."""
    from shadowset.requester.sentences import printable

    last = f", frozen for {frozen_text(writer)} the last time" if writer.last_frozen_ms else ", not frozen yet"
    title = f"{writer.name} ({writer.instance_name})" if writer.instance_name else writer.name
    lines = [f"{title}: {writer.level.name.lower()}, at most {window_text(writer)}{last}"]
    found = [document for document in documents if document.instance_id == writer.instance_id]
    components = [component for document in found for component in document.components]
    for component in components:
        lines.append(f"  {component.full_path}" + (f": {component.caption}" if component.caption else ""))
        for files in component.file_sets:
            lines.append(f"    {files.path}/{files.filespec}{' and below' if files.recursive else ''}")
    if not found:
        lines.append("  did not describe itself; see its log")
    elif not components:
        lines.append("  nothing to protect: check its configuration, and that its application runs")
    return "\n".join(map(printable, lines))


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


def frozen_text(writer: WriterStatus) -> str:
    """How long it was frozen the last time."""
    return f"{writer.last_frozen_ms:.0f} ms" if writer.last_frozen_ms else ""


def components_text(writer: WriterStatus) -> str:
    """How many components it had when it was last asked; a writer without any has nothing to do."""
    if writer.components < 0:
        return ""
    return str(writer.components) if writer.components else "none"


def writers_table(writers: list[WriterStatus], indent: str = "") -> str:
    """Writers in a table."""
    from shadowset.requester.sentences import table

    rows = [
        [
            f"{writer.name} ({writer.instance_name})" if writer.instance_name else writer.name,
            state_text(writer),
            writer.level.name.lower(),
            window_text(writer),
            frozen_text(writer),
            components_text(writer),
            str(writer.pid or ""),
            error_text(writer),
        ]
        for writer in writers
    ]
    headings = ["WRITER", "STATE", "LEVEL", "LIMIT", "LAST", "COMPONENTS", "PID", "LAST ERROR"]
    return table(headings, rows, right=(3, 4, 5, 6), indent=indent)


def writer_text(writer: WriterStatus) -> str:
    """One writer with all fields."""
    from shadowset.requester.sentences import fields

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
            ("Last frozen for", frozen_text(writer)),
            ("Components", components_text(writer)),
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
    from shadowset.requester.sentences import plain
    from shadowset.vss.events import kind_of

    return {**plain(event), "number": kind_of(event.name).number}


def _show_events(events: list[EventRecord], as_json: bool) -> None:
    import json
    import sys

    from shadowset.requester.cli.output import say
    from shadowset.requester.sentences import printable, time_text
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
