"""Drawing and wording, without any coordinator."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowset.requester.cli.identify import short_ids
from shadowset.requester.cli.timeline import draw_timeline
from shadowset.requester.progress import Meter, duration_text, progress_text, size_text
from shadowset.requester.sentences import (
    attribute_names,
    attributes_text,
    context_name,
    pad,
    printable,
    table,
    time_iso,
    width_of,
)
from shadowset.vss.requester_protocol import TimelineEntry

ENTRIES = [
    TimelineEntry("SQLite Writer", "prepare-snapshot", 0.0, 10.0),
    TimelineEntry("SQLite Writer", "freeze", 10.0, 15.0),
    TimelineEntry("data", "hold", 15.0, 15.1),
    TimelineEntry("wal", "hold", 15.0, 17.5, 0x80042314, "too \x1blong"),
    TimelineEntry("SQLite Writer", "thaw", 17.5, 20.0),
]

GOLDEN = """\
                                 |0                     20.0|  start + length
SQLite Writer  prepare-snapshot  |#############             |   0.0 + 10.0 ms
SQLite Writer  freeze            |             #######      |   10.0 + 5.0 ms
data           hold              |                   #      |   15.0 + 0.1 ms
wal            hold              |                   ####   |   15.0 + 2.5 ms
    VSS_E_HOLD_WRITES_TIMEOUT: too \\x1blong
SQLite Writer  thaw              |                      ####|   17.5 + 2.5 ms"""


def test_the_timeline_is_drawn_to_scale() -> None:
    assert draw_timeline(ENTRIES, 77, "#") == GOLDEN


@given(st.integers(0, 300))
def test_the_timeline_fits_the_width(width: int) -> None:
    lines = draw_timeline(ENTRIES, width).splitlines()
    bars = [line for line in lines if "|" in line]
    assert len({line.index("|") for line in bars}) == 1
    assert max(width_of(line) for line in bars) <= max(width, 65)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=20))
def test_every_entry_has_a_bar_within_its_frame(spans: list[tuple[float, float]]) -> None:
    entries = [TimelineEntry("a", "p", min(span), max(span)) for span in spans]
    for line in draw_timeline(entries, 80, "#").splitlines()[1:]:
        assert "#" in line.split("|")[1]
        assert len(line.split("|")[1]) == len(draw_timeline(entries, 80, "#").splitlines()[0].split("|")[1])


def test_no_timeline() -> None:
    assert draw_timeline([], 80) == "no timeline was recorded"


@given(st.text())
def test_nothing_raw_reaches_the_terminal(text: str) -> None:
    assert printable(text).isprintable()


def test_undecodable_and_directional_characters_are_escaped() -> None:
    assert printable("a\udcffb\u202ec\x9bd\x7f") == "a\\xffb\\u202ec\\x9bd\\x7f"
    assert printable("größe 漢字") == "größe 漢字"


def test_tables_are_aligned_also_with_wide_characters() -> None:
    lines = table(["NAME", "SIZE"], [["漢字", "1"], ["abcdef", "20"], ["", "300"]], right=(1,)).splitlines()
    assert {width_of(line) for line in lines} == {12}
    assert lines[3].startswith("- ")
    assert pad("漢", 4) == "漢  "


def test_names_of_attributes_and_contexts() -> None:
    assert attribute_names(0x2000D) == ["PERSISTENT", "CLIENT_ACCESSIBLE", "NO_AUTO_RELEASE", "DIFFERENTIAL"]
    assert attribute_names(0x40000000) == ["0x40000000"]
    assert attributes_text(0x40001D) == "Persistent, Client-accessible, No auto release, No writers, Auto recovered"
    assert (context_name(9), context_name(0x29)) == ("APP_ROLLBACK", "PERSISTENT|NO_AUTO_RELEASE|TRANSPORTABLE")


def test_times() -> None:
    assert time_iso(0) == ""
    assert time_iso(1_795_255_200_123_456_789) == "2026-11-21T10:00:00.123456Z"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"), (1 << 60, "1024 PiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


def test_short_ids_are_as_long_as_they_must() -> None:
    assert short_ids(["aaaaaaaa11", "bbbbbbbb22"]) == {"aaaaaaaa11": "aaaaaaaa", "bbbbbbbb22": "bbbbbbbb"}
    assert short_ids(["aaaaaaaa11", "aaaaaaaa12"])["aaaaaaaa12"] == "aaaaaaaa12"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_and_nowhere_else() -> None:
    assert (
        progress_text("copying", 50 << 20, 100 << 20, 5) == "copying: 50 MiB of 100 MiB (50%), 10 MiB/s, 0:00:05 left"
    )
    assert duration_text(3725) == "1:02:05"
    now = [0.0]
    for stream in (Terminal(), io.StringIO()):
        meter = Meter(stream, "copying", 1000, clock=lambda: now[0])
        for _ in range(10):
            now[0] += 0.1
            meter.add(100)
        meter.finish()
        if isinstance(stream, Terminal):
            assert stream.getvalue().count("\r") < 10 and stream.getvalue().endswith(
                "copying: 1000 B of 1000 B (100%), 1000 B/s\n"
            )
        else:
            assert stream.getvalue() == ""
    assert progress_text("x", 0, 0, 0) == "x: 0 B of 0 B (100%), 0 B/s"
