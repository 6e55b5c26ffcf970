"""Which backups stay, pure: the newest, the newest of each day, week, month and year, and what these build on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from shadowset.requester.jobs.definition import Keep

Bucket = Callable[[datetime], tuple[int, ...]]


class StoredVersion(msgspec.Struct, kw_only=True):
    """One backup of a job. ``created`` is ISO 8601 in UTC; ``needs`` is the id of the one that it builds on.

    ``trouble`` says why it cannot be restored; not ``complete``, a part of it failed.
    """

    id: str
    created: str
    kind: str
    complete: bool = True
    needs: str = ""
    files: int = 0
    bytes: int = 0
    trouble: str = ""


def _day(moment: datetime) -> tuple[int, ...]:
    return moment.year, moment.month, moment.day


def _week(moment: datetime) -> tuple[int, ...]:
    return moment.isocalendar()[:2]


def _month(moment: datetime) -> tuple[int, ...]:
    return moment.year, moment.month


def _year(moment: datetime) -> tuple[int, ...]:
    return (moment.year,)


def kept(versions: Sequence[StoredVersion], keep: Keep) -> dict[str, list[str]]:
    """By id, why a version stays; those that do not stay are not in it. ``versions`` are oldest first.

    Only complete versions that can be restored are counted. One that is not complete stays until a complete one is
    newer; the newest complete one always stays. Days begin at midnight, local time.
    """
    if not any(keep.counts()):
        return {version.id: ["nothing is removed"] for version in versions}
    sound = [version for version in reversed(versions) if version.complete and not version.trouble]
    reasons: dict[str, list[str]] = {}
    for place, version in enumerate(sound[: max(keep.last, 1)]):
        reasons[version.id] = [f"last {place + 1}" if keep.last else "the newest"]
    for name, count, bucket in (
        ("day", keep.daily, _day),
        ("week", keep.weekly, _week),
        ("month", keep.monthly, _month),
        ("year", keep.yearly, _year),
    ):
        for number, version in enumerate(_newest_of_each(sound, bucket)[:count]):
            reasons.setdefault(version.id, []).append(f"{name} {number + 1}")
    newest = sound[0].id if sound else ""
    for version in reversed(versions):
        if version.id == newest:
            break
        reasons.setdefault(version.id, ["no complete one is newer"])
    return _with_bases(versions, reasons)


def _newest_of_each(newest_first: Sequence[StoredVersion], bucket: Bucket) -> list[StoredVersion]:
    found: dict[tuple[int, ...], StoredVersion] = {}
    for version in newest_first:
        found.setdefault(bucket(datetime.fromisoformat(version.created).astimezone()), version)
    return list(found.values())


def _with_bases(versions: Sequence[StoredVersion], reasons: dict[str, list[str]]) -> dict[str, list[str]]:
    """What a kept version builds on stays too; bases are older."""
    for version in reversed(versions):
        if version.id in reasons and version.needs:
            reasons.setdefault(version.needs, []).append(f"{version.id} builds on it")
    return {version.id: reasons[version.id] for version in versions if version.id in reasons}
