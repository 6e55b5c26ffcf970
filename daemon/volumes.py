"""The table of protected volumes: adding, attaching, detaching, removing, and finding the one that is meant."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

from shadowset.daemon.catalogue import Catalogue, VolumeRow
from shadowset.daemon.commands import Commands
from shadowset.daemon.control_link import ControlLink
from shadowset.daemon.left_serving import left_serving, was_attached
from shadowset.daemon.limits import Limits
from shadowset.daemon.mounts import device_family, device_number, device_of_path, mounts_of, read_mounts
from shadowset.daemon.process import despite_cancel, in_thread
from shadowset.daemon.quiet import Quiet
from shadowset.daemon.readers import readers_of
from shadowset.daemon.volume_checks import check_name, check_nesting, check_origin, check_own_files, check_storage
from shadowset.daemon.volume_runtime import Tools, VolumeRuntime
from shadowset.vss.codes import Code, VssError
from shadowset.vss.mountinfo import Mount
from shadowset.vss.paths import Paths
from shadowset.vss.provider import VolumeFacts
from shadowset.vss.provider_protocol import VolumeDescription
from shadowset.vss.requester_protocol import StorageInfo, StorageMoveStatus, VolumeHandover, VolumeInfo

log = logging.getLogger(__name__)

START_WAIT_S = 15.0
LOOK_S = 3.0
MOST_NAMED = 5
VIAS = ("auto", "nbd", "fuse")


class Volumes:
    """All protected volumes. ``reconcile`` is told each time a provider is found or started."""

    def __init__(
        self,
        paths: Paths,
        limits: Limits,
        commands: Commands,
        catalogue: Catalogue,
        quiet: Quiet,
        event: Callable[[str, str, str], None],
    ) -> None:
        self._paths = paths
        self._limits = limits
        self._catalogue = catalogue
        self._quiet = quiet
        self._event = event
        self._changing = asyncio.Lock()
        self._table: dict[str, VolumeRuntime] = {}
        self.reconcile: Callable[[str, ControlLink, VolumeDescription], Awaitable[None]] | None = None
        self._tools = Tools(paths, limits, commands, event, self._came_online, self._reattached)

    def __len__(self) -> int:
        return len(self._table)

    async def start(self) -> None:
        """Bring up every volume of the catalogue; waits a while for the first attempts."""
        for row in self._catalogue.volumes():
            runtime = self._table[row.name] = VolumeRuntime(row, self._tools)
            runtime.supervise()
        tried = [asyncio.ensure_future(runtime.tried.wait()) for runtime in self._table.values()]
        if tried:
            await asyncio.wait(tried, timeout=START_WAIT_S)
        for task in tried:
            task.cancel()

    async def leave(self) -> None:
        """The daemon ends; the providers go on."""
        await asyncio.gather(*(runtime.leave() for runtime in self._table.values()))

    def rows(self) -> list[VolumeRow]:
        """All volumes as the catalogue has them."""
        return [runtime.row for runtime in self._table.values()]

    def get(self, name: str) -> VolumeRuntime:
        """Errors: VSS_E_OBJECT_NOT_FOUND."""
        try:
            return self._table[name]
        except KeyError:
            known = ", ".join(sorted(self._table)) or "there is none yet"
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no volume {name[:200]!r} (known: {known})") from None

    def link_of(self, name: str) -> ControlLink:
        """A volume's control connection. Errors: VssError while its provider is away."""
        return self.get(name).online()

    def resolve(self, text: str) -> VolumeRuntime:
        """The volume that a name, a device or a path on it means. Errors: VSS_E_VOLUME_NOT_SUPPORTED, not found."""
        if not text.startswith("/"):
            return self.get(text)
        if not os.path.exists(text):
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{text} does not exist, so it is on no volume")
        number = device_number(text) or device_of_path(text)
        for runtime in self._table.values():
            if runtime.device and number in device_family(device_number(runtime.device)):
                return runtime
            if os.path.realpath(text) == os.path.realpath(runtime.row.origin):
                return runtime
        raise VssError(
            Code.VSS_E_VOLUME_NOT_SUPPORTED,
            f"{text} is not on a protected volume; protect its device with 'shadowset volume add' and mount it through "
            f"the volume's own device",
        )

    def check_set(self, chosen: list[VolumeFacts]) -> None:
        """Whether these can be frozen together. Errors: VSS_E_NESTED_VOLUME_LIMIT, E_INVALIDARG."""
        check_nesting(chosen)
        self._check_own_files()

    def _check_own_files(self) -> None:
        places = {"the state directory": self._paths.state, "the runtime directory": self._paths.runtime}
        check_own_files(places, self.rows())

    def mount_points(self, name: str) -> list[str]:
        """Where the volume's file systems are mounted."""
        return [mount.path for mount in self.mounts(name)]

    def mounts(self, name: str) -> list[Mount]:
        """The mounts of the volume's file systems."""
        return mounts_of(self.get(name).device)

    async def info(self, name: str) -> VolumeInfo:
        """The volume as the protocol reports it."""
        runtime = self.get(name)
        row = runtime.row
        silence = ""
        try:
            await runtime.describe()
        except VssError as error:  # what it said last is still worth showing
            silence = error.message if runtime.state == "online" else ""
        told = runtime.description
        live = runtime.state == "online"
        trouble = self._device_trouble(runtime) if live else ""
        return VolumeInfo(
            name=row.name,
            origin=row.origin,
            storage=row.storage,
            size=told.size if told else 0,
            chunk_size=told.chunk_size if told else row.chunk_size,
            state="failed" if trouble else runtime.state,
            device=runtime.device,
            via=row.via if row.attached else "",
            mount_points=self.mount_points(name) if row.attached else [],
            copies=self._copies(name),
            storage_used=told.storage_used if told else 0,
            nbd_socket=self._paths.nbd_socket(name),
            pid=told.pid if told and live else 0,
            message=trouble or silence or runtime.message or (_refusal(told) if live else ""),
            version=told.version if told and live else "",
            restarts=runtime.deaths.restarts,
            last_end=runtime.deaths.cause,
        )

    def _device_trouble(self, runtime: VolumeRuntime) -> str:
        """A device that is being taken away or made just now is not in trouble."""
        return "" if self._changing.locked() else runtime.device_trouble

    def look_after_device(self, name: str) -> None:
        """Tell of a device that has died, once."""
        if not self._changing.locked():
            self.get(name).look_after_device()

    async def mend_device(self, name: str) -> None:
        """Connect a device again that has lost its connection; not while a volume is being changed."""
        if not self._changing.locked():
            async with self._changing:
                await self.get(name).mend_device()

    async def storages(self) -> list[StorageInfo]:
        """All of them; where a provider is away, as it said last, or with nothing but the place known."""
        found = []
        for name in sorted(self._table):
            try:
                found.append(await self.storage(name))
            except VssError:
                runtime = self.get(name)
                unknown = StorageInfo(name, runtime.row.storage, 0, 0, 0, "", 0, self._copies(name))
                found.append(self._storage_info(name, runtime.description) if runtime.description else unknown)
        return found

    async def list(self) -> list[VolumeInfo]:
        """All volumes."""
        return list(await asyncio.gather(*(self.info(name) for name in sorted(self._table))))

    async def storage(self, name: str) -> StorageInfo:
        """The volume's shadow storage now. Errors: VSS_E_OBJECT_NOT_FOUND; VssError while its provider is away."""
        return self._storage_info(name, await self.get(name).describe())

    def _copies(self, name: str) -> int:
        return len(self._catalogue.snapshots(volume=name))

    async def configure_storage(
        self, name: str, max_size: int | None, policy: str | None, warn_percent: int | None
    ) -> StorageInfo:
        """Other limits, where not None; durable when this returns. Errors: as ``storage``; E_INVALIDARG."""
        told = await self.link_of(name).configure(max_size, policy, warn_percent)
        limit = f"{told.max_size} bytes" if told.max_size else "unlimited"
        sentence = f"shadow storage of volume {name}: maximum {limit}, {told.policy}, warns at {told.warn_percent} %"
        await self._quiet.writable()
        self._event("storage-configured", sentence, name)
        return self._storage_info(name, told)

    async def move_storage(self, name: str, storage: str) -> StorageMoveStatus:
        """Start to move the volume's shadow storage. Errors: of ``check_storage``, of the provider's call move."""
        async with self._changing:
            place = check_storage(storage, name, self.rows())
            info = await self.link_of(name).move(place)
        return StorageMoveStatus(name, info.phase, info.storage, info.done, info.total, info.reason)

    async def note_storage(self, name: str, told: VolumeDescription) -> bool:
        """Take the place that the provider tells into the catalogue; True when it is another one."""
        if told.storage == self.get(name).row.storage:
            return False
        async with self._changing:
            runtime = self.get(name)
            log.info("the shadow storage of volume %s is in %s now", name, told.storage)
            await self._store(runtime, replace(runtime.row, storage=told.storage))
        return True

    def _storage_info(self, name: str, told: VolumeDescription) -> StorageInfo:
        return StorageInfo(
            volume=name,
            storage=told.storage,
            used=told.storage_used,
            available=told.storage_available,
            max_size=told.max_size,
            policy=told.policy,
            warn_percent=told.warn_percent,
            copies=self._copies(name),
            writes_refused=told.writes_refused,
        )

    # ---- changes ----

    async def add(
        self, name: str, origin: str, storage: str, chunk_size: int, max_copies: int | None = None
    ) -> VolumeInfo:
        """Protect a volume and start its provider, or go on with one that was left. ``max_copies`` is for new storage.

        Errors: VssError saying why not.
        """
        async with self._changing:
            check_name(name)
            rows = self.rows()
            if name in self._table:
                raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"there is already a volume {name!r}")
            left = await left_serving(self._paths, name, origin, storage, self._limits.provider_ms)
            check_origin(origin, rows, ours=left)
            row = VolumeRow(name, os.path.abspath(origin), check_storage(storage, name, rows), chunk_size)
            await self._quiet.writable()
            os.makedirs(row.storage, mode=0o700, exist_ok=True)
            await despite_cancel(self._add(row, max_copies))
            if left and was_attached(self._paths, name):
                await self._find_device(self.get(name))
        await self._meet(name)
        return await self.info(name)

    async def _find_device(self, runtime: VolumeRuntime) -> None:
        """Attaching what is attached gives the same device."""
        try:
            await despite_cancel(self._attach(runtime, "auto"))
        except VssError as error:
            self._event("attach-failed", error.message, runtime.name)

    async def _meet(self, name: str) -> None:
        """The storage may have copies of an earlier time; what fails now is done in the next round."""
        runtime = self.get(name)
        try:
            link, told = runtime.online(), await runtime.describe()
            await self._came_online(name, link, told)
        except VssError as error:
            log.warning("%s", error)

    async def _add(self, row: VolumeRow, max_copies: int | None) -> None:
        runtime = VolumeRuntime(row, self._tools, max_copies)
        try:
            await runtime.bring_up()
        except VssError:
            await runtime.stop()
            raise
        await self._quiet.writable()
        self._catalogue.put_volume(row)
        self._table[row.name] = runtime
        runtime.supervise()
        self._event("volume-added", f"volume {row.name} protects {row.origin}, shadow storage {row.storage}", row.name)

    async def attach(self, name: str, via: str) -> VolumeInfo:
        """Make the block device of the live volume. Errors: VssError."""
        if via not in VIAS:
            raise VssError(Code.E_INVALIDARG, f"{via[:40]!r} is no way to attach; choose one of {', '.join(VIAS)}")
        async with self._changing:
            runtime = self.get(name)
            told = await runtime.describe()
            if told.revert:
                raise VssError(
                    Code.VSS_E_REVERT_IN_PROGRESS,
                    f"volume {name} is being reverted to shadow copy {told.revert.copy_id}; attach it after that",
                )
            if runtime.device_trouble:
                raise VssError(Code.VSS_E_BAD_STATE, runtime.device_trouble)
            if not device_number(runtime.device):
                await despite_cancel(self._attach(runtime, via))
        return await self.info(name)

    async def _attach(self, runtime: VolumeRuntime, via: str) -> None:
        device, used = await runtime.attach(via)
        await self._reattached(runtime.name, device, used)
        self._event("volume-attached", f"volume {runtime.name} is {device} ({used})", runtime.name)

    async def _reattached(self, name: str, device: str, via: str) -> None:
        runtime = self.get(name)
        await self._store(runtime, replace(runtime.row, attached=True, device=device, via=via))
        try:
            self._check_own_files()
        except VssError as error:
            self._event("recursion", error.message, name)

    async def detach(self, name: str) -> VolumeInfo:
        """Take the block device away. Errors: VSS_E_VOLUME_IN_USE while mounted."""
        async with self._changing:
            await self._detach(self.get(name))
        return await self.info(name)

    async def _detach(self, runtime: VolumeRuntime) -> None:
        row = runtime.row
        if not row.attached:
            return
        mounted = [mount.path for mount in mounts_of(runtime.device, read_mounts())]
        if mounted:
            users = await _users(mounted[0])
            by = f", used by {', '.join(users[:MOST_NAMED])}" if users else ""
            message = f"volume {row.name} is mounted at {', '.join(mounted)}{by}; unmount it before detaching"
            raise VssError(Code.VSS_E_VOLUME_IN_USE, message)
        await despite_cancel(self._detach_now(runtime))

    async def _detach_now(self, runtime: VolumeRuntime) -> None:
        await runtime.run_attach("detach")
        await self._store(runtime, replace(runtime.row, attached=False, device="", via=""))
        self._event("volume-detached", f"volume {runtime.name} has no device any more", runtime.name)

    async def resize(self, name: str) -> VolumeInfo:
        """Take in what the origin has gained, the device as well. Errors: VSS_E_VOLUME_NOT_SUPPORTED when it shrank,
        VSS_E_BAD_STATE while writes are held, VSS_E_REVERT_IN_PROGRESS; repeated, it does what is left."""
        async with self._changing:
            await despite_cancel(self._resize(self.get(name)))
        return await self.info(name)

    async def _resize(self, runtime: VolumeRuntime) -> None:
        before = (await runtime.describe()).size
        told = await runtime.online().resize()
        if runtime.row.attached:
            await runtime.run_attach("resize")
        if told.size != before:
            await self._quiet.writable()
            sentence = f"volume {runtime.name} has grown from {before} to {told.size} bytes"
            self._event("volume-resized", sentence, runtime.name)

    async def hand_over(self, name: str) -> VolumeHandover:
        """Another process serves from now on. Errors: VssError, and the one that served goes on."""
        async with self._changing:
            runtime = self.get(name)
            before = runtime.description.version if runtime.description else ""
            told = await despite_cancel(runtime.hand_over())
            device_ms = await despite_cancel(runtime.hand_over_device())
        return VolumeHandover(name, told.pid, told.version, before, told.stall_ms, device_ms)

    async def remove(self, name: str, force: bool) -> None:
        """Stop protecting a volume whose copies are gone. Errors: VSS_E_VOLUME_IN_USE while attached, unless forced.

        The shadow storage directory stays; force detaches, but never unmounts.
        """
        async with self._changing:
            runtime = self.get(name)
            if runtime.row.attached and not force:
                raise VssError(
                    Code.VSS_E_VOLUME_IN_USE,
                    f"volume {name} is attached as {runtime.row.device}; detach it first, or force it ('--force')",
                )
            await self._detach(runtime)
            await despite_cancel(self._remove(runtime))

    async def _remove(self, runtime: VolumeRuntime) -> None:
        await runtime.stop()
        await self._quiet.writable()
        self._catalogue.remove_volume(runtime.name)
        del self._table[runtime.name]
        self._event("volume-removed", f"volume {runtime.name} is no longer protected", runtime.name)

    async def _store(self, runtime: VolumeRuntime, row: VolumeRow) -> None:
        await self._quiet.writable()
        self._catalogue.put_volume(row)
        runtime.row = row

    async def _came_online(self, name: str, link: ControlLink, description: VolumeDescription) -> None:
        if self.reconcile:
            await self.reconcile(name, link, description)


async def _users(place: str) -> list[str]:
    """Processes that use a file system, as far as that is known soon: its device may hang."""
    try:
        return await asyncio.wait_for(in_thread(lambda: readers_of(place)), LOOK_S)
    except (OSError, TimeoutError):
        return []


def _refusal(told: VolumeDescription | None) -> str:
    return f"writes fail: {told.writes_refused}" if told and told.writes_refused else ""


def move_status(volume: str, told: VolumeDescription) -> StorageMoveStatus:
    """How far a move of the storage is; where the storage is when there is none."""
    move = told.move
    if move is None:
        return StorageMoveStatus(volume, "none", told.storage)
    return StorageMoveStatus(volume, move.phase, move.storage, move.done, move.total, move.reason)
