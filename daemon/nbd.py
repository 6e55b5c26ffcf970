"""The NBD provider behind the provider interface: each call goes to the volume's provider process."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid5

from shadowset import __version__
from shadowset.daemon.changes import ask_changes
from shadowset.daemon.commands import Commands
from shadowset.daemon.control_link import ControlLink
from shadowset.daemon.nbd_layers import NbdLayers
from shadowset.daemon.objects import DeviceObjects, device_object
from shadowset.daemon.volume_runtime import VolumeRuntime
from shadowset.daemon.volumes import Volumes
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import ProviderCapability, ProviderType
from shadowset.vss.paths import Paths
from shadowset.vss.provider import VolumeFacts
from shadowset.vss.provider_protocol import ChangedRanges, Committed, CopyInfo, Held, Released
from shadowset.vss.requester_protocol import ProviderInfo, SnapshotProperties

PROVIDER_ID = "7c1f0f5e-9a4c-4c39-8d2c-3a8e5a8d6b21"
INFO = ProviderInfo(
    provider_id=PROVIDER_ID,
    name="Shadowset NBD provider",
    type=ProviderType.SYSTEM,
    version=__version__,
    version_id=str(uuid5(UUID(PROVIDER_ID), __version__)),
    class_id=PROVIDER_ID,
    capabilities=ProviderCapability.COMPLIANT | ProviderCapability.DIFFERENTIAL,
)


class NbdProvider:
    """Implements ``Provider`` for the protected volumes; their copies are device objects of the FUSE layer."""

    info = INFO

    def __init__(
        self, paths: Paths, volumes: Volumes, commands: Commands, attributes_of: Callable[[str], int] = lambda _: 0
    ) -> None:
        """``attributes_of`` tells those of a recorded copy, which are kept in its storage too."""
        self._paths = paths
        self._volumes = volumes
        self._link_of = volumes.link_of
        self._objects = DeviceObjects(paths)
        self._layers = NbdLayers(paths.layer_servers, commands)
        self._prepared: dict[str, ControlLink] = {}
        self._committing: set[str] = set()
        self._attributes_of = attributes_of

    async def start(self, copies: list[SnapshotProperties]) -> None:
        """Describe the device objects of these copies and no others; what was open to writers is not used again."""
        await self._layers.clear()
        rows = {row.name: row for row in self._volumes.rows()}
        known = [copy for copy in copies if copy.original_volume in rows]
        self._objects.rewrite(device_object(copy, rows[copy.original_volume]) for copy in known)

    async def stop(self) -> None:
        """Nothing to do: the provider processes go on."""

    async def find(self, volume: str) -> VolumeFacts | None:
        """The protected volume that a name, a device or a path on it means."""
        try:
            runtime = self._volumes.resolve(volume)
        except VssError:
            return None
        try:
            await runtime.describe()
        except VssError:
            pass  # what it said last still says which volume it is
        device, mounts = runtime.device, self._volumes.mounts(runtime.name)
        return VolumeFacts(
            name=runtime.name,
            size=runtime.description.size if runtime.description else 0,
            mount_points=[mount.path for mount in mounts],
            freeze=device,
            devices=[device] if device else [],
            lies_on=[runtime.row.origin],
            mount_roots=[mount.root for mount in mounts],
        )

    async def is_volume_supported(self, volume: str) -> bool:
        """A volume whose provider answers."""
        try:
            await self._link_of(volume).describe()
        except VssError:
            return False
        return True

    async def begin_prepare(self, volume: str, set_id: str, snapshot_id: str) -> None:
        """Nothing takes long here; the volume must be online, and not on its way back to an older state."""
        try:
            told = await self._link_of(volume).describe()
        except VssError as error:
            if error.code != Code.VSS_E_UNEXPECTED_PROVIDER_ERROR:
                raise
            message = f"the provider of volume {volume} does not answer"
            raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, message) from None
        if told.revert:
            raise VssError(
                Code.VSS_E_REVERT_IN_PROGRESS,
                f"volume {volume} is being reverted to shadow copy {told.revert.copy_id}; wait until that is done",
            )
        self._check_alone(volume)

    def _check_alone(self, volume: str) -> None:
        """What is written past us would be in no copy."""
        runtime = self._volumes.get(volume)
        try:
            if not runtime.device:
                runtime.check_origin_unused()
        except VssError as error:
            raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, f"volume {volume}: {error.message}") from None

    async def end_prepare(self, volume: str, set_id: str) -> None:
        """From here on the set depends on this one connection."""
        self._prepared[volume] = self._link_of(volume)

    async def pre_commit(self, volume: str, set_id: str) -> None:
        """The provider must still be there before anything is held."""
        await self._prepared[volume].describe()

    def lost(self, volume: str) -> bool:
        """The connection that owns the hold has gone."""
        link = self._prepared.get(volume)
        return link is None or link.lost.is_set()

    async def hold(self, volume: str, timeout_ms: int) -> Held:
        """Close the gate and drain."""
        return await self._prepared[volume].hold(timeout_ms)

    async def commit(self, volume: str, snapshot_id: str, set_id: str, created_ns: int, persistent: bool) -> Committed:
        """A new generation."""
        self._committing.add(snapshot_id)
        return await self._prepared[volume].commit(snapshot_id, set_id, created_ns, persistent)

    async def release(self, volume: str) -> Released:
        """Open the gate."""
        return await self._prepared[volume].release()

    async def post_commit(self, volume: str, set_id: str) -> None:
        """Nothing to do."""

    async def pre_final_commit(self, volume: str, set_id: str) -> None:
        """Nothing to do."""

    async def open_layer(self, volume: str, snapshot_id: str) -> str:
        """A device over a process that keeps what is written beside the shadow storage's segments."""
        return await self._layers.open(self._volumes.get(volume).row, snapshot_id)

    async def seal(self, volume: str, snapshot_id: str) -> None:
        """From here on readers of the copy see the layer."""
        await self._layers.seal(snapshot_id)

    async def post_final_commit(self, volume: str, snapshot_id: str) -> None:
        """Tell it that the set exists."""
        self._committing.discard(snapshot_id)
        await self._link_of(volume).finish(snapshot_id, self._attributes_of(snapshot_id))

    async def abort(self, volume: str, snapshot_id: str) -> None:
        """Delete the pending copy, if there can be one: a process that hangs would be waited for."""
        await self._layers.drop(snapshot_id)
        if snapshot_id in self._committing:
            self._committing.discard(snapshot_id)
            await self.delete(volume, snapshot_id)

    async def delete(self, volume: str, snapshot_id: str) -> None:
        """Delete the copy."""
        await self._link_of(volume).delete(snapshot_id)

    async def volumes(self) -> list[str]:
        """Those that are online."""
        return [row.name for row in self._volumes.rows() if self._volumes.get(row.name).state == "online"]

    async def copies(self, volume: str) -> list[CopyInfo]:
        """As the provider process has them, without those that are lost."""
        return (await self._volumes.get(volume).describe()).copies

    async def keep(self, volume: str, snapshot_id: str, priority: int | None, hold_until_ns: int | None) -> None:
        """Durable when this returns."""
        await self._link_of(volume).set_copy(snapshot_id, priority, hold_until_ns)

    async def changes(self, volume: str, since: str, until: str, offset: int) -> ChangedRanges:
        """By the labels of the chunks that were copied out, read by a process of its own.

        Until now is known while the volume is online only: nobody sees who else writes to its origin otherwise.
        """
        runtime = self._volumes.get(volume)
        storage = ""
        while storage != (storage := await _storage_of(runtime, online=not until)):
            found = await ask_changes(runtime, storage, since, until, offset)
        return found

    def place(self, device_number: int) -> str:
        """The device object."""
        return self._paths.device(device_number)

    async def surface(self, copy: SnapshotProperties) -> None:
        """Leave the description for the FUSE layer."""
        self._objects.write(device_object(copy, self._volumes.get(copy.original_volume).row))

    async def unsurface(self, copy: SnapshotProperties) -> None:
        """Take the description away."""
        self._objects.remove(copy.device_number)


async def _storage_of(runtime: VolumeRuntime, online: bool) -> str:
    """Where the shadow storage is: the provider process knows when it has moved.

    Errors: VssError while that process is away, if it has to be ``online``.
    """
    try:
        return (await runtime.online().describe()).storage
    except VssError:
        if online:
            raise
        return runtime.row.storage
