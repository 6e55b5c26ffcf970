"""What changed between two copies of a volume, or since one (QuerySnapshotDeltaBitmap)."""

from __future__ import annotations

from shadowset.daemon.providers import Providers
from shadowset.vss.codes import Code, VssError
from shadowset.vss.provider import TracksChanges, translated
from shadowset.vss.provider_protocol import ChangedRanges
from shadowset.vss.requester_protocol import SnapshotProperties


async def query_delta(
    providers: Providers, since: SnapshotProperties, until: SnapshotProperties | None, offset: int
) -> ChangedRanges:
    """A piece of the answer, from ``offset`` on; None as ``until`` is the live volume now.

    Errors: E_INVALIDARG for copies of two volumes or in the wrong order, VSS_E_NOT_SUPPORTED, VSS_E_OBJECT_NOT_FOUND.
    """
    if until and (until.original_volume, until.provider_id) != (since.original_volume, since.provider_id):
        raise VssError(
            Code.E_INVALIDARG,
            f"shadow copy {since.snapshot_id} is of volume {since.original_volume} and {until.snapshot_id} of "
            f"{until.original_volume}; name two copies of one volume",
        )
    provider = providers.get(since.provider_id)
    if not isinstance(provider, TracksChanges):
        raise VssError(
            Code.VSS_E_NOT_SUPPORTED,
            f"{provider.info.name} does not know what changed in volume {since.original_volume}; make a full backup",
        )
    try:
        later = until.snapshot_id if until else ""
        return await provider.changes(since.original_volume, since.snapshot_id, later, offset)
    except VssError as error:
        if error.code == Code.VSS_E_NOT_SUPPORTED:
            raise
        raise translated(error, since.original_volume) from None
