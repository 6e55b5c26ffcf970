"""The NBD provider behind the provider interface: each call goes to the volume's provider process."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid5

from shadowset import __version__
from shadowset.daemon.control_link import ControlLink
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import ProviderCapability, ProviderType
from shadowset.vss.provider_protocol import Committed, Held, Released
from shadowset.vss.requester_protocol import ProviderInfo

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
    """Implements ``Provider``. ``link_of`` gives a volume's control connection, or raises when it is offline."""

    info = INFO

    def __init__(self, link_of: Callable[[str], ControlLink]) -> None:
        self._link_of = link_of
        self._prepared: dict[str, ControlLink] = {}

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
        return await self._prepared[volume].commit(snapshot_id, set_id, created_ns, persistent)

    async def release(self, volume: str) -> Released:
        """Open the gate."""
        return await self._prepared[volume].release()

    async def post_commit(self, volume: str, set_id: str) -> None:
        """Nothing to do."""

    async def pre_final_commit(self, volume: str, set_id: str) -> None:
        """Nothing to do: the copy has no writable layer."""

    async def post_final_commit(self, volume: str, snapshot_id: str) -> None:
        """Tell it that the set exists."""
        await self._link_of(volume).finish(snapshot_id)

    async def abort(self, volume: str, snapshot_id: str) -> None:
        """Delete the pending copy."""
        await self.delete(volume, snapshot_id)

    async def delete(self, volume: str, snapshot_id: str) -> None:
        """Delete the copy."""
        await self._link_of(volume).delete(snapshot_id)
