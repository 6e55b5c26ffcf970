"""What there is to watch, as metrics in Prometheus's words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from shadowset.vss.enums import WriterState
from shadowset.vss.requester_protocol import (
    EventRecord,
    ServiceInfo,
    SetRecord,
    SnapshotProperties,
    StorageInfo,
    VolumeInfo,
    WriterStatus,
)

NS, MS = 1e9, 1e3
K = TypeVar("K", bound=tuple[str, ...])


class Seen(msgspec.Struct, kw_only=True):
    """What the coordinator told; ``sets`` are the newest set of each volume."""

    service: ServiceInfo
    volumes: list[VolumeInfo]
    storages: list[StorageInfo]
    writers: list[WriterStatus]
    copies: list[SnapshotProperties]
    sets: list[SetRecord]
    events: list[EventRecord]


def exposition(seen: Seen | None) -> bytes:
    """The text that Prometheus scrapes. Without a coordinator it says only that there is none."""
    registry = CollectorRegistry()
    registry.register(_Families(seen))
    return generate_latest(registry)


def newest_sets(copies: Iterable[SnapshotProperties]) -> list[str]:
    """The ids of the sets that hold the newest copy of a volume."""
    newest: dict[str, SnapshotProperties] = {}
    for copy in copies:
        if copy.original_volume not in newest or newest[copy.original_volume].created_ns < copy.created_ns:
            newest[copy.original_volume] = copy
    return sorted({copy.snapshot_set_id for copy in newest.values()})


class _Families(Collector):
    def __init__(self, seen: Seen | None) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        yield gauge("up", "whether the coordinator answers", {(): float(self._seen is not None)})
        if self._seen is not None:
            info = InfoMetricFamily("shadowset_build", "the coordinator's version")
            info.add_metric([], {"version": self._seen.service.version})
            yield info
            yield from volume_metrics(self._seen)
            yield from storage_metrics(self._seen.storages)
            yield from writer_metrics(self._seen.writers)
            yield from set_metrics(self._seen.sets)
            yield from event_metrics(self._seen.events)


def gauge(name: str, text: str, values: Mapping[K, float], labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    """One family: a value for each combination of the labels' values."""
    family = GaugeMetricFamily(f"shadowset_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def volume_metrics(seen: Seen) -> Iterator[Metric]:
    """Volumes, and their copies."""
    volumes = {volume.name: volume for volume in seen.volumes}
    times = {name: [copy.created_ns for copy in seen.copies if copy.original_volume == name] for name in volumes}
    by_volume = ("volume",)
    online = {(name,): float(volume.state == "online") for name, volume in volumes.items()}
    yield gauge("volume_online", "whether the volume's provider answers", online, by_volume)
    attached = {(name,): float(bool(volume.device)) for name, volume in volumes.items()}
    yield gauge("volume_attached", "whether the volume has its block device", attached, by_volume)
    sizes = {(name,): float(volume.size) for name, volume in volumes.items()}
    yield gauge("volume_size_bytes", "size of the volume", sizes, by_volume)
    counts = {(name,): float(len(each)) for name, each in times.items()}
    yield gauge("shadow_copies", "shadow copies of the volume", counts, by_volume)
    newest = {(name,): max(each) / NS for name, each in times.items() if each}
    yield gauge("newest_copy_timestamp_seconds", "when the newest shadow copy was cut", newest, by_volume)
    oldest = {(name,): min(each) / NS for name, each in times.items() if each}
    yield gauge("oldest_copy_timestamp_seconds", "when the oldest shadow copy was cut", oldest, by_volume)


def storage_metrics(storages: list[StorageInfo]) -> Iterator[Metric]:
    """Room of the shadow storages."""
    by_volume = ("volume",)
    used = {(each.volume,): float(each.used) for each in storages}
    yield gauge("storage_used_bytes", "room that the shadow storage takes", used, by_volume)
    left = {(each.volume,): float(each.available) for each in storages}
    yield gauge("storage_available_bytes", "room that it can still take", left, by_volume)
    limits = {(each.volume,): float(each.max_size) for each in storages}
    yield gauge("storage_max_size_bytes", "its maximum size, 0 without one", limits, by_volume)


def writer_metrics(writers: list[WriterStatus]) -> Iterator[Metric]:
    """Writers, by name and instance."""
    labels = ("writer", "instance")
    keys = {(writer.name, writer.instance_name or writer.instance_id): writer for writer in writers}
    connected = {key: float(writer.connected) for key, writer in keys.items()}
    yield gauge("writer_connected", "whether the writer is connected", connected, labels)
    states = {key: float(writer.state) for key, writer in keys.items()}
    words = ", ".join(f"{state.value} {state.name.lower()}" for state in WriterState)
    yield gauge("writer_state", f"the writer's last state: {words}", states, labels)
    codes = {key: float(writer.failure.code) for key, writer in keys.items()}
    yield gauge("writer_failure_code", "the code of the writer's last failure, 0 without one", codes, labels)


def set_metrics(sets: list[SetRecord]) -> Iterator[Metric]:
    """What the newest set cost each volume."""
    by_volume = ("volume",)
    newest: dict[str, SetRecord] = {}
    for record in sorted(sets, key=lambda record: record.created_ns):
        newest.update({times.volume: record for times in record.volumes})
    times = {name: next(each for each in record.volumes if each.volume == name) for name, record in newest.items()}
    held = {(name,): each.hold_ms / MS for name, each in times.items()}
    yield gauge("last_hold_seconds", "how long the newest set held the volume's writes", held, by_volume)
    frozen = {(name,): each.frozen_ms / MS for name, each in times.items()}
    yield gauge("last_freeze_seconds", "how long it froze the volume's file system", frozen, by_volume)
    skew = {(name,): record.skew_ms / MS for name, record in newest.items()}
    yield gauge("last_set_skew_seconds", "time between its first and last volume's cut", skew, by_volume)


def event_metrics(events: list[EventRecord]) -> Iterator[Metric]:
    """When each kind of event came last."""
    last: dict[tuple[str, ...], float] = {}
    for event in events:
        key = (event.name, event.volume)
        last[key] = max(last.get(key, 0.0), event.time_ns / NS)
    text = "when an event of this kind came last"
    yield gauge("last_event_timestamp_seconds", text, last, ("event", "volume"))
