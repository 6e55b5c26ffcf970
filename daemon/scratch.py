"""Private changes over finished copies, for file systems that cannot be mounted without them: a log to be replayed,
or a UUID that is in use.

The changes are in a file without a name in the state directory, and go with the process that serves them, when the
mount has gone. The copy itself stays as it was cut.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from shadowset.daemon.catalogue import VolumeRow
from shadowset.daemon.commands import Commands
from shadowset.daemon.mounts import mounts_of
from shadowset.daemon.served_copies import ServedCopies, Serving
from shadowset.vss.paths import Paths

Mounting = Callable[[str], Awaitable[None]]


class ScratchCopies(ServedCopies):
    """Those that are mounted."""

    def __init__(self, paths: Paths, commands: Commands) -> None:
        serving = Serving(commands.layer, "scratch", ("--scratch", paths.state))
        super().__init__(paths.scratch, commands, serving)
        self._pinned: set[str] = set()

    async def mount(self, row: VolumeRow, snapshot_id: str, mount: Mounting) -> None:
        """Let ``mount`` use the block device. Errors: VssError, its own ones too, and nothing is left behind."""
        self._pinned.add(snapshot_id)
        try:
            await mount(await self.open(row, snapshot_id))
        finally:
            self._pinned.discard(snapshot_id)
            await self.release()

    async def release(self) -> None:
        """Take away those that are mounted nowhere; an unmount may have been the last of one."""
        for snapshot_id in self._there():
            device = self.device(snapshot_id)
            used = bool(device) and os.path.exists(device) and bool(mounts_of(device))
            if snapshot_id not in self._pinned and not used:
                await self.drop(snapshot_id)
