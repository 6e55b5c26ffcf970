"""Shadow copies where people find them: mounted, with all of a set below one directory, and as block devices."""

from __future__ import annotations

import asyncio

import msgspec

from shadowset.daemon.catalogue import VolumeRow
from shadowset.daemon.expose import Exposer, is_dead, is_mount_point, is_mounted, logical_sector_size
from shadowset.daemon.house import House
from shadowset.daemon.mounts import read_mounts
from shadowset.daemon.one_root import Tree, Trees, is_ours, parts_of
from shadowset.daemon.process import despite_cancel
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Attribute
from shadowset.vss.requester_protocol import SnapshotProperties


class Exposures:
    """The operations on mounts and devices of copies; ``changing`` is held by whoever changes anything about a copy."""

    def __init__(self, house: House, changing: asyncio.Lock) -> None:
        self._house = house
        self._changing = changing
        self.exposer = Exposer(house.paths, house.limits, house.scratch)
        self._trees = Trees(house.catalogue, house.limits.command_ms)

    async def expose(self, snapshot_id: str, path: str) -> str:
        """Mount a copy; the mount point. Errors: VSS_E_OBJECT_ALREADY_EXISTS when it is exposed, and mounting's."""
        async with self._changing:
            await self.notice()
            copy = self._house.catalogue.snapshot(snapshot_id)
            if copy.exposed_name:
                raise VssError(
                    Code.VSS_E_OBJECT_ALREADY_EXISTS,
                    f"shadow copy {snapshot_id} is already mounted at {copy.exposed_name}; unmount it first "
                    "('shadowset umount')",
                )
            return await despite_cancel(self._expose(copy, path))

    async def _expose(self, copy: SnapshotProperties, path: str) -> str:
        """It is recorded first, so that whoever comes after a crash looks there."""
        place = self.exposer.place(copy.snapshot_id, path)
        await self._store_exposed(copy, place)
        try:
            await self.exposer.mount(copy, place, self.row_of(copy))
        except BaseException:
            await self.exposer.unmount(place, lazy=True)
            await self._store_exposed(copy, "")
            raise
        return place

    def row_of(self, copy: SnapshotProperties) -> VolumeRow | None:
        """The protected volume that it is a copy of, if it is of one."""
        if copy.provider_id != self._house.providers.builtin.info.provider_id:
            return None
        return self._house.volumes.get(copy.original_volume).row

    async def unexpose(self, snapshot_id: str) -> None:
        """Unmount a copy. Errors: VSS_E_BAD_STATE when it is not exposed, VSS_E_VOLUME_IN_USE."""
        async with self._changing:
            await self.notice(but=snapshot_id)
            copy = self._house.catalogue.snapshot(snapshot_id)
            if not copy.exposed_name:
                message = f"shadow copy {snapshot_id} is not mounted; 'shadowset list' shows which are"
                raise VssError(Code.VSS_E_BAD_STATE, message)
            tree = self._trees.of(copy.snapshot_set_id)
            if tree and snapshot_id in tree.exposed:
                message = f"shadow copy {snapshot_id} is mounted with the others of its set; unmount all of them"
                raise VssError(Code.VSS_E_VOLUME_IN_USE, f"{message} ('shadowset umount {tree.root}')")
            await despite_cancel(self._unexpose(copy))

    async def _unexpose(self, copy: SnapshotProperties) -> None:
        await self._unmount(copy, lazy=False)

    async def _unmount(self, copy: SnapshotProperties, lazy: bool) -> None:
        """What somebody else has mounted in its place stays."""
        if is_mounted(copy, read_mounts()) or not is_mount_point(copy.exposed_name):
            await self.exposer.unmount(copy.exposed_name, lazy)
        await self._store_exposed(copy, "")

    async def expose_set(self, set_id: str, root: str) -> dict[str, str]:
        """Mount all copies of a set below one directory; which copy is where.

        Errors: VSS_E_OBJECT_NOT_FOUND, VSS_E_OBJECT_ALREADY_EXISTS, E_INVALIDARG, and mounting's.
        """
        async with self._changing:
            await self.notice()
            copies = self._house.catalogue.snapshots(set_id=set_id) if set_id else []
            if not copies:
                raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no shadow copy in a set {set_id[:80]!r}")
            return await despite_cancel(self._expose_set(set_id, root, copies))

    async def _expose_set(self, set_id: str, root: str, copies: list[SnapshotProperties]) -> dict[str, str]:
        tree, parts, places = Tree(self._trees.check_root(set_id, root)), parts_of(copies), {}
        try:
            for copy in (each for each in copies if each.mount_points):
                if not copy.exposed_name:
                    tree.exposed.append(copy.snapshot_id)
                places[copy.snapshot_id] = copy.exposed_name or await self._expose(copy, "")
            await self._house.quiet.writable()
            return await self._trees.mount(set_id, tree, parts, places)
        except BaseException:
            await self._unexpose_all(tree.exposed, lazy=True)
            raise

    async def unexpose_set(self, where: str) -> None:
        """Unmount what ``expose_set`` has mounted, named by the set or its directory.

        Errors: VSS_E_BAD_STATE when there is nothing; VSS_E_VOLUME_IN_USE, and what was not unmounted stays.
        """
        async with self._changing:
            await self.notice(but=where)
            sets = {copy.snapshot_set_id for copy in self._house.catalogue.snapshots()}
            found = [each for each in sets if (tree := self._trees.of(each)) and where in (each, tree.root)]
            if not found:
                message = f"no shadow copy set is mounted at {where[:200]!r}; name the directory it was mounted below"
                raise VssError(Code.VSS_E_BAD_STATE, message)
            await despite_cancel(self._unexpose_set(found[0], lazy=False))

    async def _unexpose_set(self, set_id: str, lazy: bool) -> None:
        await self._house.quiet.writable()
        tree = await self._trees.unmount(set_id, lazy)
        await self._unexpose_all(tree.exposed if tree else [], lazy)

    async def _unexpose_all(self, snapshot_ids: list[str], lazy: bool) -> None:
        for snapshot_id in snapshot_ids:
            for copy in self._house.catalogue.snapshots(snapshot_id=snapshot_id):
                if copy.exposed_name:
                    await self._unmount(copy, lazy)

    async def take_away(self, copy: SnapshotProperties) -> None:
        """Whoever reads files of it goes on with what is open; nobody finds it any more."""
        await self._house.copy_devices.detach(copy, force=True)
        if self._trees.of(copy.snapshot_set_id):
            await self._unexpose_set(copy.snapshot_set_id, lazy=True)
        if copy.exposed_name:
            await self._unexpose_all([copy.snapshot_id], lazy=True)

    async def attach(self, snapshot_id: str, via: str) -> str:
        """A read-only block device of a copy. Errors: as ``CopyDevices.attach``."""
        async with self._changing:
            copy = self._house.catalogue.snapshot(snapshot_id)
            row = self.row_of(copy)
            sector_size = logical_sector_size(row.origin) if row else 512
            work = self._house.copy_devices.attach(copy, row, sector_size, via)
            return await despite_cancel(work)

    async def detach(self, snapshot_id: str) -> None:
        """Errors: VSS_E_BAD_STATE when there is no device, VSS_E_VOLUME_IN_USE."""
        async with self._changing:
            if not await despite_cancel(self._house.copy_devices.detach(self._house.catalogue.snapshot(snapshot_id))):
                message = f"shadow copy {snapshot_id} is no block device, so there is none to take away"
                raise VssError(Code.VSS_E_BAD_STATE, message)

    async def mend(self) -> None:
        """Copies whose device objects have died under their mounts are mounted once more, in the same places."""
        async with self._changing:
            await self.notice()
            mounted = {mount.path: mount for mount in read_mounts()}
            for copy in self._house.catalogue.snapshots():
                if copy.exposed_name and is_dead(copy, mounted.get(copy.exposed_name)):
                    await despite_cancel(self._expose_again(copy))
                    mounted = {mount.path: mount for mount in read_mounts()}

    async def _expose_again(self, copy: SnapshotProperties) -> None:
        place, set_id = copy.exposed_name, copy.snapshot_set_id
        tree = self._trees.of(set_id)
        await self.take_away(copy)
        try:
            if tree and copy.snapshot_id in tree.exposed:
                await self._expose_set(set_id, tree.root, self._house.catalogue.snapshots(set_id=set_id))
            else:
                own = place.startswith(f"{self._house.paths.mounts}/")
                await self._expose(self._house.catalogue.snapshot(copy.snapshot_id), "" if own else place)
            what = f"is mounted at {place} again, because its device object had died"
            self._house.event_of("exposed-again", copy, what)
        except VssError as error:
            self._house.event_of("expose-lost", copy, f"is no longer mounted at {place}: {error.message}")

    async def _store_exposed(self, copy: SnapshotProperties, place: str) -> None:
        attributes = copy.attributes & ~Attribute.EXPOSED_LOCALLY
        changed = msgspec.structs.replace(
            copy, exposed_name=place, attributes=attributes | (Attribute.EXPOSED_LOCALLY if place else 0)
        )
        await self._house.quiet.writable()
        self._house.catalogue.update_snapshot(changed)

    async def conceal(self, copy: SnapshotProperties) -> None:
        """Nobody finds it mounted or as a device any more. Errors: VSS_E_VOLUME_IN_USE."""
        await self._house.copy_devices.detach(copy)
        if self._trees.of(copy.snapshot_set_id):
            await self.unexpose_set(copy.snapshot_set_id)
        if self._house.catalogue.snapshot(copy.snapshot_id).exposed_name:
            await self.unexpose(copy.snapshot_id)

    def as_mounted(self, copies: list[SnapshotProperties]) -> list[SnapshotProperties]:
        """The same copies, with those as not exposed that somebody has unmounted by hand."""
        mounts = read_mounts()
        return [
            msgspec.structs.replace(copy, exposed_name="", attributes=copy.attributes & ~Attribute.EXPOSED_LOCALLY)
            if copy.exposed_name and not is_mounted(copy, mounts)
            else copy
            for copy in copies
        ]

    async def notice(self, but: str = "") -> None:
        """Record what was unmounted by hand, but for what is unmounted next anyway; ``changing`` is held."""
        copies, mounts = self._house.catalogue.snapshots(), read_mounts()
        for copy in copies:
            if copy.exposed_name and not is_mounted(copy, mounts) and copy.snapshot_id != but:
                await despite_cancel(self._unmount(copy, lazy=True))
        for set_id in {copy.snapshot_set_id for copy in copies}:
            tree = self._trees.of(set_id)
            if tree and but not in (set_id, tree.root) and not any(is_ours(point) for point in tree.points):
                await despite_cancel(self._unexpose_set(set_id, lazy=True))

    async def correct(self) -> None:
        """After a restart: devices of copies that are no more go, and what is not mounted any more is recorded so."""
        await self._house.copy_devices.keep_only(self._house.catalogue.snapshots())
        for set_id in {copy.snapshot_set_id for copy in self._house.catalogue.snapshots()}:
            self._trees.prune(set_id)
        for copy in self._house.catalogue.snapshots():
            if copy.exposed_name and not is_mounted(copy, read_mounts()):
                await self._unmount(copy, lazy=True)
