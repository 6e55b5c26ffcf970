"""What administrators ask of the coordinator outside any backup: volumes, writers, events, sets."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Any

from shadowset.requester.connection import Connection
from shadowset.vss import requester_protocol as protocol
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths
from shadowset.vss.provider_protocol import ChangedRanges

DEFAULT_CHUNK = 16384
DEFAULT_COPIES = 512


class Administration:
    """A connection for administrative calls. Errors of every call: VssError; ConnectionLost."""

    def __init__(self, paths: Paths | None = None, client: str = "", timeout: float = 10.0) -> None:
        paths = paths or Paths.from_environment(os.environ)
        self.connection = Connection(paths.requester_socket, client, timeout)

    def __enter__(self) -> Administration:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self.connection.close()

    def hello(self) -> protocol.ServiceInfo:
        """The coordinator's version and what it looks after, as it stood when this connection began."""
        return self.connection.service

    def volume_add(
        self, name: str, origin: str, storage: str, chunk_size: int = DEFAULT_CHUNK, max_copies: int = DEFAULT_COPIES
    ) -> protocol.VolumeInfo:
        """Protect the block device or image file ``origin``, with shadow storage in the directory ``storage``.

        ``chunk_size`` in bytes and the number of copies that it can have are for a storage that is not there yet.
        """
        return self._volume(
            protocol.VolumeAdd,
            name=name,
            origin=origin,
            storage=storage,
            chunk_size=chunk_size,
            max_copies=max_copies,
        )

    def volume_attach(self, name: str, via: str = "auto") -> protocol.VolumeInfo:
        """Make a block device of the live volume, over ``nbd`` or ``fuse``; ``auto`` takes what the kernel has."""
        return self._volume(protocol.VolumeAttach, name=name, via=via)

    def volume(self, name: str) -> protocol.VolumeInfo:
        """One of them. Errors: VSS_E_OBJECT_NOT_FOUND."""
        volumes = self.volume_list()
        found = next((each for each in volumes if each.name == name), None)
        if found is None:
            known = ", ".join(each.name for each in volumes) or "there is none yet"
            message = f"there is no volume {name[:200]!r} (known: {known})"
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
        return found

    def volume_wait(self, name: str, seconds: float) -> None:
        """Wait until its provider is there, so long at the most; whether it is, the next call tells."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.volume(name).state != "online":
            time.sleep(min(0.2, max(0.0, end - time.monotonic())))

    def volume_detach(self, name: str) -> protocol.VolumeInfo:
        """Take the block device away. Errors: VSS_E_VOLUME_IN_USE while mounted."""
        return self._volume(protocol.VolumeDetach, name=name)

    def volume_resize(self, name: str) -> protocol.VolumeInfo:
        """Let the volume and its device take in what its origin has gained. Errors: VSS_E_VOLUME_NOT_SUPPORTED."""
        return self._volume(protocol.VolumeResize, name=name)

    def volume_hand_over(self, name: str) -> protocol.VolumeHandover:
        """Let a new process of the installed code serve the volume; its clients wait for milliseconds."""
        done = self.connection.call(protocol.VolumeHandOver, name=name)
        assert isinstance(done, protocol.VolumeHandover)
        return done

    def volume_remove(self, name: str, force: bool = False) -> None:
        """Stop protecting a volume; its shadow copies go. Errors: VSS_E_VOLUME_IN_USE."""
        self.connection.call(protocol.VolumeRemove, name=name, force=force)

    def volume_list(self) -> list[protocol.VolumeInfo]:
        """All protected volumes."""
        volumes: list[protocol.VolumeInfo] = self.connection.call(protocol.VolumeList)
        return volumes

    def query_volumes_supported(self) -> list[protocol.SupportedVolume]:
        """Mounted volumes that can be copied without being protected first."""
        volumes: list[protocol.SupportedVolume] = self.connection.call(protocol.QueryVolumesSupported)
        return volumes

    def storage_list(self, volume: str = "") -> list[protocol.StorageInfo]:
        """The shadow storage of all volumes, or of one."""
        storages: list[protocol.StorageInfo] = self.connection.call(protocol.StorageList, volume=volume)
        return storages

    def storage_configure(
        self, volume: str, max_size: int | None = None, policy: str | None = None, warn_percent: int | None = None
    ) -> protocol.StorageInfo:
        """Change the limits that are not None; sizes in bytes, 0 is unlimited. Errors: E_INVALIDARG."""
        storage = self.connection.call(
            protocol.StorageConfigure, volume=volume, max_size=max_size, policy=policy, warn_percent=warn_percent
        )
        assert isinstance(storage, protocol.StorageInfo)
        return storage

    def storage_move(self, volume: str, storage: str) -> protocol.StorageMoveStatus:
        """Start to move a volume's shadow storage to another directory. Errors: as ``StorageMove``."""
        status = self.connection.call(protocol.StorageMove, volume=volume, storage=storage)
        assert isinstance(status, protocol.StorageMoveStatus)
        return status

    def query_storage_move(self, volume: str) -> protocol.StorageMoveStatus:
        """How far that is."""
        status = self.connection.call(protocol.QueryStorageMove, volume=volume)
        assert isinstance(status, protocol.StorageMoveStatus)
        return status

    def cancel_storage_move(self, volume: str) -> None:
        """Give it up. Errors: VSS_E_BAD_STATE when there is none."""
        self.connection.call(protocol.CancelStorageMove, volume=volume)

    def keep_snapshot(
        self, snapshot_id: str, priority: int | None = None, hold_until_ns: int | None = None
    ) -> protocol.SnapshotProperties:
        """Change a copy's priority (0 to 255) and hold, where not None; a hold until 0 is none."""
        copy = self.connection.call(
            protocol.KeepSnapshot, snapshot_id=snapshot_id, priority=priority, hold_until_ns=hold_until_ns
        )
        assert isinstance(copy, protocol.SnapshotProperties)
        return copy

    def query_snapshot_delta(self, snapshot_id: str, until: str = "", offset: int = 0) -> ChangedRanges:
        """What changed since a copy, until a later one or until now; a piece from ``offset`` on (``changed_ranges``
        has all). Errors: VSS_E_OBJECT_NOT_FOUND, VSS_E_NOT_SUPPORTED, E_INVALIDARG."""
        delta = self.connection.call(protocol.QuerySnapshotDelta, snapshot_id=snapshot_id, until=until, offset=offset)
        assert isinstance(delta, ChangedRanges)
        return delta

    def list_deleted(self, volume: str = "") -> list[protocol.DeletedCopy]:
        """Deleted copies that can be taken back, the soonest to go first."""
        deleted: list[protocol.DeletedCopy] = self.connection.call(protocol.ListDeleted, volume=volume)
        return deleted

    def undelete_snapshot(self, snapshot_id: str) -> protocol.SnapshotProperties:
        """Take a deleted copy back. Errors: VSS_E_OBJECT_NOT_FOUND when it is too late."""
        copy = self.connection.call(protocol.UndeleteSnapshot, snapshot_id=snapshot_id)
        assert isinstance(copy, protocol.SnapshotProperties)
        return copy

    def revert_to_snapshot(self, snapshot_id: str) -> protocol.RevertStatus:
        """Start to take a detached volume back to a copy. Errors: VSS_E_VOLUME_IN_USE, VSS_E_REVERT_IN_PROGRESS."""
        status = self.connection.call(protocol.RevertToSnapshot, snapshot_id=snapshot_id)
        assert isinstance(status, protocol.RevertStatus)
        return status

    def query_revert_status(self, volume: str) -> protocol.RevertStatus:
        """How far a revert of the volume is."""
        status = self.connection.call(protocol.QueryRevertStatus, volume=volume)
        assert isinstance(status, protocol.RevertStatus)
        return status

    def list_writers(self) -> list[protocol.WriterStatus]:
        """The registered writers with their last state."""
        writers: list[protocol.WriterStatus] = self.connection.call(protocol.ListWriters)
        return writers

    def set_writer_window(self, writer_id: str, window_ms: int) -> list[protocol.WriterStatus]:
        """How long writers of a class may be frozen until the coordinator ends; 0: as configured."""
        call = self.connection.call(protocol.SetWriterWindow, writer_id=writer_id, window_ms=window_ms)
        writers: list[protocol.WriterStatus] = call
        return writers

    def list_providers(self) -> list[protocol.ProviderInfo]:
        """The registered providers, with how many shadow copies each has."""
        providers: list[protocol.ProviderInfo] = self.connection.call(protocol.ListProviders)
        return providers

    def import_snapshot(self, path: str) -> protocol.ImportedCopy:
        """Take in a copy from a file on the service's host. Errors: VssError."""
        imported: protocol.ImportedCopy = self.connection.call(protocol.ImportSnapshot, path=path)
        return imported

    def register_provider(self, name: str) -> protocol.ProviderInfo:
        """Take in a provider that an installed package offers. Errors: VssError."""
        provider: protocol.ProviderInfo = self.connection.call(protocol.RegisterProvider, name=name)
        return provider

    def unregister_provider(self, provider_id: str) -> None:
        """Leave a provider out. Errors: VSS_E_PROVIDER_IN_USE while it has shadow copies."""
        self.connection.call(protocol.UnregisterProvider, provider_id=provider_id)

    def list_events(self, after: int = 0) -> list[protocol.EventRecord]:
        """The coordinator's events with an id over ``after``, oldest first."""
        events: list[protocol.EventRecord] = self.connection.call(protocol.ListEvents, after=after)
        return events

    def get_set(self, set_id: str) -> protocol.SetRecord:
        """A shadow copy set and how it was made."""
        record = self.connection.call(protocol.GetSet, set_id=set_id)
        assert isinstance(record, protocol.SetRecord)
        return record

    def query(self, snapshot_id: str = "", set_id: str = "", volume: str = "") -> list[protocol.SnapshotProperties]:
        """The shadow copies that match; empty filters match all."""
        found: list[protocol.SnapshotProperties] = self.connection.call(
            protocol.Query, snapshot_id=snapshot_id, set_id=set_id, volume=volume
        )
        return found

    def _volume(self, call: type[protocol.Call], **fields: Any) -> protocol.VolumeInfo:
        volume = self.connection.call(call, **fields)
        assert isinstance(volume, protocol.VolumeInfo)
        return volume
