"""Shadow copies that exist: finding, deleting, exposing, and keeping catalogue and providers in agreement."""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from shadowset.daemon.aside import Aside
from shadowset.daemon.catalogue import VolumeRow
from shadowset.daemon.control_link import ControlLink
from shadowset.daemon.expose import Exposer, is_dead, is_mount_point, logical_sector_size
from shadowset.daemon.house import House
from shadowset.daemon.mounts import read_mounts
from shadowset.daemon.one_root import Tree, Trees, parts_of
from shadowset.daemon.previous import PreviousVersions
from shadowset.daemon.process import despite_cancel
from shadowset.daemon.provider_events import take_over
from shadowset.daemon.release import Releases
from shadowset.daemon.revert import refuse_reverting
from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Attribute, ObjectType
from shadowset.vss.provider import Provider
from shadowset.vss.provider_protocol import CopyInfo, VolumeDescription
from shadowset.vss.requester_protocol import DeleteResult, SnapshotProperties

log = logging.getLogger(__name__)


def refuse_held(copy: SnapshotProperties) -> None:
    """Errors: VSS_E_BAD_STATE while the copy is held; force does not help, since a hold guards against just that."""
    if copy.hold_until_ns > time.time_ns():
        raise VssError(
            Code.VSS_E_BAD_STATE,
            f"shadow copy {copy.snapshot_id} {_hold(copy)}; end its hold first",
        )


def _hold(copy: SnapshotProperties) -> str:
    if not copy.hold_until_ns:
        return "is not held"
    return time.strftime("is held until %Y-%m-%dT%H:%M:%SZ", time.gmtime(copy.hold_until_ns // 10**9))


class Snapshots:
    """The operations on existing copies."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._exposer = Exposer(house.paths, house.limits, house.scratch)
        self.previous = PreviousVersions(
            house.paths,
            self._exposer,
            lambda: [row.name for row in house.catalogue.volumes()],
            house.catalogue.snapshots,
            self._row,
        )
        self._trees = Trees(house.catalogue, house.limits.command_ms)
        self._changing = asyncio.Lock()
        self._away: set[str] = set()
        self.aside = Aside(house.catalogue, house.limits.deletion_grace_ms)
        self.releases = Releases(house, self._release_now, self._conceal)

    def get(self, snapshot_id: str) -> SnapshotProperties:
        """Errors: VSS_E_OBJECT_NOT_FOUND."""
        found = self._house.catalogue.snapshots(snapshot_id=snapshot_id) if snapshot_id else []
        if not found:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no shadow copy {snapshot_id[:80]!r}")
        return found[0]

    async def query(self, snapshot_id: str, set_id: str, volume: str) -> list[SnapshotProperties]:
        """Copies by id, set and volume (name, device or path); empty matches all. Errors: an unknown volume."""
        name = await self._name(volume) if volume else ""
        return self._house.catalogue.snapshots(snapshot_id, set_id, name)

    async def _name(self, volume: str) -> str:
        chosen = await self._house.providers.choose(volume)
        if chosen:
            return chosen[1].name
        away = not volume.startswith("/") and self._house.catalogue.snapshots(volume=volume)
        return volume if away else self._house.volumes.resolve(volume).name

    # ---- deleting ----

    async def delete(self, object_id: str, object_type: ObjectType, force: bool) -> DeleteResult:
        """Delete one copy or a whole set. Exposed copies only with ``force``. Errors: VSS_E_OBJECT_NOT_FOUND."""
        if object_type not in (ObjectType.SNAPSHOT, ObjectType.SNAPSHOT_SET):
            raise VssError(Code.E_INVALIDARG, "only shadow copies and shadow copy sets can be deleted")
        if object_type is ObjectType.SNAPSHOT:
            copies = [self.get(object_id)]
        else:
            copies = self._house.catalogue.snapshots(set_id=object_id) if object_id else []
            if not copies:
                raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no shadow copy in a set {object_id[:80]!r}")
        result = DeleteResult(0)
        for copy in copies:
            try:
                result.recoverable_until_ns = await self.delete_one(copy, force)
                result.deleted += 1
            except VssError as error:
                if not result.not_deleted:
                    result.not_deleted, result.message = copy.snapshot_id, error.message
        return result

    async def delete_one(self, copy: SnapshotProperties, force: bool, cause: str = "was deleted") -> int:
        """Until when it can be taken back, in Unix nanoseconds; 0 when it cannot.

        Errors: VSS_E_VOLUME_IN_USE for an exposed copy without ``force``; VSS_E_BAD_STATE for one that is held.
        """
        async with self._changing:
            refuse_held(copy)
            refuse_reverting(self._house, copy)
            if copy.exposed_name and not force:
                raise VssError(
                    Code.VSS_E_VOLUME_IN_USE,
                    f"shadow copy {copy.snapshot_id} is mounted at {copy.exposed_name}; "
                    "unmount it ('shadowset umount') or delete it with force ('--force')",
                )
            await self._house.copy_devices.detach(copy, force)
            return await despite_cancel(self._put_aside(copy) if self.aside.takes(copy) else self._delete(copy, cause))

    async def _put_aside(self, copy: SnapshotProperties) -> int:
        await self._take_away(copy)
        await self.previous.drop(copy.snapshot_id)
        await self._house.quiet.writable()
        until = self.aside.put(copy)
        how = f"'shadowset undelete {copy.snapshot_id}' takes it back for {self.aside.grace_ms // 1000} s"
        self._event("snapshot-deleted", copy, f"was deleted; {how}")
        await self._unsurface(copy)
        return until

    async def _unsurface(self, copy: SnapshotProperties) -> None:
        try:
            await self._house.providers.get(copy.provider_id).unsurface(copy)
        except VssError as error:
            log.warning("%s", error)

    async def undelete(self, snapshot_id: str) -> SnapshotProperties:
        """Take a deleted copy back. Errors: VSS_E_OBJECT_NOT_FOUND when it is too late; the provider's."""
        async with self._changing:
            copy = self.aside.find(snapshot_id)
            await self._house.providers.get(copy.provider_id).surface(copy)
            await self._house.quiet.writable()
            self._house.catalogue.take_back(snapshot_id)
        self._event("snapshot-undeleted", copy, "was taken back")
        return self.get(snapshot_id)

    async def purge(self) -> None:
        """Those whose time is over go for good."""
        await self._house.quiet.writable()
        for copy in self.aside.due():
            async with self._changing:
                if self._house.catalogue.is_aside(copy.snapshot_id):
                    await despite_cancel(self._delete(copy, "was deleted for good: its time to be taken back is over"))

    async def _delete(self, copy: SnapshotProperties, cause: str) -> int:
        await self._take_away(copy)
        await self.previous.drop(copy.snapshot_id)
        await self._house.quiet.writable()
        again = self._house.catalogue.is_aside(copy.snapshot_id)
        self._house.catalogue.mark_deleting([copy.snapshot_id])
        self._event("snapshot-purged" if again else "snapshot-deleted", copy, cause)
        try:
            provider = self._house.providers.get(copy.provider_id)
            await provider.unsurface(copy)
            await provider.delete(copy.original_volume, copy.snapshot_id)
        except VssError as error:
            if error.code != Code.VSS_E_OBJECT_NOT_FOUND:
                log.warning("%s; it is deleted when the provider is back", error)
                return 0
        await self._house.quiet.writable()
        self._house.catalogue.forget_snapshot(copy.snapshot_id)
        return 0

    async def keep(self, snapshot_id: str, priority: int | None, hold_until_ns: int | None) -> SnapshotProperties:
        """Another priority or hold, where not None; durable with the provider before the catalogue tells of it.

        Errors: VSS_E_OBJECT_NOT_FOUND, E_INVALIDARG, VSS_E_BAD_STATE for an auto-release copy; the provider's.
        """
        async with self._changing:
            copy = self.get(snapshot_id)
            if hold_until_ns and not copy.attributes & Attribute.NO_AUTO_RELEASE:
                raise VssError(
                    Code.VSS_E_BAD_STATE,
                    f"shadow copy {snapshot_id} goes with its session and cannot be held; make a persistent one",
                )
            provider = self._house.providers.get(copy.provider_id)
            await provider.keep(copy.original_volume, snapshot_id, priority, hold_until_ns)
            changed = msgspec.structs.replace(
                copy,
                priority=copy.priority if priority is None else priority,
                hold_until_ns=copy.hold_until_ns if hold_until_ns is None else hold_until_ns,
            )
            await self._house.quiet.writable()
            self._house.catalogue.update_snapshot(changed)
        self._event("snapshot-kept", copy, f"has priority {changed.priority} and {_hold(changed)}")
        return changed

    async def release_session(self, set_id: str) -> None:
        """The session that made the set has ended: its auto-release copies go, those that are read when that ends."""
        for copy in self._house.catalogue.snapshots(set_id=set_id) if set_id else []:
            if not copy.attributes & Attribute.NO_AUTO_RELEASE:
                try:
                    await self.releases.release(copy)
                except VssError as error:
                    log.warning("shadow copy %s outlives its session: %s", copy.snapshot_id, error)

    async def _release_now(self, copy: SnapshotProperties) -> None:
        await self.delete_one(copy, force=True, cause="was released with its session")

    async def _conceal(self, copy: SnapshotProperties) -> None:
        await self._house.copy_devices.detach(copy)
        if self._trees.of(copy.snapshot_set_id):
            await self.unexpose_set(copy.snapshot_set_id)
        if self.get(copy.snapshot_id).exposed_name:
            await self.unexpose(copy.snapshot_id)

    def _event(self, name: str, copy: SnapshotProperties, what: str) -> None:
        sentence = f"shadow copy {copy.snapshot_id} of volume {copy.original_volume} {what}"
        self._house.event(name, sentence, copy.original_volume, copy.snapshot_set_id)

    # ---- exposing ----

    async def expose(self, snapshot_id: str, path: str) -> str:
        """Mount a copy; the mount point. Errors: VSS_E_OBJECT_ALREADY_EXISTS when it is exposed, and mounting's."""
        async with self._changing:
            copy = self.get(snapshot_id)
            if copy.exposed_name:
                raise VssError(
                    Code.VSS_E_OBJECT_ALREADY_EXISTS,
                    f"shadow copy {snapshot_id} is already mounted at {copy.exposed_name}; unmount it first "
                    "('shadowset umount')",
                )
            return await despite_cancel(self._expose(copy, path))

    async def _expose(self, copy: SnapshotProperties, path: str) -> str:
        """It is recorded first, so that whoever comes after a crash looks there."""
        place = self._exposer.place(copy.snapshot_id, path)
        await self._store_exposed(copy, place)
        try:
            await self._exposer.mount(copy, place, self._row(copy))
        except BaseException:
            await self._exposer.unmount(place, lazy=True)
            await self._store_exposed(copy, "")
            raise
        return place

    def _row(self, copy: SnapshotProperties) -> VolumeRow | None:
        """The protected volume that it is a copy of, if it is of one."""
        if copy.provider_id != self._house.providers.builtin.info.provider_id:
            return None
        return self._house.volumes.get(copy.original_volume).row

    async def unexpose(self, snapshot_id: str) -> None:
        """Unmount a copy. Errors: VSS_E_BAD_STATE when it is not exposed, VSS_E_VOLUME_IN_USE."""
        async with self._changing:
            copy = self.get(snapshot_id)
            if not copy.exposed_name:
                raise VssError(Code.VSS_E_BAD_STATE, f"shadow copy {snapshot_id} is not exposed")
            tree = self._trees.of(copy.snapshot_set_id)
            if tree and snapshot_id in tree.exposed:
                message = f"shadow copy {snapshot_id} is mounted with the others of its set; unmount all of them"
                raise VssError(Code.VSS_E_VOLUME_IN_USE, f"{message} ('shadowset umount {tree.root}')")
            await despite_cancel(self._unexpose(copy))

    async def _unexpose(self, copy: SnapshotProperties) -> None:
        await self._exposer.unmount(copy.exposed_name, lazy=False)
        await self._store_exposed(copy, "")

    async def expose_set(self, set_id: str, root: str) -> dict[str, str]:
        """Mount all copies of a set below one directory; which copy is where.

        Errors: VSS_E_OBJECT_NOT_FOUND, VSS_E_OBJECT_ALREADY_EXISTS, E_INVALIDARG, and mounting's.
        """
        async with self._changing:
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
            sets = {copy.snapshot_set_id for copy in self._house.catalogue.snapshots()}
            found = [each for each in sets if (tree := self._trees.of(each)) and where in (each, tree.root)]
            if not found:
                raise VssError(Code.VSS_E_BAD_STATE, f"no shadow copy set is mounted as {where[:200]!r}")
            await despite_cancel(self._unexpose_set(found[0], lazy=False))

    async def _unexpose_set(self, set_id: str, lazy: bool) -> None:
        await self._house.quiet.writable()
        tree = await self._trees.unmount(set_id, lazy)
        await self._unexpose_all(tree.exposed if tree else [], lazy)

    async def _unexpose_all(self, snapshot_ids: list[str], lazy: bool) -> None:
        for snapshot_id in snapshot_ids:
            for copy in self._house.catalogue.snapshots(snapshot_id=snapshot_id):
                if copy.exposed_name:
                    await self._exposer.unmount(copy.exposed_name, lazy)
                    await self._store_exposed(copy, "")

    async def _take_away(self, copy: SnapshotProperties) -> None:
        """Whoever reads files of it goes on with what is open; nobody finds it any more."""
        await self._house.copy_devices.detach(copy, force=True)
        if self._trees.of(copy.snapshot_set_id):
            await self._unexpose_set(copy.snapshot_set_id, lazy=True)
        if copy.exposed_name:
            await self._unexpose_all([copy.snapshot_id], lazy=True)

    async def attach(self, snapshot_id: str, via: str) -> str:
        """A read-only block device of a copy. Errors: as ``CopyDevices.attach``."""
        async with self._changing:
            copy = self.get(snapshot_id)
            row = self._row(copy)
            sector_size = logical_sector_size(row.origin) if row else 512
            work = self._house.copy_devices.attach(copy, row, sector_size, via)
            return await despite_cancel(work)

    async def detach(self, snapshot_id: str) -> None:
        """Errors: VSS_E_BAD_STATE when there is no device, VSS_E_VOLUME_IN_USE."""
        async with self._changing:
            if not await despite_cancel(self._house.copy_devices.detach(self.get(snapshot_id))):
                raise VssError(Code.VSS_E_BAD_STATE, f"shadow copy {snapshot_id} is no block device")

    async def _mend(self) -> None:
        """Copies whose device objects have died under their mounts are mounted once more, in the same places."""
        async with self._changing:
            mounted = {mount.path: mount for mount in read_mounts()}
            for copy in self._house.catalogue.snapshots():
                if copy.exposed_name and is_dead(copy, mounted.get(copy.exposed_name)):
                    await despite_cancel(self._expose_again(copy))
                    mounted = {mount.path: mount for mount in read_mounts()}

    async def _expose_again(self, copy: SnapshotProperties) -> None:
        place, set_id = copy.exposed_name, copy.snapshot_set_id
        tree = self._trees.of(set_id)
        await self._take_away(copy)
        try:
            if tree and copy.snapshot_id in tree.exposed:
                await self._expose_set(set_id, tree.root, self._house.catalogue.snapshots(set_id=set_id))
            else:
                own = place.startswith(f"{self._house.paths.mounts}/")
                await self._expose(self.get(copy.snapshot_id), "" if own else place)
            self._event("exposed-again", copy, f"is mounted at {place} again, because its device object had died")
        except VssError as error:
            self._event("expose-lost", copy, f"is no longer mounted at {place}: {error.message}")

    async def _store_exposed(self, copy: SnapshotProperties, place: str) -> None:
        attributes = copy.attributes & ~Attribute.EXPOSED_LOCALLY
        changed = msgspec.structs.replace(
            copy, exposed_name=place, attributes=attributes | (Attribute.EXPOSED_LOCALLY if place else 0)
        )
        await self._house.quiet.writable()
        self._house.catalogue.update_snapshot(changed)

    # ---- agreement with the providers ----

    async def came_online(self, volume: str, link: ControlLink, told: VolumeDescription) -> None:
        """The provider process of a protected volume was found or started."""
        await self.follow_storage(volume, told)
        await self.reconcile(self._house.providers.builtin, volume, told.copies)

    async def follow_storage(self, volume: str, told: VolumeDescription) -> None:
        """A shadow storage that has moved is at its new place here too, and those who open its copies begin there."""
        builtin = self._house.providers.builtin
        if await self._house.volumes.note_storage(volume, told):
            for copy in self._house.catalogue.snapshots(volume=volume):
                if copy.provider_id == builtin.info.provider_id:
                    await builtin.surface(copy)

    async def reconcile(
        self, provider: Provider, volume: str, told: list[CopyInfo], known: set[str] | None = None
    ) -> None:
        """Bring a provider's copies and the catalogue together.

        The catalogue is the commit record: pending copies of sets that exist are finished, other pending copies are
        deleted, and so are those that were to be deleted while the provider was away. A copy that only the catalogue
        knows has been lost and is reported. ``known`` are the copies known before the provider was asked.
        """
        catalogue = self._house.catalogue
        copies = {copy.snapshot_id: copy for copy in catalogue.snapshots(volume=volume)}
        deleting = set(catalogue.deleting(volume))
        aside = {row.copy.snapshot_id: row.copy for row in catalogue.aside(volume)}
        copies |= aside
        present = {info.copy_id for info in told if not info.lost}
        for info in told:
            if info.set_id in self._house.creation.set_ids:
                continue
            if info.lost or info.copy_id in deleting or (info.pending and info.copy_id not in copies):
                await self._settle(provider.delete(volume, info.copy_id))
            elif info.pending:
                await self._settle(provider.post_final_commit(volume, info.copy_id))
            elif info.copy_id not in copies:
                log.warning("volume %s holds shadow copy %s, which the catalogue does not know", volume, info.copy_id)
        await self._house.quiet.writable()
        for snapshot_id in deleting:
            catalogue.forget_snapshot(snapshot_id)
        for snapshot_id in (set(copies) if known is None else set(copies) & known) - present:
            await self._lost(provider, copies[snapshot_id])

    async def _settle(self, call: object) -> None:
        try:
            await call  # type: ignore[misc]
        except VssError as error:
            if error.code != Code.VSS_E_OBJECT_NOT_FOUND:
                raise

    async def _lost(self, provider: Provider, copy: SnapshotProperties) -> None:
        await self._take_away(copy)
        await self._house.quiet.writable()
        self._house.catalogue.forget_snapshot(copy.snapshot_id)
        await provider.unsurface(copy)
        self._event("snapshot-lost", copy, "is gone from its shadow storage: its provider had to give it up")

    def _known(self, volume: str) -> set[str]:
        aside = (row.copy for row in self._house.catalogue.aside(volume))
        return {copy.snapshot_id for copy in (*self._house.catalogue.snapshots(volume=volume), *aside)}

    async def look_after(self) -> None:
        """One round over all volumes that are online: notice copies that were lost to overflow, and dead devices."""
        await self.purge()
        await self._mend()
        await self.previous.sync()
        for row in self._house.volumes.rows():
            self._house.volumes.look_after_device(row.name)
            if self._house.creation.uses(row.name):
                continue
            known = self._known(row.name)
            try:
                runtime = self._house.volumes.get(row.name)
                link = runtime.online()
                told = await runtime.describe()
                await self._house.volumes.mend_device(row.name)
                await take_over(self._house, row.name, link, told)
                await self.follow_storage(row.name, told)
                await self.reconcile(self._house.providers.builtin, row.name, told.copies, known)
            except VssError as error:
                log.debug("%s", error)
        for provider in self._house.providers:
            if provider is not self._house.providers.builtin:
                await self.look_after_one(provider)

    async def look_after_one(self, provider: Provider) -> None:
        """One round over the volumes of a provider that lives in this process; copies that came back are surfaced."""
        mine = provider.info.provider_id
        try:
            copies = [copy for copy in self._house.catalogue.snapshots() if copy.provider_id == mine]
            for volume in {*await provider.volumes(), *(copy.original_volume for copy in copies)}:
                await self._look_after_volume(provider, volume, [c for c in copies if c.original_volume == volume])
        except Exception:
            log.exception("looking after the copies of provider %s failed", provider.info.name)

    async def _look_after_volume(self, provider: Provider, volume: str, copies: list[SnapshotProperties]) -> None:
        if self._house.creation.uses(volume):
            return
        try:
            known = {copy.snapshot_id for copy in copies} & self._known(volume)
            told = await provider.copies(volume)
            await self.reconcile(provider, volume, told, known)
            if volume in self._away:
                for copy in self._house.catalogue.snapshots(volume=volume):
                    await provider.surface(copy)
                self._away.discard(volume)
        except VssError as error:
            self._away.add(volume)
            log.debug("%s", error)

    # ---- after a restart ----

    async def clean_up(self, rebooted: bool) -> None:
        """Drop the copies of sessions that have died with the daemon, and what a reboot ends; correct mount points."""
        await self._house.scratch.release()
        await self._house.copy_devices.keep_only(self._house.catalogue.snapshots())
        for set_id in {copy.snapshot_set_id for copy in self._house.catalogue.snapshots()}:
            self._trees.prune(set_id)
        for copy in self._house.catalogue.snapshots():
            kept = copy.attributes & (Attribute.PERSISTENT if rebooted else Attribute.NO_AUTO_RELEASE)
            if not kept:
                await self._take_away(copy)
                self._house.catalogue.mark_deleting([copy.snapshot_id])
                self._event("snapshot-deleted", copy, "was released: its session ended with the last run")
            elif copy.exposed_name and not is_mount_point(copy.exposed_name):
                await self._unexpose_all([copy.snapshot_id], lazy=True)
