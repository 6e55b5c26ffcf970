"""The grammar of restore options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowset.vss.codes import Code, VssError
from shadowset.vss.restore_options import RestoreOption, check_options, options_for, options_text, parse_options


@pytest.mark.vss(74)
@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", []),
        ('"Authoritative"="All"', [("", "Authoritative", "All")]),
        (
            '"Roll Forward" = "Partial:2026-11-21" , "New Component Name"="a\\b"',
            [("", "Roll Forward", "Partial:2026-11-21"), ("", "New Component Name", "a\\b")],
        ),
        (
            '"A"="1","Sub\\One":"B"="2","C"="","Sub\\Two":"B"="3"',
            [("", "A", "1"), ("Sub\\One", "B", "2"), ("Sub\\One", "C", ""), ("Sub\\Two", "B", "3")],
        ),
        ('"\\Sub\\":"B"="2"', [("Sub", "B", "2")]),
        ('"Sub":"A"="1","":"B"="2"', [("Sub", "A", "1"), ("", "B", "2")]),
    ],
)
def test_what_the_grammar_means(text: str, options: list[tuple[str, str, str]]) -> None:
    assert parse_options(text) == [RestoreOption(*each) for each in options]


@pytest.mark.parametrize("text", ['"A"', '"A"=1', '"A"="1" "B"="2"', '"A"="1",', ',"A"="1"', '""="1"', '"A"="', "A=1"])
def test_what_it_does_not(text: str) -> None:
    with pytest.raises(VssError, match="restore options go wrong at") as caught:
        parse_options(text)
    assert caught.value.code == Code.E_INVALIDARG


def test_subtrees_and_names_without_case() -> None:
    options = parse_options('"Roll Forward"="All","Farm\\Content":"ROLL FORWARD"="None","X"="1"')
    assert options_for(options, "Farm") == {"roll forward": "All"}
    assert options_for(options, "Farm\\Content\\Db1") == {"roll forward": "None", "x": "1"}
    assert options_for(options, "Farm\\Contents") == {"roll forward": "All"}


def test_a_text_of_another_grammar_is_the_writers_affair() -> None:
    assert check_options("norecovery; stats=10") == "norecovery; stats=10"
    with pytest.raises(VssError):
        check_options(' "norecovery')


PART = st.text(st.characters(exclude_characters='"', exclude_categories=("Cs",)))
PATH = st.lists(st.text("abc:,= ", min_size=1), max_size=3).map("\\".join)


@pytest.mark.vss(74)
@given(st.lists(st.builds(RestoreOption, PATH, PART.filter(bool), PART)))
def test_what_is_written_is_read_again(options: list[RestoreOption]) -> None:
    assert parse_options(options_text(options)) == options


@given(st.text('"=,:\\ab '))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        options = parse_options(text)
    except VssError as error:
        assert error.code == Code.E_INVALIDARG
    else:
        assert parse_options(options_text(options)) == options
