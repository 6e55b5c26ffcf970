"""The provider itself.

A snapshot is the commit: it takes in all that was written to the subvolume before, as one transaction, so it lies
between the hold and the release of the other volumes of its set without the file system being frozen. (A frozen btrfs
makes no snapshot: the call would wait for the thaw.) Writes to the subvolume itself are never held.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID, uuid5

from shadowset import __version__
from shadowset.btrfs_provider import calls
from shadowset.btrfs_provider.filesystems import FileSystems, Subvolume, is_read_only, parse_name
from shadowset.btrfs_provider.records import COPY, Record, Records
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import ProviderCapability, ProviderType
from shadowset.vss.paths import DEVICE_PREFIX
from shadowset.vss.provider import ProviderHost, VolumeFacts
from shadowset.vss.provider_protocol import Committed, CopyInfo, Held, Released
from shadowset.vss.requester_protocol import ProviderInfo, SnapshotProperties

PROVIDER_ID = "c52d7e0a-6c7b-4f7e-9a51-0b6f5d7f9d43"
MAX_COPIES = 512
T = TypeVar("T")


@dataclass
class Planned:
    """A copy to come; ``source`` is the opened subvolume."""

    set_id: str
    snapshot_id: str
    subvolume: Subvolume
    records: Records
    source: int = -1
    record: Record | None = None
    committing: asyncio.Future[int] | None = None

    def close(self) -> None:
        """Let go of the subvolume."""
        if self.source >= 0:
            os.close(self.source)
            self.source = -1


class BtrfsProvider:
    """Implements ``shadowset.vss.provider.Provider``."""

    info = ProviderInfo(
        provider_id=PROVIDER_ID,
        name="Shadowset btrfs provider",
        type=ProviderType.SOFTWARE,
        version=__version__,
        version_id=str(uuid5(UUID(PROVIDER_ID), __version__)),
        class_id=PROVIDER_ID,
        capabilities=ProviderCapability.COMPLIANT | ProviderCapability.DIFFERENTIAL,
        lacks=["hold", "device-object", "changed-blocks", "revert", "priority"],
    )

    def __init__(self, host: ProviderHost) -> None:
        self._host = host
        self._filesystems = FileSystems(host.runtime, host.state, host.trees)
        self._planned: dict[str, Planned] = {}

    async def start(self, copies: list[SnapshotProperties]) -> None:
        """Take away directories of copies that are gone, show the others."""
        wanted = {copy.device_object for copy in copies}
        for copy in copies:
            try:
                await self.surface(copy)
            except VssError:
                continue  # its file system is away; the coordinator asks again
        await self._run(lambda: self._clear(wanted))

    def _clear(self, wanted: set[str]) -> None:
        for mount in self._filesystems.shown():
            if mount.path not in wanted:
                self._hide(mount.path)

    async def stop(self) -> None:
        """The mounts stay."""
        for planned in self._planned.values():
            planned.close()

    # ---- volumes ----

    async def find(self, volume: str) -> VolumeFacts | None:
        """A mounted subvolume by its name or a path in it."""
        return await self._run(lambda: self._find(volume))

    def _find(self, volume: str) -> VolumeFacts | None:
        named = parse_name(volume)
        subvolume = named or (self._filesystems.subvolume_at(volume) if volume.startswith("/") else None)
        places = self._filesystems.places(subvolume) if subvolume else []
        if subvolume is None or not places:
            return None
        descriptor = os.open(places[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            devices, space = calls.filesystem_devices(descriptor), os.fstatvfs(descriptor)
        finally:
            os.close(descriptor)
        return VolumeFacts(
            name=subvolume.name,
            size=space.f_blocks * space.f_frsize,
            mount_points=places,
            devices=devices,
            lies_on=devices,
            holds=False,
        )

    async def is_volume_supported(self, volume: str) -> bool:
        """Whether it is mounted and can be written to."""
        try:
            await self._run(lambda: self._writable_place(volume))
        except VssError:
            return False
        return True

    def _writable_place(self, volume: str) -> str:
        subvolume = parse_name(volume)
        places = self._filesystems.places(subvolume) if subvolume else []
        if subvolume is None or not places:
            raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, f"volume {volume} is not mounted; mount it to copy it")
        if is_read_only(self._filesystems.top(subvolume.filesystem)):
            sentence = f"the file system of {places[0]} is mounted read-only, so btrfs makes no snapshot; remount it"
            raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, sentence)
        return places[0]

    # ---- one set ----

    async def begin_prepare(self, volume: str, set_id: str, snapshot_id: str) -> None:
        """Find out whether it can be done."""
        self._forget(volume)
        await self._run(lambda: self._writable_place(volume))
        subvolume = parse_name(volume)
        assert subvolume is not None
        records = await self._records(volume)
        count = sum(record.volume == volume for record in await self._run(records.all))
        if count >= MAX_COPIES:
            raise VssError(
                Code.VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED,
                f"volume {volume} has {count} shadow copies, the most there can be; delete some first",
            )
        self._planned[volume] = Planned(set_id, snapshot_id, subvolume, records)

    async def end_prepare(self, volume: str, set_id: str) -> None:
        """Open the subvolume, describe the copy to come, write out what is dirty while applications still run."""
        planned = self._of(volume, set_id)
        await self._run(lambda: self._prepare(volume, planned))

    def _prepare(self, volume: str, planned: Planned) -> None:
        place = self._writable_place(volume)
        planned.source = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._filesystems.remember(planned.subvolume.filesystem)
        info = CopyInfo(planned.snapshot_id, planned.set_id, 0, 0, persistent=True, pending=True, size=0)
        planned.record = Record(volume, info)
        planned.records.write(planned.record)
        calls.write_out(planned.source)

    async def pre_commit(self, volume: str, set_id: str) -> None:
        """Write out what the writers wrote last, so that the snapshot has little to wait for."""
        planned = self._of(volume, set_id)
        await self._run(lambda: calls.write_out(planned.source))

    def lost(self, volume: str) -> bool:
        """Nothing is held that could be lost."""
        return False

    async def hold(self, volume: str, timeout_ms: int) -> Held:
        """Nothing: see the head of this module."""
        return Held(0.0)

    async def commit(self, volume: str, snapshot_id: str, set_id: str, created_ns: int, persistent: bool) -> Committed:
        """The snapshot."""
        planned = self._of(volume, set_id)
        if planned.record is None or planned.snapshot_id != snapshot_id:
            raise VssError(Code.VSS_E_BAD_STATE, f"volume {volume} was not prepared for shadow copy {snapshot_id}")
        info = planned.record.copy
        info.created_ns, info.persistent = created_ns, persistent
        source = os.dup(planned.source)  # the set may be given up while the thread still waits in the kernel
        planned.committing = asyncio.ensure_future(self._run(lambda: _cut(planned, source)))
        info.number = await asyncio.shield(planned.committing)
        return Committed(info.number)

    async def release(self, volume: str) -> Released:
        """Nothing was held."""
        return Released(0.0, 0)

    async def post_commit(self, volume: str, set_id: str) -> None:
        """Complete the description."""
        planned = self._of(volume, set_id)
        record = planned.record
        assert record is not None
        facts = await self.find(volume)
        record.copy.size = facts.size if facts else 0
        await self._run(lambda: planned.records.write(record))
        planned.close()

    async def pre_final_commit(self, volume: str, set_id: str) -> None:
        """Nothing to do."""

    async def open_layer(self, volume: str, snapshot_id: str) -> str:
        """The snapshot itself, which takes writes until it is sealed."""
        records = await self._records(volume)
        await self._run(lambda: _set_read_only(records, volume, snapshot_id, False))
        return records.place(snapshot_id)

    async def seal(self, volume: str, snapshot_id: str) -> None:
        """Read-only again, and written out."""
        records = await self._records(volume)
        await self._run(lambda: _set_read_only(records, volume, snapshot_id, True))

    async def post_final_commit(self, volume: str, snapshot_id: str) -> None:
        """Durable when it returns."""
        records = await self._records(volume)

        def finish() -> None:
            record = records.get(volume, snapshot_id)
            if record.copy.pending:
                record.copy.pending = False
                records.write(record)

        await self._run(finish)
        self._forget(volume, snapshot_id)

    async def abort(self, volume: str, snapshot_id: str) -> None:
        """The snapshot goes, if there is one; the coordinator asks again when it is still being made."""
        await self.delete(volume, snapshot_id)

    # ---- copies that exist ----

    async def delete(self, volume: str, snapshot_id: str) -> None:
        """The space comes back a little later, as btrfs cleans up. Errors: VSS_E_BAD_STATE while it is being made."""
        planned = self._planned.get(volume)
        if planned and planned.snapshot_id == snapshot_id and planned.committing and not planned.committing.done():
            raise VssError(Code.VSS_E_BAD_STATE, f"the snapshot of {volume} is still being made; it goes after that")
        self._forget(volume, snapshot_id)
        records = await self._records(volume)

        def remove() -> None:
            records.get(volume, snapshot_id)
            records.remove(snapshot_id)

        await self._run(remove)

    async def volumes(self) -> list[str]:
        """Those with copies on file systems that are mounted."""
        return await self._run(self._volumes)

    def _volumes(self) -> list[str]:
        found: set[str] = set()
        for filesystem in self._filesystems.known():
            try:
                found |= {record.volume for record in Records(self._filesystems.top(filesystem)).all()}
            except VssError:
                continue
        return sorted(found)

    async def copies(self, volume: str) -> list[CopyInfo]:
        """Copies that were begun and have no snapshot are pending ones."""
        records = await self._records(volume)
        found = await self._run(records.all)
        return [record.copy for record in found if record.volume == volume]

    async def keep(self, volume: str, snapshot_id: str, priority: int | None, hold_until_ns: int | None) -> None:
        """No copy is ever given up for space, so there is nothing to note."""
        records = await self._records(volume)
        await self._run(lambda: records.get(volume, snapshot_id))

    def place(self, device_number: int) -> str:
        """A directory."""
        return f"{self._host.trees}/{DEVICE_PREFIX}{device_number}"

    async def surface(self, copy: SnapshotProperties) -> None:
        """Mount the snapshot read-only."""
        records = await self._records(copy.original_volume)
        await self._run(lambda: self._show(records, copy))

    def _show(self, records: Records, copy: SnapshotProperties) -> None:
        records.get(copy.original_volume, copy.snapshot_id)
        place = copy.device_object
        os.makedirs(place, exist_ok=True)
        if not os.path.ismount(place):
            calls.bind_read_only(records.place(copy.snapshot_id), place)

    async def unsurface(self, copy: SnapshotProperties) -> None:
        """Unmount it; whoever reads in it can go on as long as the snapshot is there."""
        await self._run(lambda: self._hide(copy.device_object))

    def _hide(self, place: str) -> None:
        calls.unmount(place)
        try:
            os.rmdir(place)
        except FileNotFoundError:
            pass

    # ---- helpers ----

    def _of(self, volume: str, set_id: str) -> Planned:
        planned = self._planned.get(volume)
        if planned is None or planned.set_id != set_id:
            raise VssError(Code.VSS_E_BAD_STATE, f"volume {volume} is not in set {set_id}")
        return planned

    def _forget(self, volume: str, snapshot_id: str = "") -> None:
        planned = self._planned.get(volume)
        if planned and snapshot_id in ("", planned.snapshot_id):
            planned.close()
            del self._planned[volume]

    async def _records(self, volume: str) -> Records:
        subvolume = parse_name(volume)
        if subvolume is None:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{volume[:200]!r} is no btrfs subvolume")
        return Records(await self._run(lambda: self._filesystems.top(subvolume.filesystem)))

    async def _run(self, work: Callable[[], T]) -> T:
        """In a thread. Errors: VssError, made of OSError where need be."""
        try:
            return await self._host.in_thread(work)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            code = Code.VSS_E_INSUFFICIENT_STORAGE if full else Code.VSS_E_UNEXPECTED_PROVIDER_ERROR
            what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
            raise VssError(code, f"btrfs failed: {what}") from None


def _set_read_only(records: Records, volume: str, snapshot_id: str, wanted: bool) -> None:
    records.get(volume, snapshot_id)
    descriptor = os.open(records.place(snapshot_id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        calls.set_read_only(descriptor, wanted)
        calls.write_out(descriptor)
    finally:
        os.close(descriptor)


def _cut(planned: Planned, source: int) -> int:
    """The generation of the new snapshot; closes ``source``."""
    try:
        directory = planned.records.open(planned.snapshot_id)
        try:
            calls.snapshot(directory, COPY, source)
        finally:
            os.close(directory)
    finally:
        os.close(source)
    made = os.open(planned.records.place(planned.snapshot_id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return calls.created_at(made)
    finally:
        os.close(made)
