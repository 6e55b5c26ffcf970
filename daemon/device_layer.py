"""Keeps ``shadowset-fuse`` running. It outlives the daemon, because exposed copies are mounted from its files."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time

from shadowset.daemon.commands import Commands
from shadowset.daemon.config import device_group
from shadowset.daemon.deaths import cause_of
from shadowset.daemon.house import EventSink
from shadowset.daemon.mounts import read_mounts
from shadowset.daemon.process import ProcessWatch, run_command, spawn_service
from shadowset.vss.codes import VssError
from shadowset.vss.paths import Paths

log = logging.getLogger(__name__)

BACKOFF_S = (0.2, 1.0, 5.0, 30.0)
STEADY_S = 10.0
LOOK_S = 0.05


class DeviceLayer:
    """Supervision of the one FUSE process; its number is kept in ``<runtime>/fuse.pid``."""

    def __init__(self, paths: Paths, commands: Commands, event: EventSink) -> None:
        self._paths = paths
        self._commands = commands
        self._event = event
        self._task: asyncio.Task[None] | None = None
        self._watch: ProcessWatch | None = None
        self._complaint = ""

    @property
    def pid_file(self) -> str:
        """Where the process number is kept."""
        return _pid_file(self._paths)

    def start(self) -> None:
        """Find the living process or start one, from now on."""
        self._task = asyncio.ensure_future(self._supervise())

    async def leave(self) -> None:
        """Stop supervising; the process goes on serving."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._watch:
            self._watch.forget()

    async def _supervise(self) -> None:
        failures = 0
        while True:
            begun = time.monotonic()
            try:
                watch = self._watch = self._adopt() or await self._spawn()
                await self._tell_when_back(watch, failures > 0)
                await watch.wait()
                complaint = f"shadowset-fuse {cause_of(watch.status, self._log)}"
            except (VssError, OSError) as error:
                complaint = str(error)
            if complaint != self._complaint:
                self._event("devices-lost", f"{complaint}; device objects are away until it is back")
            self._complaint = complaint
            failures = 0 if time.monotonic() - begun > STEADY_S else failures + 1
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])

    async def _tell_when_back(self, watch: ProcessWatch, again: bool) -> None:
        """As soon as it serves; ``again`` only when it stays: one that ends again and again would fill the list."""
        if not self._complaint:
            return
        end = time.monotonic() + STEADY_S
        while watch.alive and time.monotonic() < end and (again or not serving_pid(self._paths)):
            await asyncio.sleep(LOOK_S)
        if watch.alive and serving_pid(self._paths):
            self._event("devices-back", "shadowset-fuse was started again; device objects are there")
            self._complaint = ""

    @property
    def _log(self) -> str:
        return f"{self._paths.runtime}/fuse.log"

    def _adopt(self) -> ProcessWatch | None:
        try:
            pid = server_pid(self._paths)
            return ProcessWatch(pid) if pid else None
        except OSError:
            return None

    async def _spawn(self) -> ProcessWatch:
        await self._clear_mount()
        arguments = [*self._commands.fuse, "--objects", self._paths.objects, "--mount", self._paths.devices]
        group = device_group(self._paths)
        arguments += ["--group", group] if group else []
        child = spawn_service(arguments, self._log)
        with open(f"{self.pid_file}.new", "w") as file:
            file.write(str(child.pid))
        os.rename(f"{self.pid_file}.new", self.pid_file)
        return ProcessWatch(child.pid, child)

    async def _clear_mount(self) -> None:
        """A FUSE mount whose server has died answers ENOTCONN and must go before a new one can be made."""
        try:
            os.stat(self._paths.devices)
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
                await run_command(["umount", "--lazy", self._paths.devices], 10_000)
        os.makedirs(self._paths.devices, exist_ok=True)


def _pid_file(paths: Paths) -> str:
    return f"{paths.runtime}/fuse.pid"


def server_pid(paths: Paths) -> int:
    """The living ``shadowset-fuse`` of this installation, whoever started it; 0 for none."""
    try:
        with open(_pid_file(paths)) as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = file.read().split(b"\0")
    except (OSError, ValueError):
        return 0
    return pid if os.fsencode(paths.objects) in arguments else 0


def serving_pid(paths: Paths) -> int:
    """The same once the tree is mounted; the tree itself is not asked, which would wait for its server."""
    place = f"{os.path.realpath(paths.runtime)}/{os.path.basename(paths.devices)}"
    return server_pid(paths) if any(mount.path == place for mount in read_mounts()) else 0
