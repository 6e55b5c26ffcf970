"""Values as a coordinator answers them, and the golden files that the Windows tools' output is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shadowset.vss.components import Failure
from shadowset.vss.enums import Attribute, Context, ProviderType, SnapshotState, WriterState
from shadowset.vss.requester_protocol import (
    ProviderInfo,
    RevertStatus,
    SnapshotProperties,
    StorageInfo,
    VolumeInfo,
    WriterStatus,
)

GOLDEN = Path(__file__).parent / "golden"
PROVIDER = "7c1f0f5e-9a4c-4c39-8d2c-3a8e5a8d6b21"
SET_ONE, SET_TWO = "11111111-2222-4333-8444-555555555555", "66666666-7777-4888-8999-000000000000"
COPY_ONE, COPY_TWO = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", "12121212-3434-4656-8878-909090909090"
COPY_THREE = "0f0f0f0f-1111-4222-8333-444444444444"
NOON_NS = 1_775_822_400_000_000_000


def a_copy(
    snapshot_id: str,
    set_id: str,
    volume: str,
    number: int,
    context: Context,
    *,
    mount_points: tuple[str, ...] = (),
    of: int = 1,
) -> SnapshotProperties:
    return SnapshotProperties(
        snapshot_id=snapshot_id,
        snapshot_set_id=set_id,
        snapshots_count=of,
        device_object=f"/run/shadowset/devices/HarddiskVolumeShadowCopy{number}",
        original_volume=volume,
        originating_machine="files.example",
        service_machine="files.example",
        exposed_name="",
        exposed_path="",
        provider_id=PROVIDER,
        attributes=int(context) | int(Attribute.DIFFERENTIAL),
        created_ns=NOON_NS + number * 3_605_000_000_000,
        status=SnapshotState.CREATED,
        size=1 << 30,
        number=number,
        device_number=number,
        mount_points=list(mount_points),
    )


def a_writer(name: str, instance: str, state: WriterState, code: int = 0, connected: bool = True) -> WriterStatus:
    return WriterStatus(
        "5c5bd54e-8a0a-4ae5-a0a0-7a6cbb3d9f0e", instance, name, state, Failure(code), connected=connected
    )


@pytest.fixture
def copies() -> list[SnapshotProperties]:
    """Two sets, the second with a volume that is not mounted; not in the order of their making."""
    return [
        a_copy(COPY_TWO, SET_TWO, "data", 3, Context.APP_ROLLBACK, mount_points=("/srv/data",), of=2),
        a_copy(COPY_ONE, SET_ONE, "data", 1, Context.CLIENT_ACCESSIBLE, mount_points=("/srv/data",)),
        a_copy(COPY_THREE, SET_TWO, "wal", 4, Context.APP_ROLLBACK, of=2),
    ]


@pytest.fixture
def providers() -> list[ProviderInfo]:
    return [ProviderInfo(PROVIDER, "Shadowset NBD provider", ProviderType.SYSTEM, "0.1.0", "", "", 0)]


@pytest.fixture
def writers() -> list[WriterStatus]:
    return [
        a_writer("SQLite Writer", "04cf6316-f0c5-4ce7-bbe4-e56e6334124c", WriterState.STABLE),
        a_writer("Farm 'east' Writer", "9a2c071c-f231-4a9d-abb3-0b15e1866b79", WriterState.WAITING_FOR_BACKUP_COMPLETE),
        a_writer("Mail Writer", "1dcb9866-6b86-4a5f-8dcc-eaf270bbfb2b", WriterState.FAILED_AT_FREEZE, 0x800423F2),
    ]


@pytest.fixture
def storages() -> list[tuple[StorageInfo, str, int, list[str]]]:
    gib = 1 << 30
    return [
        (
            StorageInfo("data", "/var/lib/shadowset/storage/data", 2 * gib, 8 * gib, 10 * gib, "delete-oldest", 90, 2),
            "/var",
            100 * gib,
            ["/srv/data"],
        ),
        (StorageInfo("wal", "/storage/wal", 0, 8 * gib, 0, "refuse-new", 90, 0), "/storage", 0, []),
    ]


@pytest.fixture
def volumes() -> list[VolumeInfo]:
    def volume(name: str, mount_points: list[str]) -> VolumeInfo:
        return VolumeInfo(
            name, f"/dev/vg/{name}", f"/storage/{name}", 1 << 30, 16384, "online", "", "", mount_points, 0, 0, "", 0
        )

    return [volume("data", ["/srv/data"]), volume("wal", [])]


@pytest.fixture
def revert_status() -> RevertStatus:
    return RevertStatus("data", "writing", COPY_ONE, 3 << 20, 4 << 20)


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Compare with a golden file, in the time zone in which they were written."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()

    def compare(name: str, text: str) -> None:
        assert text == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")

    yield compare
    monkeypatch.undo()
    time.tzset()
