"""The provider interface: what the coordinator asks of whatever makes the copies, in VSS's order.

A package offers its providers by entry points of the group ``GROUP``; each names a callable that takes a
``ProviderHost`` and gives a ``Provider``. The coordinator's one event loop makes the calls, so whatever blocks belongs
into a thread. ``hold`` … ``release`` are the only calls while file systems are frozen; they write to no file system but
the one that is cut. Every call may raise VssError; codes that VSS does not allow a provider are translated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from shadowset.vss.codes import Code, VssError, describe
from shadowset.vss.enums import ProviderType
from shadowset.vss.provider_protocol import ChangedRanges, Committed, CopyInfo, Held, Released
from shadowset.vss.requester_protocol import ProviderInfo, SetRecord, SnapshotProperties

GROUP = "shadowset.providers"
T = TypeVar("T")

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

_ORDER = (ProviderType.HARDWARE, ProviderType.SOFTWARE, ProviderType.FILESHARE, ProviderType.SYSTEM)


class VolumeFacts(msgspec.Struct, frozen=True):
    """A volume as its provider sees it now.

    ``name`` is the same at every time and of no other volume, whatever provider; one with a colon cannot be that of a
    protected volume. ``size`` in bytes. The coordinator freezes the file systems on the block device ``freeze``, if
    any. ``devices`` are the block devices that the live file systems are on, ``lies_on`` the devices and files that
    hold the data. A provider that cannot hold the volume's writes says so in ``holds``: a set takes one such volume at
    the most, because the cut of all others has to lie around it. ``mount_roots`` says which directory of the file
    system is at each of the ``mount_points``; its root, when it says nothing.
    """

    name: str
    size: int = 0
    mount_points: list[str] = []
    freeze: str = ""
    devices: list[str] = []
    lies_on: list[str] = []
    holds: bool = True
    mount_roots: list[str] = []


class ProviderHost(Protocol):
    """What the coordinator gives a provider to live in: two directories of its own, made when needed."""

    @property
    def runtime(self) -> str:
        """Gone after a reboot; no other user may look into it."""

    @property
    def state(self) -> str:
        """Kept for good."""

    @property
    def trees(self) -> str:
        """Where copies that are directories become visible to everybody, shared with other providers."""

    def event(self, name: str, message: str, volume: str = "") -> None:
        """Append to the coordinator's event list."""

    def in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        """Run a call that may block; one that never comes back keeps nobody else, nor the process."""


class Provider(Protocol):
    """One way of making shadow copies. Volumes are named as in ``VolumeFacts.name``."""

    info: ProviderInfo

    async def start(self, copies: list[SnapshotProperties]) -> None:
        """Once, before all other calls; ``copies`` are those that the coordinator knows."""

    async def stop(self) -> None:
        """Once, at the end; the copies stay readable."""

    async def find(self, volume: str) -> VolumeFacts | None:
        """The volume that a name, a device or a path on it means; None when it is not one of this provider's."""

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

    async def open_layer(self, volume: str, snapshot_id: str) -> str:
        """A block device or directory that is the pending copy and takes writes, which go to this copy only.

        It comes after ``pre_final_commit``, and ``seal`` or ``abort`` comes after it. Errors:
        VSS_E_VOLUME_NOT_SUPPORTED_BY_PROVIDER for a provider without auto-recovery.
        """

    async def seal(self, volume: str, snapshot_id: str) -> None:
        """What was written is part of the copy, which nobody can change any more; as durable as the copy."""

    async def post_final_commit(self, volume: str, snapshot_id: str) -> None:
        """The set exists: the copy is no longer pending. May come again after a restart of either side."""

    async def abort(self, volume: str, snapshot_id: str) -> None:
        """The set does not come to be: the copy, if there is one, goes. Comes after ``end_prepare`` has begun."""

    async def delete(self, volume: str, snapshot_id: str) -> None:
        """Delete a copy. Errors: VSS_E_OBJECT_NOT_FOUND."""

    async def volumes(self) -> list[str]:
        """Volumes with copies that can be asked for now."""

    async def copies(self, volume: str) -> list[CopyInfo]:
        """All copies of a volume, pending ones too. Errors: VssError while that cannot be told."""

    async def keep(self, volume: str, snapshot_id: str, priority: int | None, hold_until_ns: int | None) -> None:
        """Another priority or hold, where not None, for a provider that gives up copies when space runs out."""

    def place(self, device_number: int) -> str:
        """Where ``surface`` makes a copy readable: a file, a block device or a directory."""

    async def surface(self, copy: SnapshotProperties) -> None:
        """Make a copy readable at its ``device_object``, read-only; harmless when it is so already."""

    async def unsurface(self, copy: SnapshotProperties) -> None:
        """The copy is about to go, or is gone; harmless when it is not readable."""


@runtime_checkable
class TracksChanges(Protocol):
    """A provider that knows which blocks changed has this call as well."""

    async def changes(self, volume: str, since: str, until: str, offset: int) -> ChangedRanges:
        """What changed since a copy, until a later one or until now (""); a piece from ``offset`` on.

        A block that changed is always in it. Errors: VSS_E_OBJECT_NOT_FOUND, VSS_E_NOT_SUPPORTED, E_INVALIDARG when
        ``until`` is not the later one.
        """


class Imported(msgspec.Struct):
    """A copy that came from elsewhere: its properties here, the record of its set, and its document, "" for none."""

    copy: SnapshotProperties
    made: SetRecord
    document: str = ""


@runtime_checkable
class Importer(Provider, Protocol):
    """A provider that takes copies in which others have made."""

    async def take_in(self, path: str) -> Imported:
        """Bring the copy in a transport file here; ``post_final_commit`` or ``abort`` comes next. Errors: VssError."""


def in_order(providers: list[Provider]) -> list[Provider]:
    """As they are asked when the requester names none: hardware, software, file share, system."""
    return sorted(providers, key=lambda each: _ORDER.index(each.info.type) if each.info.type in _ORDER else len(_ORDER))


def translated(error: VssError, volume: str) -> VssError:
    """An error as VSS lets it through: a code no provider may return becomes VSS_E_UNEXPECTED_PROVIDER_ERROR."""
    if error.code in ALLOWED_CODES:
        return error
    return VssError(
        Code.VSS_E_UNEXPECTED_PROVIDER_ERROR,
        f"the provider of volume {volume} failed with {describe(error.code)}: {error.message}",
    )
