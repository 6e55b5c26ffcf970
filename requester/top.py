"""What a live view shows: rates between two looks, laid out for a terminal; pure but for ``device_counters``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from shadowset.requester.progress import size_text
from shadowset.requester.sentences import table, time_text
from shadowset.vss.codes import code_name
from shadowset.vss.requester_protocol import EventRecord, ServiceInfo, StorageInfo, VolumeInfo, WriterStatus

SECTOR = 512


class Counters(msgspec.Struct):
    """What a block device has done since it is there; bytes and requests."""

    read: int = 0
    written: int = 0
    requests: int = 0


class Look(msgspec.Struct, kw_only=True):
    """All that is shown, at one time (seconds of a clock that only goes forward)."""

    time: float
    service: ServiceInfo
    volumes: list[VolumeInfo]
    storages: list[StorageInfo]
    writers: list[WriterStatus]
    events: list[EventRecord]
    devices: dict[str, Counters]


def device_counters(device: str, sysfs: str = "/sys/class/block") -> Counters:
    """Of an attached device, from its ``stat`` in sysfs; zeros for none."""
    try:
        words = Path(f"{sysfs}/{os.path.basename(os.path.realpath(device))}/stat").read_text().split()
        numbers = [int(word) for word in words[:7]]
    except (OSError, ValueError):
        return Counters()
    if len(numbers) < 7 or not device:
        return Counters()
    return Counters(numbers[2] * SECTOR, numbers[6] * SECTOR, numbers[0] + numbers[4])


def screen(now: Look, before: Look | None, lines: int) -> str:
    """At most ``lines`` lines; the newest events fill what is left."""
    parts = [
        f"shadowsetd {now.service.version}, process {now.service.pid}: {len(now.volumes)} volumes, "
        f"{len(now.writers)} writers",
        "",
        _volumes(now, before),
        "",
        _writers(now.writers),
        "",
    ]
    text = "\n".join(parts).splitlines()
    left = lines - len(text) - 1
    if left > 0 and now.events:
        rows = [[time_text(event.time_ns), event.name, event.message] for event in reversed(now.events[-left:])]
        text += ["", *table(["TIME", "EVENT", ""], rows).splitlines()]
    return "\n".join(text[:lines])


def _volumes(now: Look, before: Look | None) -> str:
    storages = {storage.volume: storage for storage in now.storages}
    old = {storage.volume: storage.used for storage in before.storages} if before else {}
    seconds = now.time - before.time if before else 0.0
    rows = []
    for volume in now.volumes:
        device, storage = now.devices.get(volume.name, Counters()), storages.get(volume.name)
        earlier = before.devices.get(volume.name) if before else None
        used = storage.used if storage else volume.storage_used
        limit = size_text(storage.max_size) if storage and storage.max_size else "no limit"
        rows.append(
            [
                volume.name,
                volume.state,
                str(volume.copies),
                _rate(device.read, earlier.read if earlier else None, seconds),
                _rate(device.written, earlier.written if earlier else None, seconds),
                _count(device.requests, earlier.requests if earlier else None, seconds),
                size_text(used),
                limit,
                _rate(used, old.get(volume.name), seconds),
                volume.message,
            ]
        )
    headings = ["VOLUME", "STATE", "COPIES", "READ", "WRITTEN", "REQUESTS", "STORAGE", "LIMIT", "GROWS", ""]
    return table(headings, rows, right=(2, 3, 4, 5, 6, 7, 8))


def _rate(value: int, earlier: int | None, seconds: float) -> str:
    """Bytes a second; nothing is known at the first look, and nothing of a device that is another one now."""
    if earlier is None or seconds <= 0 or value < earlier:
        return ""
    return f"{size_text((value - earlier) / seconds)}/s"


def _count(value: int, earlier: int | None, seconds: float) -> str:
    if earlier is None or seconds <= 0 or value < earlier:
        return ""
    return f"{(value - earlier) / seconds:.0f}/s"


def _writers(writers: Sequence[WriterStatus]) -> str:
    rows = [
        [
            " ".join(filter(None, (writer.name, writer.instance_name))),
            writer.state.name.lower().replace("_", " "),
            f"{code_name(writer.failure.code)} {writer.failure.message}" if writer.failure.code else "",
        ]
        for writer in writers
    ]
    return table(["WRITER", "STATE", "LAST ERROR"], rows)
