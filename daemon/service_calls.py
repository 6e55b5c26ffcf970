"""Calls that need no session: copies that exist, volumes, writers, events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from shadowset.daemon.actor import require_may_delete
from shadowset.daemon.aside import number_of, refuse_removal, refuse_shrinking
from shadowset.daemon.delta import query_delta
from shadowset.daemon.house import House
from shadowset.daemon.imports import import_copy
from shadowset.daemon.registry import canonical_guid
from shadowset.daemon.revert import revert, revert_status
from shadowset.daemon.snapshots import Snapshots, refuse_held
from shadowset.daemon.supported import supported_volumes
from shadowset.daemon.volumes import move_status
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import ObjectType
from shadowset.vss.provider_protocol import ChangedRanges


class ServiceCalls:
    """One for the whole daemon."""

    def __init__(self, house: House, snapshots: Snapshots) -> None:
        self.snapshots = snapshots
        self._house = house
        self._configured_windows = dict(house.limits.writer_windows)

    def handlers(self) -> dict[type[rp.Call], Callable[[Any], Awaitable[Any]]]:
        """What serves which call."""
        return {
            rp.GetSnapshotProperties: self._get_snapshot,
            rp.Query: self._query,
            rp.DeleteSnapshots: self._delete,
            rp.KeepSnapshot: self._keep,
            rp.ListDeleted: self._list_deleted,
            rp.UndeleteSnapshot: self._undelete,
            rp.QuerySnapshotDelta: self._query_delta,
            rp.ExposeSnapshot: self._expose,
            rp.UnexposeSnapshot: self._unexpose,
            rp.ExposeSet: self._expose_set,
            rp.UnexposeSet: self._unexpose_set,
            rp.AttachSnapshot: self._attach_copy,
            rp.DetachSnapshot: self._detach_copy,
            rp.RevertToSnapshot: self._revert,
            rp.QueryRevertStatus: self._query_revert,
            rp.GetSet: self._get_set,
            rp.ListWriters: self._list_writers,
            rp.SetWriterWindow: self._set_writer_window,
            rp.ListProviders: self._list_providers,
            rp.ImportSnapshot: self._import,
            rp.RegisterProvider: self._register_provider,
            rp.UnregisterProvider: self._unregister_provider,
            rp.ListEvents: self._list_events,
            rp.VolumeAdd: self._volume_add,
            rp.VolumeAttach: self._volume_attach,
            rp.VolumeDetach: self._volume_detach,
            rp.VolumeResize: self._volume_resize,
            rp.VolumeHandOver: self._volume_hand_over,
            rp.VolumeRemove: self._volume_remove,
            rp.VolumeList: self._volume_list,
            rp.QueryVolumesSupported: self._volumes_supported,
            rp.StorageList: self._storage_list,
            rp.StorageConfigure: self._storage_configure,
            rp.StorageMove: self._storage_move,
            rp.QueryStorageMove: self._query_storage_move,
            rp.CancelStorageMove: self._cancel_storage_move,
        }

    async def _get_snapshot(self, call: rp.GetSnapshotProperties) -> rp.SnapshotProperties:
        return self._house.catalogue.snapshot(call.snapshot_id)

    async def _query(self, call: rp.Query) -> list[rp.SnapshotProperties]:
        return await self.snapshots.query(call.snapshot_id, call.set_id, call.volume)

    async def _delete(self, call: rp.DeleteSnapshots) -> rp.DeleteResult:
        require_may_delete("nothing is deleted")
        return await self.snapshots.delete(call.object_id, call.object_type, call.force)

    async def _list_deleted(self, call: rp.ListDeleted) -> list[rp.DeletedCopy]:
        return self.snapshots.aside.listed(call.volume)

    async def _undelete(self, call: rp.UndeleteSnapshot) -> rp.SnapshotProperties:
        return await self.snapshots.undelete(call.snapshot_id)

    async def _keep(self, call: rp.KeepSnapshot) -> rp.SnapshotProperties:
        now = self._house.catalogue.snapshot(call.snapshot_id).hold_until_ns
        if call.hold_until_ns is not None and call.hold_until_ns < now:
            require_may_delete("the hold is not shortened")
        return await self.snapshots.keep(call.snapshot_id, call.priority, call.hold_until_ns)

    async def _query_delta(self, call: rp.QuerySnapshotDelta) -> ChangedRanges:
        until = self._house.catalogue.snapshot(call.until) if call.until else None
        return await query_delta(
            self._house.providers, self._house.catalogue.snapshot(call.snapshot_id), until, call.offset
        )

    async def _expose(self, call: rp.ExposeSnapshot) -> str:
        return await self.snapshots.exposures.expose(call.snapshot_id, call.path)

    async def _unexpose(self, call: rp.UnexposeSnapshot) -> None:
        await self.snapshots.exposures.unexpose(call.snapshot_id)

    async def _expose_set(self, call: rp.ExposeSet) -> dict[str, str]:
        return await self.snapshots.exposures.expose_set(call.set_id, call.root)

    async def _unexpose_set(self, call: rp.UnexposeSet) -> None:
        await self.snapshots.exposures.unexpose_set(call.where)

    async def _attach_copy(self, call: rp.AttachSnapshot) -> str:
        return await self.snapshots.exposures.attach(call.snapshot_id, call.via)

    async def _detach_copy(self, call: rp.DetachSnapshot) -> None:
        await self.snapshots.exposures.detach(call.snapshot_id)

    async def _revert(self, call: rp.RevertToSnapshot) -> rp.RevertStatus:
        return await revert(self._house, self._house.catalogue.snapshot(call.snapshot_id))

    async def _query_revert(self, call: rp.QueryRevertStatus) -> rp.RevertStatus:
        return await revert_status(self._house, self._house.volumes.resolve(call.volume).name)

    async def _get_set(self, call: rp.GetSet) -> rp.SetRecord:
        record = self._house.catalogue.set_record(call.set_id)
        if record is None:
            message = (
                f"there is no shadow copy set {call.set_id[:80]!r}; 'shadowset list' and 'shadowset events' name them"
            )
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
        return record

    async def _list_writers(self, call: rp.ListWriters) -> list[rp.WriterStatus]:
        return [writer.status() for writer in self._house.registry.all()]

    async def _set_writer_window(self, call: rp.SetWriterWindow) -> list[rp.WriterStatus]:
        writer_id = canonical_guid(call.writer_id)
        if not writer_id or call.window_ms < 0:
            message = f"{call.writer_id[:60]!r} for {call.window_ms} ms is no window; give a writer's id, and 0 or more"
            raise VssError(Code.E_INVALIDARG, message)
        windows = self._house.limits.writer_windows
        value = call.window_ms or self._configured_windows.get(writer_id)
        if value is None:
            windows.pop(writer_id, None)
        else:
            windows[writer_id] = value
        concerned = [each for each in self._house.registry.all() if each.link.hello.writer_id == writer_id]
        return [each.status() for each in concerned]

    async def _list_providers(self, call: rp.ListProviders) -> list[rp.ProviderInfo]:
        copies = Counter(copy.provider_id for copy in self._house.catalogue.snapshots())
        return [
            msgspec.structs.replace(provider.info, copies=copies[provider.info.provider_id])
            for provider in self._house.providers
        ]

    async def _import(self, call: rp.ImportSnapshot) -> rp.ImportedCopy:
        return await import_copy(self._house, call.path)

    async def _register_provider(self, call: rp.RegisterProvider) -> rp.ProviderInfo:
        return (await self._house.providers.register(call.name)).info

    async def _unregister_provider(self, call: rp.UnregisterProvider) -> None:
        self._refuse_during_creation(f"provider {call.provider_id[:60]} cannot be unregistered")
        await self._house.providers.unregister(call.provider_id)

    async def _list_events(self, call: rp.ListEvents) -> list[rp.EventRecord]:
        return self._house.catalogue.events(call.after)

    async def _volume_add(self, call: rp.VolumeAdd) -> rp.VolumeInfo:
        return await self._house.volumes.add(call.name, call.origin, call.storage, call.chunk_size, call.max_copies)

    async def _volume_attach(self, call: rp.VolumeAttach) -> rp.VolumeInfo:
        return await self._house.volumes.attach(call.name, call.via)

    async def _volume_detach(self, call: rp.VolumeDetach) -> rp.VolumeInfo:
        return await self._house.volumes.detach(call.name)

    async def _volume_resize(self, call: rp.VolumeResize) -> rp.VolumeInfo:
        return await self._house.volumes.resize(call.name)

    async def _volume_hand_over(self, call: rp.VolumeHandOver) -> rp.VolumeHandover:
        name = self._house.volumes.resolve(call.name).name
        self._refuse_during_creation(f"volume {name} cannot be handed over", name)
        return await self._house.volumes.hand_over(name)

    async def _volume_remove(self, call: rp.VolumeRemove) -> None:
        self._refuse_during_creation(f"volume {call.name} cannot be removed", call.name)
        runtime = self._house.volumes.get(call.name)
        if runtime.row.attached and not call.force:
            await self._house.volumes.remove(call.name, force=False)  # says why not
            return
        copies = self._house.catalogue.snapshots(volume=call.name)
        for copy in copies:
            refuse_held(copy)
        if copies and not call.force:
            number = number_of(len(copies), "shadow copy", "shadow copies")
            message = (
                f"volume {call.name} has {number}, which would be lost; delete them first, or force it ('--force')"
            )
            raise VssError(Code.VSS_E_VOLUME_IN_USE, message)
        if copies:
            require_may_delete(f"volume {call.name} is not removed")
        refuse_removal(self._house, call.name, self.snapshots.aside)
        if runtime.row.attached:
            await self._house.volumes.detach(call.name)  # what still uses the device must cost no copy
        for copy in copies:
            result = await self.snapshots.delete(copy.snapshot_id, ObjectType.SNAPSHOT, call.force)
            if result.not_deleted:
                raise VssError(Code.VSS_E_VOLUME_IN_USE, f"volume {call.name} cannot be removed: {result.message}")
        await self._house.volumes.remove(call.name, call.force)

    async def _volume_list(self, call: rp.VolumeList) -> list[rp.VolumeInfo]:
        return await self._house.volumes.list()

    async def _volumes_supported(self, call: rp.QueryVolumesSupported) -> list[rp.SupportedVolume]:
        return await supported_volumes(self._house)

    async def _storage_list(self, call: rp.StorageList) -> list[rp.StorageInfo]:
        volumes = self._house.volumes
        return [await volumes.storage(volumes.resolve(call.volume).name)] if call.volume else await volumes.storages()

    async def _storage_configure(self, call: rp.StorageConfigure) -> rp.StorageInfo:
        name = self._house.volumes.resolve(call.volume).name
        now, told = await self._house.volumes.storage(name), self._house.volumes.get(name).description
        size = told.size if told else 0
        refuse_shrinking(self._house, now, size, call.max_size, call.policy, self.snapshots.aside)
        return await self._house.volumes.configure_storage(name, call.max_size, call.policy, call.warn_percent)

    async def _storage_move(self, call: rp.StorageMove) -> rp.StorageMoveStatus:
        return await self._house.volumes.move_storage(self._house.volumes.resolve(call.volume).name, call.storage)

    async def _query_storage_move(self, call: rp.QueryStorageMove) -> rp.StorageMoveStatus:
        name = self._house.volumes.resolve(call.volume).name
        told = await self._house.volumes.get(name).describe()
        await self.snapshots.follow_storage(name, told)
        return move_status(name, told)

    async def _cancel_storage_move(self, call: rp.CancelStorageMove) -> None:
        await self._house.volumes.resolve(call.volume).online().cancel_move()

    def _refuse_during_creation(self, what: str, volume: str = "") -> None:
        if self._house.creation.uses(volume):
            raise VssError(Code.VSS_E_SNAPSHOT_SET_IN_PROGRESS, f"{what} while a shadow copy set is made")
