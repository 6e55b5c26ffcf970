"""Log backups of the PostgreSQL writer: which segments of an archive belong to one, and what a restore does with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="not installed: psycopg")

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, RollForward
from shadowset.writers.postgresql.archive import LogEnd, Position, segments_since
from shadowset.writers.postgresql.roll_forward import recovery_settings
from shadowset.writers.postgresql.settings import ClusterSettings

SIZE = 1 << 20
MANY = 4096  # segments of this size in one of the log's numbers


def name(timeline: int, number: int) -> str:
    return f"{timeline:08X}{number // MANY:08X}{number % MANY:08X}"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Segments 10 to 14 of time line 1."""
    place = tmp_path / "archive"
    place.mkdir()
    (tmp_path / "data" / "pg_wal").mkdir(parents=True)
    for number in range(MANY - 2, MANY + 3):
        (place / name(1, number)).write_bytes(bytes(SIZE))
    return place


def end(number: int, timeline: int = 1) -> LogEnd:
    return LogEnd("a point", Position(number * SIZE + 40, timeline), name(timeline, number), SIZE)


def since(archive: Path, first: int, last: LogEnd, timeline: int = 1) -> list[str]:
    data = str(archive.parent / "data")
    return segments_since(str(archive), data, Position(first * SIZE + 80, timeline), last)


def test_a_position_survives_its_stamp() -> None:
    place = Position((7 << 32) + 0xABC, 3)
    assert str(place) == "7/ABC timeline 3" and Position.parse(str(place)) == place
    for stamp in ("", "recovered", "7/ABC", "7/ABC timeline 3 "):
        with pytest.raises(VssError, match="make a full backup"):
            Position.parse(stamp)


def test_the_log_goes_from_the_position_to_the_end(archive: Path) -> None:
    for other in (f"{name(1, MANY)}.00000028.backup", f"{name(1, MANY + 1)}.partial", "00000002.history", "README"):
        (archive / other).touch()
    assert since(archive, MANY - 1, end(MANY + 1)) == [name(1, number) for number in range(MANY - 1, MANY + 2)]
    assert since(archive, MANY + 1, end(MANY + 1)) == [name(1, MANY + 1)]


def test_compressed_segments_count_and_short_ones_do_not(archive: Path) -> None:
    (archive / name(1, MANY)).rename(archive / f"{name(1, MANY)}.gz")
    (archive / f"{name(1, MANY)}.gz").write_bytes(b"short")
    assert since(archive, MANY, end(MANY + 1)) == [f"{name(1, MANY)}.gz", name(1, MANY + 1)]
    (archive / name(1, MANY + 1)).write_bytes(bytes(SIZE - 1))
    with pytest.raises(VssError, match=f"lacks {name(1, MANY + 1)}, so the log has a gap"):
        since(archive, MANY, end(MANY + 1))


@pytest.mark.parametrize("lost", [-1, 0, 1])
def test_a_gap_is_told(archive: Path, lost: int) -> None:
    (archive / name(1, MANY + lost)).unlink()
    with pytest.raises(VssError, match=f"lacks {name(1, MANY + lost)}, so") as caught:
        since(archive, MANY - 1, end(MANY + 1))
    assert caught.value.code == Code.VSS_E_WRITERERROR_NONRETRYABLE


def test_a_promotion_goes_on_and_an_earlier_restore_does_not(archive: Path) -> None:
    (archive / name(2, MANY)).write_bytes(bytes(SIZE))
    (archive / name(2, MANY + 1)).write_bytes(bytes(SIZE))
    with pytest.raises(VssError, match="to time line 2, and its log does not go on"):
        since(archive, MANY - 1, end(MANY + 1, 2))
    history = archive / "00000002.history"
    history.write_text(f"1\t{Position(MANY * SIZE + 9, 1)}\n".replace(" timeline 1", "\tno recovery target specified"))
    assert since(archive, MANY - 1, end(MANY + 1, 2)) == sorted(
        [name(1, MANY - 1), name(1, MANY), name(2, MANY), name(1, MANY + 1), name(2, MANY + 1)]
    )
    with pytest.raises(VssError, match="restored or promoted since the base"):
        since(archive, MANY + 1, end(MANY + 1, 2))
    (archive / name(2, MANY + 1)).unlink()
    (archive / name(1, MANY + 1)).rename(archive / name(3, MANY + 1))
    with pytest.raises(VssError, match="so the log has a gap"):
        since(archive, MANY - 1, end(MANY + 1, 2))


LOG = {"method": "log", "restore_point": "shadowset 1", "timeline": "4", "archive": "/there's"}


@pytest.mark.parametrize(
    ("metadata", "wish", "point", "expected"),
    [
        (LOG, RollForward.UNDEFINED, "", ("recovery_target_name", "shadowset 1", "4")),
        (LOG, RollForward.PARTIAL, "noon", ("recovery_target_time", "noon", "4")),
        (LOG, RollForward.PARTIAL, "noon timeline 2", ("recovery_target_time", "noon", "2")),
        (LOG, RollForward.ALL, "", ("", "", "latest")),
        (LOG, RollForward.NONE, "", ("", "", "current")),
        ({}, RollForward.PARTIAL, "noon", ("recovery_target_time", "noon", "latest")),
    ],
)
def test_how_far_a_restore_goes(metadata: dict[str, str], wish: RollForward, point: str, expected: Any) -> None:
    component = Component(ComponentType.FILEGROUP, "", "main", roll_forward=wish, roll_forward_point=point)
    component.backup_metadata = json.dumps(metadata)
    settings = ClusterSettings(data_directory="/data", restore_command="" if metadata else "get %f %p")
    found = recovery_settings(settings, "/data", component)
    target, value, timeline = expected
    assert found["recovery_target_timeline"] == timeline and found.get(target, "") == value
    command = """cp '/there'"'"'s'/%f "%p\"""" if metadata else "get %f %p"
    assert command in found["restore_command"]


def test_a_copy_that_has_recovered_is_not_rolled_forward() -> None:
    component = Component(ComponentType.FILEGROUP, "", "main", roll_forward=RollForward.ALL)
    component.backup_metadata = json.dumps({"copy": "recovered"})
    with pytest.raises(VssError, match="from where the archived log does not go on"):
        recovery_settings(ClusterSettings(restore_command="x"), "/data", component)
    with pytest.raises(VssError, match="neither restore_command nor archive_directory"):
        recovery_settings(ClusterSettings(), "/data", component)
