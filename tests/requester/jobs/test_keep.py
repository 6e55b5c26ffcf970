"""Which backups stay: by table, and by rules that hold for all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowset.requester.jobs.definition import Keep
from shadowset.requester.jobs.keep import StoredVersion, kept

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def version(days: float, needs: str = "", complete: bool = True, trouble: str = "") -> StoredVersion:
    moment = START + timedelta(days=days)
    return StoredVersion(
        id=f"v{days:g}",
        created=moment.isoformat(),
        kind="incremental" if needs else "full",
        needs=needs,
        complete=complete,
        trouble=trouble,
    )


def stays(versions: list[StoredVersion], **counts: int) -> list[str]:
    return list(kept(versions, Keep(**counts)))


DAILY = [version(day) for day in range(60)]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, [f"v{day}" for day in range(60)]),
        ({"last": 3}, ["v57", "v58", "v59"]),
        ({"daily": 2}, ["v58", "v59"]),
        ({"monthly": 2}, ["v58", "v59"]),  # 28 February is the 58th day after 1 January
        ({"last": 1, "monthly": 3}, ["v30", "v58", "v59"]),
        ({"weekly": 2}, ["v52", "v59"]),  # 1 January 2026 is a Thursday, so Sundays are days 3, 10, … 59
        ({"yearly": 5}, ["v59"]),
    ],
)
def test_counts(counts: dict[str, int], expected: list[str]) -> None:
    assert stays(DAILY, **counts) == expected


def test_a_base_stays_as_long_as_something_builds_on_it() -> None:
    chain = [version(0), version(1, "v0"), version(2, "v1"), version(3), version(4, "v3")]
    assert stays(chain, last=1) == ["v3", "v4"]
    assert stays(chain[:3], last=1) == ["v0", "v1", "v2"]
    assert "v4 builds on it" in kept(chain, Keep(last=1))["v3"]


def test_what_failed_in_part_is_not_counted() -> None:
    versions = [version(0), version(1, complete=False), version(2), version(3, complete=False)]
    assert stays(versions, last=1) == ["v2", "v3"]
    assert stays(versions, last=2) == ["v0", "v2", "v3"]
    assert stays([version(0), version(1, trouble="damaged")], last=1) == ["v0", "v1"]
    assert stays([version(0, complete=False)], last=1) == ["v0"]


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=30),
    st.tuples(*[st.integers(0, 4)] * 5),
)
def test_the_newest_complete_one_and_all_bases_always_stay(
    shapes: list[tuple[bool, bool, bool]], counts: tuple[int, ...]
) -> None:
    versions: list[StoredVersion] = []
    for number, (builds, complete, sound) in enumerate(shapes):
        needs = versions[-1].id if builds and versions else ""
        versions.append(version(number / 3, needs, complete, "" if sound else "damaged"))
    stay = kept(versions, Keep(*counts))
    by_id = {each.id: each for each in versions}
    assert all(by_id[name].needs in stay for name in stay if by_id[name].needs)
    sound_ones = [each.id for each in versions if each.complete and not each.trouble]
    assert not sound_ones or sound_ones[-1] in stay
    assert all(stay.values())
    if any(counts):
        counted = sum(1 for name in stay if name in sound_ones and "builds on it" not in stay[name][0])
        assert counted <= max(counts[0], 1) + sum(counts[1:])
