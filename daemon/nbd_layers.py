"""Writable layers over pending copies of protected volumes: a process serves each, the attach command does the rest."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import time
from dataclasses import dataclass

from shadowset.daemon.catalogue import VolumeRow
from shadowset.daemon.commands import Commands
from shadowset.daemon.process import ProcessWatch, last_line, run_command, spawn_service
from shadowset.vss.codes import Code, VssError

log = logging.getLogger(__name__)

READY_S = 20.0
END_S = 60.0
COMMAND_MS = 60_000


@dataclass
class _Served:
    directory: str
    name: str
    watch: ProcessWatch


class NbdLayers:
    """Those that are open. ``directory`` holds a directory for each."""

    def __init__(self, directory: str, commands: Commands) -> None:
        self._directory = directory
        self._commands = commands
        self._open: dict[str, _Served] = {}

    async def open(self, row: VolumeRow, snapshot_id: str) -> str:
        """The block device. Errors: VssError, and nothing is left behind."""
        await self.clear()
        directory = f"{self._directory}/{snapshot_id}"
        os.makedirs(directory, mode=0o700)
        socket = f"{directory}/nbd.sock"
        arguments = ["--storage", row.storage, "--origin", row.origin, "--copy", snapshot_id, "--nbd", socket]
        child = spawn_service([*self._commands.layer, *arguments], f"{directory}/log")
        with open(f"{directory}/pid", "w") as file:
            file.write(str(child.pid))
        served = self._open[snapshot_id] = _Served(directory, _name(snapshot_id), ProcessWatch(child.pid, child))
        try:
            await self._ready(served, socket)
            links = ("--links", f"{directory}/by-name", "--export", snapshot_id)
            answer = await self._attach(served.name, directory, "attach", "--nbd", socket, *links)
            return str(json.loads(answer)["device"])
        except (VssError, ValueError, KeyError) as error:
            await self.drop(snapshot_id)
            message = error.message if isinstance(error, VssError) else f"attaching it answered {error}"
            raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, message) from None

    async def _ready(self, served: _Served, socket: str) -> None:
        end = time.monotonic() + READY_S
        while not os.path.exists(socket):
            if not served.watch.alive or time.monotonic() > end:
                reason = last_line(f"{served.directory}/log")
                raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, f"its layer is not served: {reason}")
            await asyncio.sleep(0.02)

    async def _attach(self, name: str, directory: str, verb: str, *options: str) -> str:
        command = [*self._commands.attach, verb, name, *options, "--runtime", directory]
        status, output, complaint = await run_command(command, COMMAND_MS)
        if status:
            raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, complaint or f"{verb} failed")
        return output

    async def seal(self, snapshot_id: str) -> None:
        """Durable when it returns. Errors: VssError."""
        served = self._open[snapshot_id]
        await self._attach(served.name, served.directory, "detach")
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

    async def drop(self, snapshot_id: str) -> None:
        """Forget what was written; harmless when there is no layer."""
        served = self._open.pop(snapshot_id, None)
        if served:
            await self._remove(served.name, served.directory, served.watch)

    async def clear(self) -> None:
        """Remove what a crash has left, and what was still in use when it was dropped; none of it is ever used."""
        names = os.listdir(self._directory) if os.path.isdir(self._directory) else []
        for snapshot_id in names:
            directory = f"{self._directory}/{snapshot_id}"
            if snapshot_id not in self._open:
                await self._remove(_name(snapshot_id), directory, self._left(directory, snapshot_id))

    def _left(self, directory: str, snapshot_id: str) -> ProcessWatch | None:
        try:
            with open(f"{directory}/pid") as file:
                pid = int(file.read())
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
            return ProcessWatch(pid) if os.fsencode(snapshot_id) in arguments else None
        except (OSError, ValueError):
            return None

    async def _remove(self, name: str, directory: str, watch: ProcessWatch | None) -> None:
        gone = True
        try:
            await self._attach(name, directory, "detach", "--force")
        except VssError as error:
            gone = False  # somebody still uses the device
            log.warning("%s; it is tried again before the next layer is opened", error)
        if watch and watch.alive:
            os.kill(watch.pid, signal.SIGKILL)
            await watch.wait()
        if gone:
            shutil.rmtree(directory, ignore_errors=True)


def _name(snapshot_id: str) -> str:
    return f"layer-{snapshot_id}"
