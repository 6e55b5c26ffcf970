"""The coordinator: its parts put together, started in the order that is safe after a crash, and stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from shadowset.daemon.access import Access, Role
from shadowset.daemon.actor import author
from shadowset.daemon.catalogue import Catalogue
from shadowset.daemon.clock import now
from shadowset.daemon.commands import Commands
from shadowset.daemon.copy_devices import CopyDevices
from shadowset.daemon.creation import CreationQueue
from shadowset.daemon.device_layer import DeviceLayer
from shadowset.daemon.express import ExpressWriters
from shadowset.daemon.guardian_link import thaw_leftovers
from shadowset.daemon.host import Host
from shadowset.daemon.house import House
from shadowset.daemon.journal import event_fields, event_level
from shadowset.daemon.layers import clear_all
from shadowset.daemon.limits import Limits
from shadowset.daemon.nbd import NbdProvider
from shadowset.daemon.objects import last_number
from shadowset.daemon.providers import Providers
from shadowset.daemon.quiet import Quiet
from shadowset.daemon.registry import Registry
from shadowset.daemon.requester_session import RequesterSession
from shadowset.daemon.scratch import ScratchCopies
from shadowset.daemon.server import Connection, Listener, Peer
from shadowset.daemon.service_calls import ServiceCalls
from shadowset.daemon.snapshots import Snapshots
from shadowset.daemon.volume_checks import check_own_files
from shadowset.daemon.volumes import Volumes
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import VssError, code_name
from shadowset.vss.paths import Paths
from shadowset.vss.wire import FrameError
from shadowset.vss.writer_protocol import FromWriter, Refused

log = logging.getLogger(__name__)

LOOK_AFTER_S = 10.0
GREETING_S = 1.0
REFUSALS_EVERY_S = 3600.0
Sockets = Mapping[str, socket.socket]
CHANGES_OF_COPIES = (
    "set-created",
    "snapshot-found",
    "snapshot-deleted",
    "snapshot-undeleted",
    "snapshot-lost",
    "volume-added",
    "volume-removed",
)


class Coordinator:
    """One per host; the caller holds the lock that says so."""

    def __init__(
        self,
        paths: Paths,
        limits: Limits,
        commands: Commands,
        quiet: Quiet,
        access: Access,
        sockets: Sockets = MappingProxyType({}),
    ) -> None:
        """Opens the catalogue. ``sockets``: inherited ones by their paths. Errors: VssError."""
        self._activated = bool(sockets)
        self._paths = paths
        self._access = access
        for_all = bool(access.rules)
        catalogue = Catalogue(paths.catalogue)
        volumes = Volumes(paths, limits, commands, catalogue, quiet, self._volume_event)
        self.house = House(
            paths=paths,
            host=Host(paths),
            limits=limits,
            quiet=quiet,
            catalogue=catalogue,
            registry=Registry(limits, ExpressWriters(paths.express_writers, self._event).links, catalogue.frozen_ms),
            volumes=volumes,
            providers=Providers(
                paths, catalogue, NbdProvider(paths, volumes, commands, catalogue.attributes_of), self._volume_event
            ),
            event=self._event,
            scratch=ScratchCopies(paths, commands),
            copy_devices=CopyDevices(paths, commands, limits.command_ms),
            creation=CreationQueue(limits.sets_at_once),
        )
        self._snapshots = Snapshots(self.house)
        volumes.reconcile = self._snapshots.came_online
        self._service = ServiceCalls(self.house, self._snapshots)
        self._devices = DeviceLayer(paths, commands, self._event)
        self._background: set[asyncio.Task[None]] = set()
        self._refused: dict[tuple[int, Role], float] = {}
        self._requesters: Listener[rp.Call] = Listener(
            paths.requester_socket,
            rp.ToCoordinator,
            self._serve_requester,
            _refuse_requester,
            for_all,
            sockets.get(paths.requester_socket),
        )
        self._writers: Listener[FromWriter] = Listener(
            paths.writer_socket,
            FromWriter,
            self._serve_writer,
            _refuse_writer,
            for_all,
            sockets.get(paths.writer_socket),
        )

    async def start(self) -> None:
        """Thaw what may be frozen first, then bring back what was there. Errors: VssError."""
        for sentence in thaw_leftovers(self._paths.frozen):
            self._event("thawed-leftover", sentence)
        await clear_all(self._paths, self.house.limits.command_ms)
        self.house.catalogue.skip_device_numbers(last_number(self._paths))
        await self._snapshots.clean_up(self._rebooted())
        await self.house.volumes.start()
        check_own_files({"the state directory": self._paths.state}, self.house.volumes.rows())
        await self.house.providers.start()
        for provider in self.house.providers:
            if provider is not self.house.providers.builtin:
                await self._snapshots.look_after_one(provider)
        self._devices.start()
        await self._writers.start()
        await self._requesters.start()
        self._run_in_background(self._look_after())
        self._run_in_background(self._show_previous())

    async def stop(self) -> None:
        """End all sessions; providers and device objects go on."""
        await self._requesters.stop()
        await self._writers.stop()
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._snapshots.releases.stop()
        await self._devices.leave()
        await self.house.providers.stop()
        await self.house.volumes.leave()
        self.house.catalogue.close()

    async def _serve_requester(self, connection: Connection[rp.Call]) -> None:
        await self._admit(connection, Role.REQUESTER)
        may_delete = self._access.may_delete(connection.peer)
        await RequesterSession(self.house, self._service, connection, may_delete).run()

    async def _serve_writer(self, connection: Connection[FromWriter]) -> None:
        await self._admit(connection, Role.WRITER)
        await self.house.registry.serve(connection)

    async def _admit(self, connection: Connection[Any], role: Role) -> None:
        """Errors: E_ACCESSDENIED, after the greeting: a client that could not send it would not read why."""
        try:
            self._access.check(connection.peer, role)
        except VssError as error:
            self._note_refusal(connection.peer, role, error)
            try:
                await asyncio.wait_for(connection.receive(), GREETING_S)
            except (TimeoutError, FrameError):
                pass
            raise

    def _note_refusal(self, peer: Peer, role: Role, error: VssError) -> None:
        """Once an hour for each user and role: a unit that is started again and again would fill the list."""
        last = self._refused.get((peer.uid, role), -REFUSALS_EVERY_S)
        if now() - last >= REFUSALS_EVERY_S:
            self._refused[peer.uid, role] = now()
            self._event("access-denied", f"{error.message}; it was process {peer.pid} {peer.executable}")

    async def until_idle(self) -> None:
        """Return when nobody has been connected for ``exit_idle_ms``; never, unless a socket would start us again.

        An attached volume keeps us: somebody must be there to restart its provider.
        """
        limit = self.house.limits.exit_idle_ms / 1000
        idle_since = now()
        while not (self._activated and limit and now() - idle_since >= limit):
            await asyncio.sleep(min(1.0, limit / 4) if limit else LOOK_AFTER_S)
            if self._needed():
                idle_since = now()

    def _needed(self) -> bool:
        attached = any(row.attached for row in self.house.volumes.rows())
        clients = not (self._requesters.idle and self._writers.idle)
        under_way = self.house.creation.busy or self.house.quiet.active or self._snapshots.releases.busy
        return clients or attached or under_way or bool(self.house.sessions)

    def _rebooted(self) -> bool:
        with open("/proc/sys/kernel/random/boot_id") as file:
            now = file.read().strip()
        before = self.house.catalogue.setting("boot_id")
        self.house.catalogue.set_setting("boot_id", now)
        return before not in ("", now)

    async def _look_after(self) -> None:
        """Where a provider sends word at once, else after some seconds."""
        due = now() + LOOK_AFTER_S
        while True:
            heard = await self._snapshots.heard(max(0.0, due - now()))
            await self.house.quiet.writable()
            try:
                for volume in heard:
                    await self._snapshots.look_after_volume(volume)
                if now() >= due:
                    due = now() + LOOK_AFTER_S
                    await self._snapshots.look_after()
            except Exception:
                log.exception("looking after the volumes failed")

    def _volume_event(self, name: str, message: str, volume: str) -> None:
        self._event(name, message, volume)

    def _event(self, name: str, message: str, volume: str = "", set_id: str = "") -> None:
        by = author(name)
        extra = {"journal": event_fields(name, volume, set_id, by)}
        log.log(event_level(name), "%s: %s%s", name, message, by and f" (by {by})", extra=extra)
        if name in CHANGES_OF_COPIES:
            self._run_in_background(self._show_previous())
        if self.house.quiet.active:
            self._run_in_background(self._late_event(name, message, volume, set_id, time.time_ns(), by))
        else:
            self.house.catalogue.add_event(name, message, volume, set_id, actor=by)

    async def _show_previous(self) -> None:
        await self.house.quiet.writable()
        await self._snapshots.previous.sync()

    async def _late_event(
        self, name: str, message: str, volume: str, set_id: str, time_ns: int, actor: str = ""
    ) -> None:
        await self.house.quiet.writable()
        self.house.catalogue.add_event(name, message, volume, set_id, time_ns, actor)

    def _run_in_background(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _refuse_requester(code: int, message: str) -> rp.CallFailure:
    return rp.CallFailure(0, int(code), code_name(code), message)


def _refuse_writer(code: int, message: str) -> Refused:
    return Refused(int(code), code_name(code), message)


def make_directories(paths: Paths) -> None:
    """Errors: OSError."""
    for directory in (paths.state, paths.storage):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    for directory in (paths.runtime, paths.objects, paths.mounts, f"{paths.runtime}/volumes"):
        os.makedirs(directory, mode=0o755, exist_ok=True)
