"""What a check says, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from shadowset.requester.doctor.host import Host
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import (
    EventRecord,
    ServiceInfo,
    SnapshotProperties,
    StorageInfo,
    VolumeInfo,
    WriterStatus,
)

PROBLEM, WARNING = "problem", "warning"


class Finding(msgspec.Struct, frozen=True):
    """``level`` is problem or warning; ``cause`` and ``next`` are a sentence each, without a full stop."""

    check: str
    level: str
    object: str
    cause: str
    next: str


class Told(msgspec.Struct, kw_only=True):
    """What the coordinator says; ``service`` is None when none answers, for the reason in ``why``."""

    service: ServiceInfo | None = None
    why: str = ""
    volumes: list[VolumeInfo] = []
    storages: list[StorageInfo] = []
    writers: list[WriterStatus] = []
    copies: list[SnapshotProperties] = []
    events: list[EventRecord] = []


class Patient(msgspec.Struct, kw_only=True):
    """All that a check may look at."""

    host: Host
    paths: Paths
    told: Told


Check = Callable[[Patient], Iterator[Finding]]


def problem(check: str, what: str, cause: str, next_step: str) -> Finding:
    """Something that fails now, or will."""
    return Finding(check, PROBLEM, what, cause, next_step)


def warning(check: str, what: str, cause: str, next_step: str) -> Finding:
    """Something that may hurt one day."""
    return Finding(check, WARNING, what, cause, next_step)
