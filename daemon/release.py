"""The end of auto-release copies: at once, or when those who still read them are done.

A copy is read through its device object (or the directory that stands for it), through a loop device on that, or where
it is exposed. Readers that open the shadow storage themselves (``shadowset-export``) are not seen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from shadowset.daemon.clock import now
from shadowset.daemon.house import House
from shadowset.daemon.process import within
from shadowset.vss.codes import Code, VssError
from shadowset.vss.requester_protocol import SnapshotProperties

log = logging.getLogger(__name__)

POLL_S = 1.0
LOOK_MS = 10_000
Work = Callable[[SnapshotProperties], Awaitable[None]]


class Releases:
    """The copies whose session has ended, until they are gone."""

    def __init__(self, house: House, delete: Work, conceal: Work) -> None:
        """``conceal`` takes a copy's mounts and device away, or raises VSS_E_VOLUME_IN_USE; ``delete`` is forced."""
        self._house = house
        self._delete = delete
        self._conceal = conceal
        self._waiting: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """Whether a copy waits for its readers."""
        return bool(self._waiting)

    async def release(self, copy: SnapshotProperties) -> None:
        """Delete it now, or once its readers are done. Errors: VssError why it cannot be deleted at all."""
        readers = await self._readers(copy)
        if not readers:
            await self._delete(copy)
            return
        what = f"outlives its session while it is read by {', '.join(readers[:5])}"
        self._house.event_of("release-delayed", copy, what)
        task = asyncio.ensure_future(self._later(copy.snapshot_id))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def stop(self) -> None:
        """The daemon ends; its next start deletes what is left."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    async def _later(self, snapshot_id: str) -> None:
        end = now() + self._house.limits.release_wait_ms / 1000
        while True:
            await asyncio.sleep(POLL_S)
            found = self._house.catalogue.snapshots(snapshot_id=snapshot_id)
            if not found:
                return
            if now() >= end:
                limit = self._house.limits.release_wait_ms
                what = f"goes although it is read, {limit} ms after its session"
                self._house.event_of("release-forced", found[0], what)
            elif await self._readers(found[0]):
                continue
            try:
                await self._delete(found[0])
            except VssError as error:
                log.warning("shadow copy %s outlives its session: %s", snapshot_id, error)
            return

    async def _readers(self, copy: SnapshotProperties) -> list[str]:
        used = copy.exposed_name or self._house.copy_devices.device(copy.snapshot_id)
        if used:
            try:
                await self._conceal(copy)
            except VssError:
                return [f"whoever uses {used}"]
        sentence = f"who reads {copy.device_object} cannot be found out"
        try:
            looking = self._house.host.readers_of(copy.device_object)
            return await within(LOOK_MS, looking, Code.VSS_E_UNEXPECTED, sentence)
        except (VssError, OSError) as error:
            log.warning("%s", error)
            return []
