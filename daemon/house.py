"""What the parts of the coordinator share, and the small helpers that all of them use."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from shadowset.daemon.catalogue import Catalogue
from shadowset.daemon.copy_devices import CopyDevices
from shadowset.daemon.creation import CreationQueue
from shadowset.daemon.host import Host
from shadowset.daemon.limits import Limits
from shadowset.daemon.providers import Providers
from shadowset.daemon.quiet import Quiet
from shadowset.daemon.registry import Registry
from shadowset.daemon.scratch import ScratchCopies
from shadowset.daemon.volumes import Volumes
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import SnapshotProperties

T = TypeVar("T")


class EventSink(Protocol):
    """Appends to the coordinator's event list, at once or when writing is allowed again."""

    def __call__(self, name: str, message: str, volume: str = "", set_id: str = "") -> None:
        """Record it."""


@dataclass
class House:
    """The coordinator's parts."""

    paths: Paths
    host: Host
    limits: Limits
    quiet: Quiet
    catalogue: Catalogue
    registry: Registry
    volumes: Volumes
    providers: Providers
    event: EventSink
    scratch: ScratchCopies
    copy_devices: CopyDevices
    sessions: set[str] = field(default_factory=set)
    creation: CreationQueue = field(default_factory=CreationQueue)

    def event_of(self, name: str, copy: SnapshotProperties, what: str) -> None:
        """Record an event about a copy; ``what`` goes on after its name."""
        sentence = f"shadow copy {copy.snapshot_id} of volume {copy.original_volume} {what}"
        self.event(name, sentence, copy.original_volume, copy.snapshot_set_id)


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """All results, in order. The first failure ends the others and is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done() and not task.cancelled() and task.exception():
                raise task.exception() or RuntimeError
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
