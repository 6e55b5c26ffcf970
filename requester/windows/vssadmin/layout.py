"""What vssadmin prints. Pure: values in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from shadowset.requester.sentences import attributes_text, printable
from shadowset.requester.windows.sizes import limit_text, share_text
from shadowset.requester.windows.words import (
    braced,
    last_error_text,
    state_text,
    time_text,
    type_text,
    volume_of,
    volume_text,
)
from shadowset.vss.enums import ProviderType
from shadowset.vss.requester_protocol import (
    ProviderInfo,
    RevertStatus,
    SnapshotProperties,
    StorageInfo,
    VolumeInfo,
    WriterStatus,
)

NOTHING = "No items found that satisfy the query."


def banner(version: str) -> str:
    """Two lines and an empty one, as many as scripts skip."""
    return f"vssadmin (Shadowset {version})\nVolume Shadow Copy Service for Linux\n"


def shadows(copies: Iterable[SnapshotProperties], providers: Mapping[str, str]) -> str:
    """Copies set by set, oldest first; ``providers`` are names by id."""
    ordered = sorted(copies, key=lambda copy: (copy.created_ns, copy.snapshot_set_id, copy.device_number))
    sets: dict[str, list[SnapshotProperties]] = {}
    for copy in ordered:
        sets.setdefault(copy.snapshot_set_id, []).append(copy)
    return "\n".join(_set(members, providers) for members in sets.values())


def _set(members: Sequence[SnapshotProperties], providers: Mapping[str, str]) -> str:
    first = members[0]
    lines = [
        f"Contents of shadow copy set ID: {braced(first.snapshot_set_id)}",
        f"   Contained {first.snapshots_count} shadow copies at creation time: {time_text(first.created_ns)}",
    ]
    for copy in members:
        provider = printable(providers.get(copy.provider_id, copy.provider_id))
        lines += [
            f"      Shadow Copy ID: {braced(copy.snapshot_id)}",
            f"         Original Volume: {volume_of(copy)}",
            f"         Shadow Copy Volume: {printable(copy.device_object)}",
            f"         Originating Machine: {printable(copy.originating_machine)}",
            f"         Service Machine: {printable(copy.service_machine)}",
            f"         Provider: '{provider}'",
            f"         Type: {type_text(copy.attributes)}",
            f"         Attributes: {attributes_text(copy.attributes)}",
            "",
        ]
    return "\n".join(lines)


def writers(statuses: Iterable[WriterStatus]) -> str:
    """Writers with their state."""
    return "\n".join(
        f"Writer name: '{printable(status.name)}'\n"
        f"   Writer Id: {braced(status.writer_id)}\n"
        f"   Writer Instance Id: {braced(status.instance_id)}\n"
        f"   State: {state_text(status)}\n"
        f"   Last error: {last_error_text(status)}\n"
        for status in statuses
    )


def providers(infos: Iterable[ProviderInfo]) -> str:
    """Registered providers."""
    return "\n".join(
        f"Provider name: '{printable(info.name)}'\n"
        f"   Provider type: {provider_type(info.type)}\n"
        f"   Provider Id: {braced(info.provider_id)}\n"
        f"   Version: {printable(info.version)}\n"
        for info in infos
    )


def provider_type(kind: ProviderType) -> str:
    """A provider's type in words."""
    return "Fileshare" if kind == ProviderType.FILESHARE else kind.name.capitalize()


def volumes(infos: Iterable[VolumeInfo]) -> str:
    """Volumes of which shadow copies can be made: where each is mounted, or its device."""
    return "\n".join(
        f"Volume path: {printable((info.mount_points or [info.device or info.origin])[0])}\n"
        f"    Volume name: {printable(info.name)}"
        for info in infos
    )


def storages(pairs: Iterable[tuple[StorageInfo, str, int, list[str]]]) -> str:
    """Shadow storage of volumes: each with the mount point and the size of the file system that it lies on, and where
    the volume is mounted."""
    return "\n".join(
        "Shadow Copy Storage association\n"
        f"   For volume: {volume_text(mount_points, storage.volume)}\n"
        f"   Shadow Copy Storage volume: {volume_text([mount] if mount else [], storage.storage)}\n"
        f"   Used Shadow Copy Storage space: {share_text(storage.used, disk)}\n"
        f"   Allocated Shadow Copy Storage space: {share_text(storage.used, disk)}\n"
        f"   Maximum Shadow Copy Storage space: {limit_text(storage.max_size, disk)}\n"
        for storage, mount, disk, mount_points in pairs
    )


def reverts(statuses: Iterable[RevertStatus]) -> str:
    """Reverts under way."""
    return "\n".join(
        f"Volume: {printable(status.volume)}\n"
        f"   Shadow Copy ID: {braced(status.snapshot_id)}\n"
        f"   State: {status.phase.capitalize()}{printable(': ' + status.reason if status.reason else '')}\n"
        f"   Progress: {status.done * 100 // status.total if status.total else 0}%\n"
        for status in statuses
    )


def created(volume: str, copy: SnapshotProperties) -> str:
    """A copy that was made."""
    return (
        f"Successfully created shadow copy for '{printable(volume)}'\n"
        f"    Shadow Copy ID: {braced(copy.snapshot_id)}\n"
        f"    Shadow Copy Volume Name: {printable(copy.device_object)}"
    )
