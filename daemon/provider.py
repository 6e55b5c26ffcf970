"""The provider interface: what the coordinator asks of whatever makes the copies, in VSS's order.

A provider works on volumes by name. ``hold`` … ``release`` are the only calls while file systems are frozen; they must
not write to any volume of the set. Every call may raise VssError; codes that VSS does not allow a provider are
translated by the caller.
"""

from __future__ import annotations

from typing import Protocol

from shadowset.vss.codes import Code, VssError, describe
from shadowset.vss.provider_protocol import Committed, Held, Released
from shadowset.vss.requester_protocol import ProviderInfo

ALLOWED_CODES = frozenset(
    {
        Code.E_OUTOFMEMORY,
        Code.E_INVALIDARG,
        Code.E_ACCESSDENIED,
        Code.VSS_E_BAD_STATE,
        Code.VSS_E_OBJECT_NOT_FOUND,
        Code.VSS_E_INSUFFICIENT_STORAGE,
        Code.VSS_E_VOLUME_NOT_SUPPORTED,
        Code.VSS_E_VOLUME_NOT_SUPPORTED_BY_PROVIDER,
        Code.VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED,
        Code.VSS_E_PROVIDER_VETO,
        Code.VSS_E_REVERT_IN_PROGRESS,
        Code.VSS_E_CANNOT_REVERT_DISKID,
        Code.VSS_E_FLUSH_WRITES_TIMEOUT,
        Code.VSS_E_HOLD_WRITES_TIMEOUT,
        Code.VSS_E_UNEXPECTED_PROVIDER_ERROR,
    }
)


class Provider(Protocol):
    """One way of making shadow copies."""

    info: ProviderInfo

    async def is_volume_supported(self, volume: str) -> bool:
        """Whether copies of this volume can be made now."""

    async def begin_prepare(self, volume: str, set_id: str, snapshot_id: str) -> None:
        """Start long work for a copy to come; returns fast. An earlier set that was never finished is forgotten."""

    async def end_prepare(self, volume: str, set_id: str) -> None:
        """Wait for that work."""

    async def pre_commit(self, volume: str, set_id: str) -> None:
        """Last step before writes are held; about a second at the most."""

    def lost(self, volume: str) -> bool:
        """True when whatever held writes for this set may have stopped doing so."""

    async def hold(self, volume: str, timeout_ms: int) -> Held:
        """Hold writes; they flow again after ``timeout_ms`` whatever happens."""

    async def commit(self, volume: str, snapshot_id: str, set_id: str, created_ns: int, persistent: bool) -> Committed:
        """Make the cut. The copy is pending until ``post_final_commit``."""

    async def release(self, volume: str) -> Released:
        """Let writes flow."""

    async def post_commit(self, volume: str, set_id: str) -> None:
        """Writes flow and the writers are thawed."""

    async def pre_final_commit(self, volume: str, set_id: str) -> None:
        """Before post-snapshot."""

    async def post_final_commit(self, volume: str, snapshot_id: str) -> None:
        """The set exists: the copy is no longer pending."""

    async def abort(self, volume: str, snapshot_id: str) -> None:
        """The set does not come to be: the copy, if there is one, goes."""

    async def delete(self, volume: str, snapshot_id: str) -> None:
        """Delete a copy. Errors: VSS_E_OBJECT_NOT_FOUND."""


def translated(error: VssError, volume: str) -> VssError:
    """An error as VSS lets it through: a code no provider may return becomes VSS_E_UNEXPECTED_PROVIDER_ERROR."""
    if error.code in ALLOWED_CODES:
        return error
    return VssError(
        Code.VSS_E_UNEXPECTED_PROVIDER_ERROR,
        f"the provider of volume {volume} failed with {describe(error.code)}: {error.message}",
    )
