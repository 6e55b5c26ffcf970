"""The story of a shadow copy set in plain words, from its record and the events since. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from shadowset.requester.retry import retryable
from shadowset.requester.sentences import time_text
from shadowset.vss.codes import code_name
from shadowset.vss.enums import SnapshotState
from shadowset.vss.requester_protocol import EventRecord, SetRecord, TimelineEntry, WriterStatus

SLOW_PART = 0.5
PREPARING = ("prepare-backup", "prepare-snapshot", "prepare", "flush")


class Line(msgspec.Struct):
    """One sentence, and what it is about: result, who, preparing, standstill, slow, failure or since."""

    about: str
    sentence: str


def story(record: SetRecord, events: list[EventRecord]) -> list[Line]:
    """In the order of telling; ``events`` are all that are known."""
    parts = (
        ("result", _result(record)),
        ("who", _who(record)),
        ("preparing", _preparing(record.timeline)),
        ("standstill", _standstill(record)),
        ("slow", _slow(record.timeline)),
        ("failure", _failures(record)),
        ("since", _since(record, events)),
    )
    return [Line(about, sentence) for about, sentences in parts for sentence in sentences]


def milliseconds(value: float) -> str:
    """As people say it."""
    if value >= 10_000:
        return f"{value / 1000:.0f} s"
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def listed(names: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "none"


def _result(record: SetRecord) -> Iterator[str]:
    volumes = [times.volume for times in record.volumes] or [copy.original_volume for copy in record.snapshots]
    of = f" of {listed(list(dict.fromkeys(volumes)))}" if volumes else ""
    when = time_text(record.created_ns)
    if record.status is SnapshotState.CREATED:
        yield f"Shadow copy set {record.set_id}{of} was made at {when}."
    else:
        yield f"Shadow copy set {record.set_id}{of} was begun at {when} and was not made."


def _who(record: SetRecord) -> Iterator[str]:
    if not record.writers:
        yield "No writer took part, so applications were caught as a crash would have left them."
        return
    names = [_name(writer) for writer in record.writers]
    verb = "writer took part" if len(names) == 1 else "writers took part"
    yield f"{len(names)} {verb}: {listed(names)}."


def _name(writer: WriterStatus) -> str:
    return f"{writer.name} ({writer.instance_name})" if writer.instance_name else writer.name


def _length(entry: TimelineEntry) -> float:
    return entry.end_ms - entry.start_ms


def _longest(entries: list[TimelineEntry]) -> TimelineEntry | None:
    return max(entries, key=_length, default=None)


def _preparing(timeline: list[TimelineEntry]) -> Iterator[str]:
    entries = [entry for entry in timeline if entry.phase in PREPARING]
    longest = _longest(entries)
    if longest:
        whole = max(entry.end_ms for entry in entries) - min(entry.start_ms for entry in entries)
        yield (
            f"Preparing took {milliseconds(whole)}, while everything went on; the longest part was {longest.phase} by "
            f"{longest.actor} with {milliseconds(_length(longest))}."
        )


def _standstill(record: SetRecord) -> Iterator[str]:
    stood = _stood_still(record.timeline)
    if stood:
        actor, length = max(stood.items(), key=lambda item: item[1])
        yield f"Of the applications, {actor} stood still the longest: {milliseconds(length)}."
    systems = [entry for entry in record.timeline if entry.actor.startswith("file system ")]
    longest = _longest([entry for entry in systems if entry.phase == "frozen"])
    if longest:
        place = longest.actor.removeprefix("file system ")
        yield f"File systems were frozen for {milliseconds(_length(longest))} at the most ({place})."
    if record.volumes:
        held = max(record.volumes, key=lambda times: times.hold_ms)
        waited = sum(times.waited for times in record.volumes)
        writes = (
            "no write had to wait" if not waited else f"{waited} write{'' if waited == 1 else 's'} waited meanwhile"
        )
        yield f"Writes to {held.volume} were held for {milliseconds(held.hold_ms)}, and {writes}."
    if len(record.volumes) > 1:
        yield f"The volumes were cut within {milliseconds(record.skew_ms)} of each other."


def _stood_still(timeline: list[TimelineEntry]) -> dict[str, float]:
    """From being told to freeze to having thawed, of each writer that did both."""
    began = {entry.actor: entry.start_ms for entry in timeline if entry.phase == "freeze"}
    return {
        entry.actor: entry.end_ms - began[entry.actor]
        for entry in timeline
        if entry.phase == "thaw" and entry.actor in began
    }


def _slow(timeline: list[TimelineEntry]) -> Iterator[str]:
    whole = max((entry.end_ms for entry in timeline), default=0.0)
    longest = _longest([entry for entry in timeline if entry.phase != "frozen"])
    if longest and whole and _length(longest) > SLOW_PART * whole:
        yield (
            f"Of {milliseconds(whole)} in all, {milliseconds(_length(longest))} went to one step: {longest.phase} by "
            f"{longest.actor}."
        )


def _failures(record: SetRecord) -> Iterator[str]:
    if record.failure.code:
        cause = record.failure.message or "nobody said why"
        yield f"It failed with {code_name(record.failure.code)}: {cause}."
        yield (
            "Such a failure may pass by itself: try again."
            if retryable(record.failure.code)
            else "Trying again will not help before its cause is mended."
        )
    told = {record.failure.message}
    for entry in record.timeline:
        if entry.code and entry.message not in told:
            told.add(entry.message)
            said = f": {entry.message}" if entry.message else ""
            yield (
                f"At {milliseconds(entry.end_ms)}, {entry.actor} answered {entry.phase} with "
                f"{code_name(entry.code)}{said}."
            )
    for writer in record.writers:
        if writer.failure.code and writer.failure.message not in told:
            told.add(writer.failure.message)
            said = f": {writer.failure.message}" if writer.failure.message else ""
            yield f"Writer {_name(writer)} ended with {code_name(writer.failure.code)}{said}."


def _since(record: SetRecord, events: list[EventRecord]) -> Iterator[str]:
    for event in events:
        if event.set_id == record.set_id and event.name not in ("set-created", "set-failed"):
            yield f"{time_text(event.time_ns)}: {event.message}."
    made = len(record.volumes) if record.status is SnapshotState.CREATED else 0
    left = len(record.snapshots)
    if made == 1:
        yield "Its shadow copy is there." if left else "Its shadow copy is gone."
    elif made and left < made:
        yield f"Of its {made} shadow copies {'none is' if not left else f'{left} are' if left > 1 else '1 is'} left."
    elif made:
        yield "All of its shadow copies are there."
