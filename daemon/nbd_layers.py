"""Writable layers over pending copies of protected volumes, which are sealed before anybody else sees the copy."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal

from shadowset.daemon.catalogue import VolumeRow
from shadowset.daemon.commands import Commands
from shadowset.daemon.process import last_line
from shadowset.daemon.served_copies import ServedCopies, Serving
from shadowset.vss.codes import Code, VssError

END_S = 60.0


class NbdLayers(ServedCopies):
    """Those that are open. ``directory`` holds a directory for each."""

    def __init__(self, directory: str, commands: Commands) -> None:
        super().__init__(directory, commands, Serving(commands.layer, "layer"))

    async def open(self, row: VolumeRow, snapshot_id: str) -> str:
        """The block device. Errors: VssError. What a crash has left, or was in use when it was dropped, goes first."""
        await self.clear()
        return await super().open(row, snapshot_id)

    async def seal(self, snapshot_id: str) -> None:
        """Durable when it returns. Errors: VssError."""
        served = self._open[snapshot_id]
        await self._attach(served.directory, served.name, "detach")
        os.kill(served.watch.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(served.watch.wait(), END_S)
        except TimeoutError:
            raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, "its layer was not sealed in time") from None
        if served.watch.status:
            reason = last_line(f"{served.directory}/log")
            raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, f"its layer was not sealed: {reason}")
        del self._open[snapshot_id]
        shutil.rmtree(served.directory, ignore_errors=True)
