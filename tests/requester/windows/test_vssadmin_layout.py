"""What vssadmin prints: byte for byte, and as parsers of its output read it that are in wide use."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from shadowset.requester.cli import UsageError
from shadowset.requester.windows.sizes import parse_max_size, share_text, size_text
from shadowset.requester.windows.vssadmin import COMMANDS, layout, main, usage
from shadowset.requester.windows.vssadmin.arguments import parse_switches
from shadowset.requester.windows.words import last_error_text, state_text, time_text, type_text
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Attribute, Context, WriterState

NAMES = {"7c1f0f5e-9a4c-4c39-8d2c-3a8e5a8d6b21": "Shadowset NBD provider"}


@pytest.mark.vss(127)
def test_the_output_is_the_golden_one(
    golden: Callable[[str, str], None],
    copies: Any,
    writers: Any,
    providers: Any,
    storages: Any,
    volumes: Any,
    revert_status: Any,
) -> None:
    golden("vssadmin-list-shadows", layout.shadows(copies, NAMES))
    golden("vssadmin-list-writers", layout.writers(writers))
    golden("vssadmin-list-providers", layout.providers(providers))
    golden("vssadmin-list-shadowstorage", layout.storages(storages))
    golden("vssadmin-list-volumes", layout.volumes(volumes))
    golden("vssadmin-query-reverts", layout.reverts([revert_status]))
    golden("vssadmin-create-shadow", layout.created("/srv/data", copies[1]))


@pytest.mark.vss(127)
def test_a_line_by_line_parser_finds_the_shadows(copies: Any) -> None:
    """A script that trims each line, splits it at its first colon, and begins a record with each copy's id."""
    records: list[dict[str, str]] = []
    for line in layout.shadows(copies, NAMES).splitlines():
        label, colon, value = line.strip().partition(": ")
        if label == "Shadow Copy ID":
            records.append({})
        if colon and records:
            records[-1][label] = value
    assert [record["Shadow Copy ID"].strip("{}") for record in records] == [
        copies[1].snapshot_id,
        copies[0].snapshot_id,
        copies[2].snapshot_id,
    ]
    assert [record["Shadow Copy Volume"] for record in records] == [
        copy.device_object for copy in (copies[1], copies[0], copies[2])
    ]
    assert [record["Type"] for record in records] == ["ClientAccessible", "ApplicationRollback", "ApplicationRollback"]


def test_a_pattern_over_the_whole_text_finds_the_shadows(copies: Any) -> None:
    """Time, id, mount point, volume and device in one pattern, as scripts for PowerShell and Perl have it."""
    pattern = (
        r"Contained (\d+) shadow copies at creation time: (\d+/\d+/\d+ \d+:\d\d:\d\d [AP]M)[\s\S]*?"
        r"Shadow Copy ID: (\{[0-9A-Fa-f-]{36}\})[\s\S]*?"
        r"Original Volume: \(([^)]+)\)(\S+)[\s\S]*?"
        r"Shadow Copy Volume:\s*(\S+)"
    )
    found = re.findall(pattern, layout.shadows(copies[:2], NAMES))
    assert [(count, mount, volume) for count, _, _, mount, volume, _ in found] == [
        ("1", "/srv/data", "data"),
        ("2", "/srv/data", "data"),
    ]
    assert [device.rpartition("Copy")[2] for *_, device in found] == ["1", "3"]


def test_a_monitoring_check_finds_the_writers(writers: Any) -> None:
    """Name, state and last error of each writer in the five lines that belong to it."""
    lines = layout.writers(writers).splitlines()
    starts = [number for number, line in enumerate(lines) if re.match(r"Writer name: '.*'$", line)]
    blocks = ["\n".join(lines[start : start + 5]) for start in starts]
    pattern = (
        r"Writer name: '(.*)'\s+Writer Id: \{(.+)\}\s+Writer Instance Id: \{(.+)\}"
        r"\s+State: \[(\d+)\] (.+)\s+Last error: (.+)"
    )
    matches = [re.fullmatch(pattern, block) for block in blocks]
    assert [(m[1], int(m[4]), m[5], m[6]) for m in matches if m] == [
        ("SQLite Writer", 1, "Stable", "No error"),
        ("Farm 'east' Writer", 5, "Waiting for completion", "No error"),
        ("Mail Writer", 9, "Failed", "Timed out"),
    ]


def test_a_space_check_finds_the_sizes(storages: Any) -> None:
    text = layout.storages(storages)
    for label, expected in (("Used", ["2.00 GB", "0 bytes"]), ("Maximum", ["10.00 GB", "UNBOUNDED"])):
        found = re.findall(rf"{label} Shadow Copy Storage space: (.+?)\s*\((\d+)%\)", text)
        assert [size for size, _ in found] == expected


def test_sizes_are_read_in_every_unit() -> None:
    gib = 1 << 30
    assert parse_max_size("900MB", 0) == 900 << 20
    assert parse_max_size("2048kb", 0) == 2 << 20
    assert [parse_max_size(f"1{unit}", 0) for unit in ("GB", "TB", "PB", "EB")] == [1 << (10 * n) for n in (3, 4, 5, 6)]
    assert parse_max_size("1048576", 0) == parse_max_size("1048576B", 0) == 1 << 20
    assert parse_max_size("unbounded", 5) == parse_max_size("", 5) == 0
    assert parse_max_size("20%", 10 * gib) == 2 * gib


@pytest.mark.parametrize("text", ["0MB", "1048575", "-5GB", "five", "1.5GB", "0%", "101%", "%", "10XB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(VssError) as refused:
        parse_max_size(text, 1 << 40)
    assert refused.value.code == Code.E_INVALIDARG


def test_a_part_of_an_unknown_disk_is_refused() -> None:
    with pytest.raises(VssError, match="not known"):
        parse_max_size("20%", 0)


def test_sizes_are_written_in_the_unit_that_fits() -> None:
    assert [size_text(size) for size in (0, 1023, 1024, 1 << 20, 3 << 39)] == [
        "0 bytes",
        "1023 bytes",
        "1.00 KB",
        "1.00 MB",
        "1.50 TB",
    ]
    assert share_text(1 << 20, 0) == "1.00 MB (0%)"


def test_switches_come_in_any_case_and_order() -> None:
    given = parse_switches(["/QUIET", "-For=/srv/data", "/shadow={AAAA}"], ("for", "shadow", "quiet"))
    assert given.value("for") == "/srv/data"
    assert given.guid("shadow") == "aaaa"
    assert given.flags == {"quiet"}


@pytest.mark.parametrize(
    "arguments", [["/on=x"], ["for=x"], ["/for"], ["/for="], ["/quiet=1"], ["/for=a", "/FOR=b"], ["/quiet", "/quiet"]]
)
def test_other_switches_are_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_switches(arguments, ("for", "quiet"))


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/?"]) == 0
    shown = capsys.readouterr().out
    assert usage() in shown
    assert all(f"{verb.capitalize()} {target.capitalize()}" in shown for verb, target in COMMANDS)


@pytest.mark.parametrize("arguments", [["frobnicate"], ["list"], ["list", "nothing"], ["delete", "shadows"]])
def test_wrong_usage_is_status_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("Error: ")


def test_every_context_has_its_type_and_states_have_six_names(writers: Any) -> None:
    contexts = [context for context in Context if context is not Context.ALL]
    types = {type_text(context | Attribute.DIFFERENTIAL) for context in contexts}
    assert len(types) == len(contexts) and "Unknown" not in types
    status = writers[0]
    names = set()
    for state in WriterState:
        status.state = state
        number, _, words = state_text(status).partition("] ")
        assert number == f"[{state.value}"
        names.add(words)
    assert names == {"Unknown", "Stable", "Waiting for freeze", "Frozen", "Waiting for completion", "Failed"}
    status.failure.code = 0x8004FFFF
    assert last_error_text(status) == "0x8004FFFF"


def test_times_are_those_of_an_english_clock(golden: Any) -> None:
    hour = 3_600_000_000_000
    assert [time_text(n * hour) for n in (0, 11, 12, 23)] == [
        "1/1/1970 12:00:00 AM",
        "1/1/1970 11:00:00 AM",
        "1/1/1970 12:00:00 PM",
        "1/1/1970 11:00:00 PM",
    ]
