"""Previous versions: the client-accessible copies of each volume, mounted under the names that file servers look for.

``<runtime>/previous/VOLUME/@GMT-2026.03.01-12.00.00`` is the copy that was cut at that second (UTC). File servers show
these as the previous versions of files; the directory is kept in step with the catalogue.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from shadowset.daemon.catalogue import VolumeRow
from shadowset.daemon.expose import Exposer, is_dead
from shadowset.daemon.mounts import read_mounts
from shadowset.vss.codes import VssError
from shadowset.vss.mountinfo import Mount
from shadowset.vss.paths import Paths
from shadowset.vss.previous_versions import version_names
from shadowset.vss.requester_protocol import SnapshotProperties

log = logging.getLogger(__name__)


class PreviousVersions:
    """Keeps the directory in step. Everything here may be repeated at any time."""

    def __init__(
        self,
        paths: Paths,
        exposer: Exposer,
        volumes: Callable[[], list[str]],
        copies: Callable[[], list[SnapshotProperties]],
        row: Callable[[SnapshotProperties], VolumeRow | None],
    ) -> None:
        self._top = paths.previous
        self._exposer = exposer
        self._volumes = volumes
        self._copies = copies
        self._row = row
        self._syncing = asyncio.Lock()

    def wanted(self) -> dict[str, SnapshotProperties]:
        """Mount point and copy of everything that should be there."""
        by_volume: dict[str, list[SnapshotProperties]] = {}
        for copy in self._copies():
            by_volume.setdefault(copy.original_volume, []).append(copy)
        return {
            f"{self._top}/{volume}/{name}": copy
            for volume, copies in by_volume.items()
            for copy in copies
            if (name := version_names(copies).get(copy.snapshot_id))
        }

    async def sync(self) -> None:
        """Mount what is missing, unmount what is no more; what fails is logged and tried again the next time."""
        async with self._syncing:
            self._make_directories()
            wanted = self.wanted()
            mounted = mounted_below(self._top)
            for place in set(mounted) - set(wanted):
                await self._remove(place)
            for place, copy in wanted.items():
                if is_dead(copy, mounted.get(place)):
                    await self._remove(place)
                    del mounted[place]
                if place not in mounted:
                    await self._mount(place, copy)

    async def drop(self, snapshot_id: str) -> None:
        """A copy is about to go: its readers keep what they have open, and nobody finds it any more."""
        async with self._syncing:
            for place, copy in self.wanted().items():
                if copy.snapshot_id == snapshot_id and place in mounted_below(self._top):
                    await self._remove(place)

    def _make_directories(self) -> None:
        """One for each volume, also without copies: a file server takes a missing one for an error."""
        wanted = {f"{self._top}/{name}" for name in self._volumes()}
        try:
            for directory in (self._top, *wanted):
                os.makedirs(directory, mode=0o755, exist_ok=True)
            for name in os.listdir(self._top):
                if f"{self._top}/{name}" not in wanted:
                    _remove_empty(f"{self._top}/{name}")
        except OSError as error:
            log.warning("directories for previous versions cannot be made: %s", error)

    async def _mount(self, place: str, copy: SnapshotProperties) -> None:
        try:
            os.makedirs(place, mode=0o755, exist_ok=True)
            await self._exposer.mount(copy, place, self._row(copy))
        except (VssError, OSError) as error:
            log.warning("%s cannot be shown as a previous version at %s: %s", copy.snapshot_id, place, error)
            _remove_empty(place)

    async def _remove(self, place: str) -> None:
        try:
            await self._exposer.unmount(place, lazy=True)
        except VssError as error:
            log.warning("the previous version %s cannot be taken away: %s", place, error)
            return
        _remove_empty(place)


def mounted_below(top: str) -> dict[str, Mount]:
    """What is mounted below a directory, by mount point."""
    return {mount.path: mount for mount in read_mounts() if mount.path.startswith(f"{top}/")}


def _remove_empty(place: str) -> None:
    try:
        os.rmdir(place)
    except OSError:
        return
