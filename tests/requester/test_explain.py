"""The story of a set in plain words."""

from __future__ import annotations

import json
from typing import Any

from shadowset.requester.explain import Line, listed, milliseconds, story
from shadowset.vss.codes import Code
from shadowset.vss.components import Failure
from shadowset.vss.enums import SnapshotState, WriterState
from shadowset.vss.requester_protocol import EventRecord, SetRecord, TimelineEntry, VolumeTimes, WriterStatus

SET = "e5b6300d-ee6a-44c8-a737-0e3358ffaabb"
WRITER = "writer Farm [pid 7]"


def record(**more: Any) -> SetRecord:
    fields: dict[str, Any] = {
        "set_id": SET, "session_id": "", "created_ns": 1_800_000_000 * 10**9, "context": 0,
        "status": SnapshotState.CREATED, "skew_ms": 0.25, "snapshots": [],
        "volumes": [VolumeTimes("data", 0, 3.0, 4, 12, 0), VolumeTimes("wal", 0, 1.0, 0, 9, 0)],
        "timeline": [
            TimelineEntry(WRITER, "prepare-snapshot", 0, 812),
            TimelineEntry("coordinator", "flush", 812, 900),
            TimelineEntry(WRITER, "freeze", 900, 904),
            TimelineEntry("file system /srv/data", "freeze", 904, 906),
            TimelineEntry("file system /srv/data", "frozen", 904, 916),
            TimelineEntry(WRITER, "thaw", 917, 935),
        ],
        "writers": [WriterStatus("w", "i", name, WriterState.STABLE) for name in ("Farm", "Mail")],
    }  # fmt: skip
    return SetRecord(**(fields | more))


def about(lines: list[Line], what: str) -> list[str]:
    return [line.sentence for line in lines if line.about == what]


def test_a_set_that_went_well() -> None:
    told = story(record(), [])
    assert about(told, "result") == [f"Shadow copy set {SET} of data and wal was made at 2027-01-15 08:00:00 UTC."]
    assert about(told, "who") == ["2 writers took part: Farm and Mail."]
    (preparing,) = about(told, "preparing")
    assert "took 900 ms" in preparing and f"prepare-snapshot by {WRITER} with 812 ms" in preparing
    assert about(told, "standstill") == [
        f"Of the applications, {WRITER} stood still the longest: 35 ms.",
        "File systems were frozen for 12 ms at the most (/srv/data).",
        "Writes to data were held for 3.0 ms, and 4 writes waited meanwhile.",
        "The volumes were cut within 0.2 ms of each other.",
    ]
    assert about(told, "slow") == [f"Of 935 ms in all, 812 ms went to one step: prepare-snapshot by {WRITER}."]
    assert not about(told, "failure")


def test_a_set_that_failed_says_who_and_whether_to_try_again() -> None:
    failure = Failure(Code.VSS_E_WRITERERROR_TIMEOUT, 0, f"{WRITER} was frozen too long")
    entries = [
        TimelineEntry(WRITER, "freeze", 0, 4),
        TimelineEntry(WRITER, "frozen", 4, 60_000, Code.VSS_E_WRITERERROR_TIMEOUT, f"{WRITER} was frozen too long"),
        TimelineEntry("volume data", "hold", 5, 6, Code.VSS_E_HOLD_WRITES_TIMEOUT, "the gate opened"),
    ]
    mail = WriterStatus("v", "i", "Mail", WriterState.FAILED_AT_FREEZE, Failure(Code.VSS_E_WRITERERROR_NONRETRYABLE))
    told = story(record(status=SnapshotState.ABORTED, failure=failure, timeline=entries, writers=[mail]), [])
    assert about(told, "result")[0].endswith("was begun at 2027-01-15 08:00:00 UTC and was not made.")
    assert about(told, "failure") == [
        f"It failed with VSS_E_WRITERERROR_TIMEOUT: {WRITER} was frozen too long.",
        "Such a failure may pass by itself: try again.",
        "At 6.0 ms, volume data answered hold with VSS_E_HOLD_WRITES_TIMEOUT: the gate opened.",
        "Writer Mail ended with VSS_E_WRITERERROR_NONRETRYABLE.",
    ]
    assert not about(told, "since")


def test_a_cause_that_somebody_must_mend() -> None:
    told = story(record(status=SnapshotState.ABORTED, failure=Failure(Code.E_ACCESSDENIED, 0, "no")), [])
    assert about(told, "failure")[1] == "Trying again will not help before its cause is mended."


def test_what_became_of_it() -> None:
    lost = EventRecord(9, 1_800_003_600 * 10**9, "snapshot-lost", "a copy is gone", "data", SET)
    other = EventRecord(8, 1, "snapshot-lost", "another", "data", "another-set")
    made = EventRecord(7, 1, "set-created", "made", "", SET)
    assert about(story(record(), [made, other, lost]), "since") == [
        "2027-01-15 09:00:00 UTC: a copy is gone.", "Of its 2 shadow copies none is left.",
    ]  # fmt: skip


def test_a_set_without_writers() -> None:
    (who,) = about(story(record(writers=[]), []), "who")
    assert "as a crash would have left them" in who


def test_words() -> None:
    assert listed([]) == "none" and listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c"
    assert [milliseconds(value) for value in (0.31, 12, 1234, 61_000)] == ["0.3 ms", "12 ms", "1.2 s", "61 s"]


def test_the_command_tells_of_the_last_set_and_of_one_named_by_a_copy(run: Any, coordinator: Any, data: Any) -> None:
    assert run("create", "data")[0] == 0
    (made,) = coordinator.records.values()
    coordinator.events = [EventRecord(1, 1, "set-created", "made", "", made.set_id)]
    status, out, _ = run("explain", "last")
    assert status == 0 and out.startswith(f"Shadow copy set {made.set_id} of data was made at ")
    (copy_id,) = coordinator.copies
    assert run("explain", copy_id[:12])[1] == out
    assert json.loads(run("explain", "last", "--json")[1])[0]["about"] == "result"
    coordinator.events = []
    status, _, err = run("explain", "last")
    assert status == 1 and "no set was made yet" in err
