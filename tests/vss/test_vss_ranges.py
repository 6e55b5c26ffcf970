"""Ranges of files: both forms, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowset.vss.codes import Code, VssError
from shadowset.vss.ranges import Range, parse_ranges, parse_ranges_file, ranges_file, ranges_text, require_within

SOUND = st.lists(st.tuples(st.integers(0, 2**40), st.integers(1, 2**40)), min_size=1, max_size=9).map(
    lambda gaps: [
        Range(sum(gap + length for gap, length in gaps[:number]) + gaps[number][0], gaps[number][1])
        for number in range(len(gaps))
    ]
)


def test_decimal_and_hexadecimal() -> None:
    assert parse_ranges("0:16, 0x10:0XfF") == [Range(0, 16), Range(16, 255)]


@given(SOUND)
def test_both_forms_round_trip(ranges: list[Range]) -> None:
    assert parse_ranges(ranges_text(ranges)) == ranges == parse_ranges_file(ranges_file(ranges))


@pytest.mark.parametrize(
    "text", ["", "1", "1:", ":1", "-1:2", "1:2,", "1:2:3", "0x:1", "1:0", "a", "٣:1", f"{2**64}:1"]
)
def test_bad_ranges(text: str) -> None:
    with pytest.raises(VssError) as refused:
        parse_ranges(text)
    assert refused.value.code == Code.E_INVALIDARG


@given(st.binary(max_size=64))
def test_any_ranges_file_is_read_or_refused(data: bytes) -> None:
    try:
        assert ranges_file(parse_ranges_file(data)) == data
    except VssError as refused:
        assert refused.code == Code.E_INVALIDARG


def test_overlap_and_the_end_of_the_file() -> None:
    for overlapping in ("0:5,4:1", "4:1,0:5", "7:2,7:2"):
        with pytest.raises(VssError, match="overlap"):
            parse_ranges(overlapping)
    require_within([Range(0, 10)], 10, "f")
    with pytest.raises(VssError, match="range 9:2 of f ends behind its end at 10 bytes"):
        require_within([Range(0, 1), Range(9, 2)], 10, "f")
