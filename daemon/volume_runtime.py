"""One protected volume at run time: its provider process is started, found again, watched and restarted."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shadowset.daemon.bridges import bridge_of
from shadowset.daemon.catalogue import VolumeRow
from shadowset.daemon.commands import Commands
from shadowset.daemon.control_link import ControlLink
from shadowset.daemon.deaths import FAILED_AFTER, Deaths, cause_of
from shadowset.daemon.limits import Limits
from shadowset.daemon.mounts import device_identity, device_number
from shadowset.daemon.process import (
    ProcessWatch,
    in_thread,
    last_line,
    made_groups,
    remove_groups,
    run_command,
    spawn_service,
)
from shadowset.daemon.volume_checks import check_unused
from shadowset.vss.codes import Code, VssError, split_code
from shadowset.vss.paths import Paths
from shadowset.vss.provider_protocol import VolumeDescription

log = logging.getLogger(__name__)

POLL_S = 0.02
HANDOVER_S = 30.0
"""More than both processes take to give up: five seconds for what is under way, ten for the new one to get ready."""


@dataclass(frozen=True)
class Tools:
    """What every volume needs of its surroundings."""

    paths: Paths
    limits: Limits
    commands: Commands
    event: Callable[[str, str, str], None]
    """name, message, volume"""
    came_online: Callable[[str, ControlLink, VolumeDescription], Awaitable[None]]
    attached: Callable[[str, str, str], Awaitable[None]]
    """name, device, way: the device was made anew"""


class VolumeRuntime:
    """Supervision of one provider process. ``state`` is online, offline or failed; ``message`` says why."""

    def __init__(self, row: VolumeRow, tools: Tools, max_copies: int | None = None) -> None:
        """``max_copies`` for a storage that its first provider is to make."""
        self.row = row
        self._max_copies = max_copies
        self.state = "offline"
        self.message = "the provider has not been started yet"
        self.link: ControlLink | None = None
        self.description: VolumeDescription | None = None
        self.tried = asyncio.Event()
        self._tools = tools
        self._task: asyncio.Task[None] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._identity: str | None = None
        self._device_lost = self._device_due = False
        self._bridge_restarts = bridge_of(tools.paths.volume(row.name)).restarts
        self.deaths = Deaths()

    @property
    def device(self) -> str:
        """The block device while attached; "" as well when the kernel has since given its number to something else."""
        known = self._identity
        same = known is None or device_identity(self.row.device) == known
        return self.row.device if self.row.attached and same else ""

    @property
    def device_trouble(self) -> str:
        """What is wrong with the device and what to do about it, or ""."""
        if not (self.device and bridge_of(self._tools.paths.volume(self.name)).lost):
            return ""
        return f"volume {self.name}: its device {self.device} is dead; unmount, detach and attach it again"

    def look_after_device(self) -> None:
        """Tell of a device that has died, once."""
        trouble = self.device_trouble
        if trouble and not self._device_lost:
            self._tools.event("attach-lost", trouble, self.name)
        self._device_lost = bool(trouble)
        bridge = bridge_of(self._tools.paths.volume(self.name))
        if bridge.restarts > self._bridge_restarts and not trouble:
            message = f"the bridge of volume {self.name} {bridge.cause} and was started again; its device goes on"
            self._tools.event("bridge-restarted", message, self.name)
        self._bridge_restarts = bridge.restarts

    async def mend_device(self) -> None:
        """Give the device the connection that it lacks, after an attempt that failed or because the kernel lost it."""
        if self.row.attached and self.state == "online" and (self._device_due or self._unconnected):
            await self.reattach(provider_started=True)

    @property
    def _unconnected(self) -> bool:
        """The kernel's connection has ended though the provider is there; a FUSE bridge sees to its own."""
        told = self.description
        return self.row.via == "nbd" and told is not None and told.clients == 0

    @property
    def name(self) -> str:
        """The volume's name."""
        return self.row.name

    def online(self) -> ControlLink:
        """The control connection. Errors: VSS_E_VOLUME_NOT_SUPPORTED while the provider is away."""
        if self.link is None or self.link.lost.is_set():
            raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, f"volume {self.name} is {self.state}: {self.message}")
        return self.link

    async def describe(self) -> VolumeDescription:
        """Ask the provider now."""
        self.description = await self.online().describe()
        return self.description

    def supervise(self) -> None:
        """Keep the provider running from now on."""
        self._task = asyncio.ensure_future(self._supervise())

    async def bring_up(self) -> bool:
        """Find the living provider or start one; True when it was started. Errors: VssError."""
        os.makedirs(self._tools.paths.volume(self.name), exist_ok=True)
        started = False
        link = await self._connect()
        if link is None:
            link = await self._spawn()
            started = True
        try:
            self.description = await link.describe()
        except VssError:
            await link.close()
            raise
        self.link, self.state, self.message = link, "online", ""
        return started

    async def leave(self) -> None:
        """Stop supervising; the provider goes on serving."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.link:
            await self.link.close()

    async def stop(self) -> None:
        """Stop supervising and end the provider."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        link, self.link = self.link, None
        self.state, self.message = "offline", "the provider has been stopped"
        watch = self._watch()
        groups = made_groups(watch.pid, f"shadowset-provider-{self.name}") if watch else []
        if link:
            try:
                await link.stop()
            except VssError as error:
                log.warning("%s", error)
            await link.close()
        if watch:
            try:
                await asyncio.wait_for(watch.wait(), 5)
            except TimeoutError:
                await watch.end()
        self._reap()
        remove_groups(groups)

    def _watch(self) -> ProcessWatch | None:
        pid = self.description.pid if self.description else self._child.pid if self._child else 0
        try:
            return ProcessWatch(pid, self._child) if pid > 1 else None
        except OSError:
            return None

    async def _supervise(self) -> None:
        while True:
            try:
                if self.link is None or self.link.lost.is_set():
                    await self._recover()
                self.deaths.lives()
            except (VssError, OSError) as error:
                await self._failed(error)
            finally:
                self.tried.set()
            if self.link:
                await self.link.lost.wait()
                await self._went_away()
            await asyncio.sleep(self.deaths.wait_s)

    async def _failed(self, error: VssError | OSError) -> None:
        link, self.link = self.link, None
        if link:
            await link.close()
        self.deaths.not_started()
        self.state = "failed" if self.deaths.failing else "offline"
        message = error.message if isinstance(error, VssError) else str(error)
        if message != self.message:
            self._tools.event("volume-offline", f"volume {self.name} has no provider: {message}", self.name)
        self.message = message

    async def _recover(self) -> None:
        started = await self.bring_up()
        assert self.link and self.description
        if started and self.row.attached:  # before all else, since applications wait for it
            await self.reattach(started)
        await self._tools.came_online(self.name, self.link, self.description)
        if started:
            self._tools.event("provider-started", f"the provider of volume {self.name} was started", self.name)
        elif self.row.attached:
            await self.reattach(started)

    async def _went_away(self) -> None:
        link, self.link = self.link, None
        if link:
            await link.close()
        status = await in_thread(self._reap)
        self.deaths.died(cause_of(status, self.log_file))
        self.state = "failed" if self.deaths.failing else "offline"
        self.message = self.deaths.sentence(self.log_file)
        log.warning("volume %s: %s", self.name, self.message)
        self._tools.event(
            "provider-lost", f"the provider of volume {self.name} {self.deaths.cause} and is started again", self.name
        )
        if self.deaths.quick == FAILED_AFTER:
            self._tools.event("provider-failing", f"volume {self.name}: {self.message}", self.name)

    def _reap(self) -> int | None:
        """The exit status of our child, if the process that served was one."""
        status = None
        if self._child:
            try:
                status = self._child.wait(2)
                self._child = None
            except subprocess.TimeoutExpired:
                pass
        return status

    @property
    def log_file(self) -> str:
        """What the provider says on its standard error."""
        return f"{self._tools.paths.volume(self.name)}/provider.log"

    async def _connect(self) -> ControlLink | None:
        path = self._tools.paths.control_socket(self.name)
        try:
            return await ControlLink.open(self.name, path, self._tools.limits.provider_ms)
        except (OSError, TimeoutError):
            return None

    async def _spawn(self) -> ControlLink:
        child = self._child = spawn_service(self._command(), self.log_file)
        end = time.monotonic() + self._tools.limits.provider_ms / 1000
        while time.monotonic() < end:
            link = await self._connect()
            if link:
                return link
            if child.poll() is not None:
                self._child = None
                raise VssError(
                    Code.VSS_E_UNEXPECTED_PROVIDER_ERROR,
                    f"the provider of volume {self.name} does not start: {last_line(self.log_file)}",
                )
            await asyncio.sleep(POLL_S)
        await ProcessWatch(child.pid, child).end()
        seconds = self._tools.limits.provider_ms // 1000
        raise VssError(
            Code.VSS_E_UNEXPECTED_PROVIDER_ERROR,
            f"the provider of volume {self.name} did not get ready within {seconds} s: the host or the disk of its "
            f"storage is slow; try again, and look at {self.log_file}",
        )

    async def hand_over(self) -> VolumeDescription:
        """Let a new process of the installed code serve. Errors: VssError, and the present one goes on."""
        before = await self.describe()
        child = spawn_service([*self._command(), "--take-over"], self.log_file)
        try:
            told = await self._handed_over(before.pid, child)
        except VssError:
            await in_thread(lambda: _end(child))
            raise
        await in_thread(self._reap)
        self._child = child
        message = f"volume {self.name} is served by another process, version {told.version}"
        self._tools.event("provider-replaced", f"{message}; requests waited {told.stall_ms:g} ms", self.name)
        return told

    async def hand_over_device(self) -> float:
        """Whatever is between device and provider goes on with the installed code; how many milliseconds nothing was
        answered, 0 where the kernel does all. Errors: VssError, and what was there goes on."""
        if not self.row.attached:
            return 0.0
        return float(json.loads(await self.run_attach("handover") or "{}").get("stall_ms", 0))

    async def _handed_over(self, pid: int, child: subprocess.Popen[bytes]) -> VolumeDescription:
        end = time.monotonic() + HANDOVER_S
        while time.monotonic() < end:
            ended = child.poll() is not None
            told = await self.describe()
            if told.pid == child.pid:
                return told
            if ended:
                break
            await asyncio.sleep(POLL_S)
        raise VssError(
            Code.VSS_E_UNEXPECTED_PROVIDER_ERROR,
            f"volume {self.name} goes on being served by process {pid}; the new one failed: {_reason(self.log_file)}",
        )

    def _command(self) -> list[str]:
        paths = self._tools.paths
        return [
            *self._tools.commands.provider,
            self.name,
            *("--origin", self.row.origin, "--storage", self.row.storage),
            *("--nbd", paths.nbd_socket(self.name), "--control", paths.control_socket(self.name)),
            *("--chunk-size", str(self.row.chunk_size)),
            *(("--max-copies", str(self._max_copies)) if self._max_copies is not None else ()),
            *("--group", f"shadowset-provider-{self.name}"),
            *(("--existing",) if self._task else ()),  # known volumes have storage, perhaps on a disk that comes late
        ]

    async def run_provider(self, *arguments: str) -> tuple[int, str, str]:
        """Run the provider's program beside the one that serves; its exit status, output and error output."""
        return await run_command([*self._tools.commands.provider, *arguments], self._tools.limits.command_ms)

    # ---- the block device ----

    async def run_attach(self, verb: str, *options: str) -> str:
        """Run the attach command; its output. Errors: VssError with the command's own sentence and code."""
        command = [
            *self._tools.commands.attach,
            verb,
            self.name,
            *options,
            *("--runtime", self._tools.paths.volume(self.name)),
        ]
        status, output, complaint = await run_command(command, self._tools.limits.command_ms)
        if status != 0:
            sentence = complaint.splitlines()[-1] if complaint else f"the command ended with status {status}"
            message, code = split_code(sentence, Code.VSS_E_VOLUME_NOT_SUPPORTED)
            raise VssError(code, f"volume {self.name} cannot {verb}: {message}")
        return output

    async def attach(self, via: str) -> tuple[str, str]:
        """Make the block device; device and way. Errors: VssError, VSS_E_VOLUME_IN_USE when the origin is in use."""
        self.check_origin_unused()
        paths = self._tools.paths
        here = os.path.dirname(paths.by_name(self.name))
        links = () if paths.runtime == Paths.runtime else ("--links", here)
        output = await self.run_attach("attach", "--nbd", paths.nbd_socket(self.name), "--via", via, *links)
        try:
            answer = json.loads(output)
            device, used = str(answer["device"]), str(answer["via"])
        except (ValueError, KeyError, TypeError):
            raise VssError(
                Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, f"attaching volume {self.name} answered {output[:200]!r}"
            ) from None
        self._identity = device_identity(device)
        if not links:
            _link(paths.by_name(self.name), f"/dev/shadowset/{self.name}")
        return device, used

    def check_origin_unused(self) -> None:
        """Nobody may have taken the origin for himself since it was added. Errors: VSS_E_VOLUME_IN_USE."""
        check_unused(self.row.origin, is_device=bool(device_number(self.row.origin)))

    async def reattach(self, provider_started: bool) -> None:
        """After a restart of either side: reconnect the device, or make it anew when it is gone."""
        known = f"{self._tools.paths.volume(self.name)}/attach.json"
        try:
            there = os.path.exists(known) and device_number(self.row.device)
            if there and (not provider_started or await self._reconnect()):
                if self._identity is None:
                    self._identity = device_identity(self.row.device)
                if self._device_due:
                    self._device_due, self.message = False, ""
                return
            await self._tools.attached(self.name, *await self.attach(self.row.via or "auto"))
            self._device_due = False
        except VssError as error:
            self._device_due = True
            if self.message != error.message:
                self.message = error.message
                self._tools.event("attach-failed", error.message, self.name)

    async def _reconnect(self) -> bool:
        try:
            await self.run_attach("reconnect", "--nbd", self._tools.paths.nbd_socket(self.name))
        except VssError as error:
            log.warning("%s", error)
            return False
        return True


def _link(path: str, target: str) -> None:
    """It may stay: without ``target`` it leads nowhere."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.islink(path):
        os.symlink(target, path)


def _end(child: subprocess.Popen[bytes]) -> None:
    """A process that was to serve and does not."""
    try:
        child.wait(2)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(2)


def _reason(log_file: str) -> str:
    """What the program itself said, without its name; the other process may have said something after it."""
    try:
        with open(log_file, errors="replace") as file:
            lines = [line for line in file.read()[-4096:].splitlines() if line.startswith("shadowset-provider: ")]
    except OSError:
        lines = []
    return lines[-1].partition(": ")[2] if lines else f"see {log_file}"
