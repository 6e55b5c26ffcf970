"""Taking a volume back to a shadow copy. The provider does it, and goes on with it after a restart of either side."""

from __future__ import annotations

from shadowset.daemon.config import revert_blockers
from shadowset.daemon.house import House
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Attribute
from shadowset.vss.provider_protocol import RevertInfo
from shadowset.vss.requester_protocol import RevertStatus, SnapshotProperties


async def revert(house: House, copy: SnapshotProperties) -> RevertStatus:
    """Start it; the volume must have no device, so that nobody has its file system in memory.

    Errors: E_ACCESSDENIED, VSS_E_NOT_SUPPORTED, VSS_E_UNSUPPORTED_CONTEXT, VSS_E_VOLUME_IN_USE,
    VSS_E_SNAPSHOT_SET_IN_PROGRESS; and the provider's.
    """
    if copy.provider_id != house.providers.builtin.info.provider_id:
        name = house.providers.get(copy.provider_id).info.name
        raise VssError(
            Code.VSS_E_NOT_SUPPORTED,
            f"shadow copy {copy.snapshot_id} was made by {name}, which cannot revert; restore its files instead",
        )
    runtime = house.volumes.get(copy.original_volume)
    if not copy.attributes & Attribute.PERSISTENT:
        raise VssError(
            Code.VSS_E_UNSUPPORTED_CONTEXT,
            f"shadow copy {copy.snapshot_id} goes with its session; only a persistent copy can be reverted to",
        )
    if house.creation.uses(runtime.name):
        raise VssError(
            Code.VSS_E_SNAPSHOT_SET_IN_PROGRESS,
            f"volume {runtime.name} cannot be reverted while a shadow copy set is made; try again afterwards",
        )
    _refuse_blocked(house, runtime.name)
    if runtime.row.attached:
        mounted = house.volumes.mount_points(runtime.name)
        how = f"mounted at {mounted[0]}; unmount it" if mounted else f"attached as {runtime.row.device}; detach it"
        raise VssError(
            Code.VSS_E_VOLUME_IN_USE,
            f"volume {runtime.name} is {how} first ('shadowset volume detach {runtime.name}'), then revert",
        )
    info = await runtime.online().revert(copy.snapshot_id)
    await runtime.describe()
    return _status(runtime.name, info)


async def revert_status(house: House, volume: str) -> RevertStatus:
    """How far it is. Errors: VssError while the provider is away."""
    return _status(volume, (await house.volumes.get(volume).describe()).revert)


def _refuse_blocked(house: House, volume: str) -> None:
    """Errors: E_ACCESSDENIED when a writer that blocks reverts has had files on the volume."""
    blockers = revert_blockers(house.paths)
    had = {writer_id for copy in house.catalogue.snapshots(volume=volume) for writer_id in copy.writer_ids}
    if blockers & had:
        raise VssError(
            Code.E_ACCESSDENIED,
            f"volume {volume} holds files of writer {min(blockers & had)}, which blocks reverts; restore what you need "
            f"through the writer, or take it from 'revert.blocked-by' in {house.paths.daemon_config}",
        )


def refuse_reverting(house: House, copy: SnapshotProperties) -> None:
    """Errors: VSS_E_REVERT_IN_PROGRESS for the copy that its volume is being reverted to."""
    if copy.provider_id != house.providers.builtin.info.provider_id:
        return
    told = house.volumes.get(copy.original_volume).description
    if told and told.revert and told.revert.copy_id == copy.snapshot_id:
        raise VssError(
            Code.VSS_E_REVERT_IN_PROGRESS,
            f"volume {copy.original_volume} is being reverted to shadow copy {copy.snapshot_id}; wait until it is done",
        )


def _status(volume: str, info: RevertInfo | None) -> RevertStatus:
    if info is None:
        return RevertStatus(volume)
    return RevertStatus(volume, info.phase, info.copy_id, info.done, info.total, info.reason)
