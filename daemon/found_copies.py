"""Finished copies that a shadow storage has and the catalogue does not know: it was lost, or is an older one.

A copy lives with its volume: one that is whole is taken in again, by what its storage knows of it. What the storage
does not keep is put so that it promises least, and ``IMPORTED`` says that it was not made under this catalogue. A copy
that goes with its session is released instead: that session ended with the coordinator that knew it.
"""

from __future__ import annotations

import asyncio
import logging
import socket

import msgspec

from shadowset.daemon.house import House
from shadowset.daemon.process import despite_cancel
from shadowset.vss.codes import VssError
from shadowset.vss.enums import Attribute, Context, SnapshotState
from shadowset.vss.provider import Provider
from shadowset.vss.provider_protocol import CopyInfo
from shadowset.vss.requester_protocol import SetRecord, SnapshotProperties

log = logging.getLogger(__name__)

LEAST = Context.NAS_ROLLBACK | Attribute.DIFFERENTIAL
"""What a copy of which nothing else is known is said to be: persistent, and not consistent for any application."""


def properties(info: CopyInfo, volume: str, provider: Provider, device_number: int, count: int) -> SnapshotProperties:
    """What is known of a copy by its storage alone. Pure.

    ``mount_points`` stays empty: nobody knows whether its file systems were frozen, so their logs are replayed.
    """
    return SnapshotProperties(
        snapshot_id=info.copy_id,
        snapshot_set_id=info.set_id,
        snapshots_count=count,
        device_object=provider.place(device_number),
        original_volume=volume,
        originating_machine="",
        service_machine=socket.gethostname(),
        exposed_name="",
        exposed_path="",
        provider_id=provider.info.provider_id,
        attributes=(info.attributes | Attribute.PERSISTENT if info.attributes else LEAST) | Attribute.IMPORTED,
        created_ns=info.created_ns,
        status=SnapshotState.CREATED,
        size=info.size,
        number=info.number,
        device_number=device_number,
        mount_points=[],
        priority=info.priority,
        hold_until_ns=info.hold_until_ns,
    )


def set_record(copy: SnapshotProperties) -> SetRecord:
    """The record of a set of which nothing is left but its copies. Pure."""
    made_in = copy.attributes & ~(Attribute.DIFFERENTIAL | Attribute.IMPORTED | Attribute.AUTORECOVER)
    return SetRecord(copy.snapshot_set_id, "", copy.created_ns, made_in, copy.status, 0.0, [copy], [], [], [])


class FoundCopies:
    """Takes them in; ``changing`` is held by whoever changes anything about a copy."""

    def __init__(self, house: House, changing: asyncio.Lock) -> None:
        self._house = house
        self._changing = changing
        self._strange: set[tuple[str, str]] = set()

    async def take_in(self, provider: Provider, volume: str) -> None:
        """All of a volume. The provider is asked once more: what it told before may have been deleted meanwhile.

        Errors: VssError, and what is left is found again.
        """
        async with self._changing:
            for info in sorted(await provider.copies(volume), key=lambda info: info.number):
                if not (info.pending or info.lost):
                    await despite_cancel(self._settle(provider, volume, info))

    async def _settle(self, provider: Provider, volume: str, info: CopyInfo) -> None:
        await self._house.quiet.writable()
        if info.set_id in self._house.creation.set_ids:
            return
        place = self._house.catalogue.volume_of(info.copy_id)
        if place not in (None, volume):
            self._tell_strange(volume, info.copy_id, str(place))
        elif place is None and info.persistent:
            await self._take_in(provider, volume, info)
        elif place is None:
            await provider.delete(volume, info.copy_id)
            sentence = f"shadow copy {info.copy_id} of volume {volume} was released: its session is not known any more"
            self._house.event("snapshot-deleted", sentence, volume, info.set_id)

    async def _take_in(self, provider: Provider, volume: str, info: CopyInfo) -> None:
        if provider is self._house.providers.builtin:
            self._house.volumes.get(volume)  # it may have been removed while the provider was asked
        catalogue = self._house.catalogue
        (number,) = catalogue.next_device_numbers(1)
        others = catalogue.snapshots(set_id=info.set_id)
        count = max([len(others) + 1, *(each.snapshots_count for each in others)])
        copy = properties(info, volume, provider, number, count)
        catalogue.add_imported(set_record(copy), copy)
        for each in others:
            catalogue.update_snapshot(msgspec.structs.replace(each, snapshots_count=count))
        what = "was found in its storage and taken in: the catalogue did not know it"
        self._house.event_of("snapshot-found", copy, what)
        try:
            await provider.surface(copy)
        except (VssError, OSError) as error:
            log.error("shadow copy %s cannot be made readable: %s", copy.snapshot_id, error)

    def _tell_strange(self, volume: str, copy_id: str, place: str) -> None:
        """Once: two storages have a copy of the same id, so one is a duplicate of the other."""
        if (volume, copy_id) not in self._strange:
            self._strange.add((volume, copy_id))
            sentence = (
                f"shadow copy {copy_id} in the storage of volume {volume} is not taken in: volume {place} has one of "
                f"the same id, so this storage is a duplicate; give volume {volume} a storage of its own"
            )
            self._house.event("snapshot-not-taken-in", sentence, volume)
