"""Copies of protected volumes as block devices: a process serves each over NBD, the attach command does the rest.

Each has a directory, named by the copy's id, with the process's number, its socket and log, and the attach command's
state. So what a coordinator has begun, the next one finds.
"""

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
COMMAND_MS = 60_000


@dataclass(frozen=True)
class Serving:
    """What serves: the program, what it is told beside storage, origin, copy and socket, and how it is attached."""

    program: tuple[str, ...]
    name: str
    options: tuple[str, ...] = ()
    via: str = "auto"


@dataclass
class Served:
    """One that is served."""

    directory: str
    name: str
    watch: ProcessWatch


class ServedCopies:
    """Those below ``directory``."""

    def __init__(self, directory: str, commands: Commands, serving: Serving) -> None:
        self._directory = directory
        self._commands = commands
        self._serving = serving
        self._open: dict[str, Served] = {}

    async def open(self, row: VolumeRow, snapshot_id: str) -> str:
        """The block device; the same one when it is there already. Errors: VssError, and nothing is left behind."""
        served = self._find(snapshot_id) or self._start(row, snapshot_id)
        socket = f"{served.directory}/nbd.sock"
        try:
            await self._ready(served, socket)
            options = ("--links", f"{served.directory}/by-name", "--export", snapshot_id, "--via", self._serving.via)
            answer = await self._attach(served.directory, served.name, "attach", "--nbd", socket, *options)
            return str(json.loads(answer)["device"])
        except (VssError, ValueError, KeyError) as error:
            await self.drop(snapshot_id)
            message = error.message if isinstance(error, VssError) else f"attaching it answered {error}"
            raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, message) from None

    def device(self, snapshot_id: str) -> str:
        """The block device of a copy that is served, or "" for one that is not."""
        try:
            return os.readlink(f"{self._directory}/{snapshot_id}/by-name/{self._name(snapshot_id)}")
        except OSError:
            return ""

    def _name(self, snapshot_id: str) -> str:
        return f"{self._serving.name}-{snapshot_id}"

    def _start(self, row: VolumeRow, snapshot_id: str) -> Served:
        directory = f"{self._directory}/{snapshot_id}"
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory, mode=0o700)
        source = ["--storage", row.storage, "--origin", row.origin, "--copy", snapshot_id]
        arguments = [*source, "--nbd", f"{directory}/nbd.sock", *self._serving.options]
        child = spawn_service([*self._serving.program, *arguments], f"{directory}/log")
        with open(f"{directory}/pid", "w") as file:
            file.write(str(child.pid))
        served = self._open[snapshot_id] = Served(directory, self._name(snapshot_id), ProcessWatch(child.pid, child))
        return served

    def _find(self, snapshot_id: str) -> Served | None:
        """One that lives, of this coordinator or the last."""
        served = self._open.get(snapshot_id)
        if served is None:
            directory = f"{self._directory}/{snapshot_id}"
            watch = _left(directory)
            if watch:
                served = self._open[snapshot_id] = Served(directory, self._name(snapshot_id), watch)
        return served if served and served.watch.alive else None

    async def _ready(self, served: Served, socket: str) -> None:
        end = time.monotonic() + READY_S
        while not os.path.exists(socket):
            if not served.watch.alive or time.monotonic() > end:
                reason = last_line(f"{served.directory}/log")
                raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, f"it is not served: {reason}")
            await asyncio.sleep(0.02)

    async def _attach(self, directory: str, name: str, verb: str, *options: str) -> str:
        command = [*self._commands.attach, verb, name, *options, "--runtime", directory]
        status, output, complaint = await run_command(command, COMMAND_MS)
        if status:
            raise VssError(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, complaint or f"{verb} failed")
        return output

    async def drop(self, snapshot_id: str) -> None:
        """Take the device away, and forget what was written; harmless when there is none."""
        served = self._open.pop(snapshot_id, None)
        directory = f"{self._directory}/{snapshot_id}"
        if served or os.path.isdir(directory):
            await self._remove(directory, self._name(snapshot_id), served.watch if served else _left(directory))

    async def clear(self) -> None:
        """Take away what nobody has opened in this coordinator's time, and what was in use when it was dropped."""
        for snapshot_id in self._there():
            if snapshot_id not in self._open:
                await self.drop(snapshot_id)

    def _there(self) -> list[str]:
        return os.listdir(self._directory) if os.path.isdir(self._directory) else []

    async def _remove(self, directory: str, name: str, watch: ProcessWatch | None) -> None:
        gone = True
        try:
            await self._attach(directory, name, "detach", "--force")
        except VssError as error:
            gone = False  # somebody still uses the device
            log.warning("%s; it is tried again later", error)
        if watch and watch.alive:
            os.kill(watch.pid, signal.SIGKILL)
            await watch.wait()
        if gone:
            shutil.rmtree(directory, ignore_errors=True)


def _left(directory: str) -> ProcessWatch | None:
    """The process that serves there, when it lives."""
    try:
        with open(f"{directory}/pid") as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = file.read().split(b"\0")
        return ProcessWatch(pid) if os.fsencode(f"{directory}/nbd.sock") in arguments else None
    except (OSError, ValueError):
        return None
