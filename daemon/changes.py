"""Asking the NBD provider's program what changed in a volume; the process that serves the volume has no part in it."""

from __future__ import annotations

import msgspec

from shadowset.daemon.volume_runtime import VolumeRuntime
from shadowset.vss.codes import Code, VssError
from shadowset.vss.provider_protocol import ChangedRanges


class _Failure(msgspec.Struct):
    code: int
    message: str


async def ask_changes(runtime: VolumeRuntime, storage: str, since: str, until: str, offset: int) -> ChangedRanges:
    """A piece of the answer, from ``offset`` on.

    Errors: VSS_E_OBJECT_NOT_FOUND, E_INVALIDARG; VSS_E_UNEXPECTED_PROVIDER_ERROR for a program that fails.
    """
    copies = [since, until] if until else [since]
    status, output, complaint = await runtime.run_provider("changes", storage, *copies, f"--offset={offset}")
    try:
        if status:
            failure = msgspec.json.decode(output, type=_Failure)
            raise VssError(failure.code, failure.message)
        return msgspec.json.decode(output, type=ChangedRanges)
    except msgspec.DecodeError:
        reason = complaint.splitlines()[-1] if complaint else f"the program ended with status {status}"
        raise VssError(
            Code.VSS_E_UNEXPECTED_PROVIDER_ERROR,
            f"what changed in volume {runtime.name} could not be read: {reason}; look at the coordinator's log",
        ) from None
