"""Shadow copies that exist: finding, deleting, and keeping catalogue and providers in agreement."""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from shadowset.daemon.aside import Aside
from shadowset.daemon.control_link import ControlLink
from shadowset.daemon.exposures import Exposures
from shadowset.daemon.found_copies import FoundCopies
from shadowset.daemon.house import House
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

AGAIN_S = 1.0


def refuse_held(copy: SnapshotProperties) -> None:
    """Errors: VSS_E_BAD_STATE while the copy is held; force does not help, since a hold guards against just that."""
    if copy.hold_until_ns > time.time_ns():
        raise VssError(
            Code.VSS_E_BAD_STATE,
            f"shadow copy {copy.snapshot_id} {_hold(copy)}; end its hold first "
            f"('shadowset hold {copy.snapshot_id} --end')",
        )


def _hold(copy: SnapshotProperties) -> str:
    if not copy.hold_until_ns:
        return "is not held"
    return time.strftime("is held until %Y-%m-%dT%H:%M:%SZ", time.gmtime(copy.hold_until_ns // 10**9))


class Snapshots:
    """The operations on existing copies."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._changing = asyncio.Lock()
        self.exposures = Exposures(house, self._changing)
        self._found = FoundCopies(house, self._changing)
        self.previous = PreviousVersions(
            house.paths,
            self.exposures.exposer,
            lambda: [row.name for row in house.catalogue.volumes()],
            house.catalogue.snapshots,
            self.exposures.row_of,
        )
        self._away: set[str] = set()
        self._heard: set[str] = set()
        self._hearing = asyncio.Event()
        self.aside = Aside(house.catalogue, house.limits.deletion_grace_ms)
        self.releases = Releases(house, self._release_now, self.exposures.conceal)

    async def query(self, snapshot_id: str, set_id: str, volume: str) -> list[SnapshotProperties]:
        """Copies by id, set and volume (name, device or path); empty matches all. Errors: an unknown volume."""
        name = await self._name(volume) if volume else ""
        return self.exposures.as_mounted(self._house.catalogue.snapshots(snapshot_id, set_id, name))

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
            copies = [self._house.catalogue.snapshot(object_id)]
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
            await self.exposures.notice()
            for found in self._house.catalogue.snapshots(snapshot_id=copy.snapshot_id):
                copy = found
            if copy.exposed_name and not force:
                raise VssError(
                    Code.VSS_E_VOLUME_IN_USE,
                    f"shadow copy {copy.snapshot_id} is mounted at {copy.exposed_name}; "
                    "unmount it ('shadowset umount') or delete it with force ('--force')",
                )
            await self._house.copy_devices.detach(copy, force)
            return await despite_cancel(self._put_aside(copy) if self.aside.takes(copy) else self._delete(copy, cause))

    async def _put_aside(self, copy: SnapshotProperties) -> int:
        await self.exposures.take_away(copy)
        await self.previous.drop(copy.snapshot_id)
        await self._house.quiet.writable()
        until = self.aside.put(copy)
        how = f"'shadowset undelete {copy.snapshot_id}' takes it back for {self.aside.grace_ms // 1000} s"
        self._house.event_of("snapshot-deleted", copy, f"was deleted; {how}")
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
        self._house.event_of("snapshot-undeleted", copy, "was taken back")
        return self._house.catalogue.snapshot(snapshot_id)

    async def purge(self) -> None:
        """Those whose time is over go for good."""
        await self._house.quiet.writable()
        for copy in self.aside.due():
            async with self._changing:
                if self._house.catalogue.is_aside(copy.snapshot_id):
                    await despite_cancel(self._delete(copy, "was deleted for good: its time to be taken back is over"))

    async def _delete(self, copy: SnapshotProperties, cause: str) -> int:
        await self.exposures.take_away(copy)
        await self.previous.drop(copy.snapshot_id)
        await self._house.quiet.writable()
        again = self._house.catalogue.is_aside(copy.snapshot_id)
        self._house.catalogue.mark_deleting([copy.snapshot_id])
        self._house.event_of("snapshot-purged" if again else "snapshot-deleted", copy, cause)
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
            copy = self._house.catalogue.snapshot(snapshot_id)
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
        self._house.event_of("snapshot-kept", copy, f"has priority {changed.priority} and {_hold(changed)}")
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

    # ---- agreement with the providers ----

    async def came_online(self, volume: str, link: ControlLink, told: VolumeDescription) -> None:
        """The provider process of a protected volume was found or started."""
        link.happened = lambda: self._hear_of(volume)
        await self.follow_storage(volume, told)
        await self.reconcile(self._house.providers.builtin, volume, told.copies)
        self._hear_of(volume)

    def _hear_of(self, volume: str) -> None:
        self._heard.add(volume)
        self._hearing.set()

    async def heard(self, seconds: float) -> set[str]:
        """The volumes whose providers sent word of events; none when none did for that long."""
        try:
            await asyncio.wait_for(self._hearing.wait(), seconds)
        except TimeoutError:
            return set()
        self._hearing.clear()
        heard, self._heard = self._heard, set()
        return heard

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
        knows has been lost and is reported; a finished one that it does not know is taken in (``FoundCopies``).
        ``known`` are the copies known before the provider was asked.
        """
        catalogue = self._house.catalogue
        copies = {copy.snapshot_id: copy for copy in catalogue.snapshots(volume=volume)}
        deleting = {*catalogue.deleting(volume), *(catalogue.buried() & {info.copy_id for info in told})}
        aside = {row.copy.snapshot_id: row.copy for row in catalogue.aside(volume)}
        copies |= aside
        present = {info.copy_id for info in told if not info.lost}
        strange = False
        for info in told:
            if info.set_id in self._house.creation.set_ids:
                continue
            if info.lost or info.copy_id in deleting or (info.pending and info.copy_id not in copies):
                await self._settle(provider.delete(volume, info.copy_id))
            elif info.pending:
                await self._settle(provider.post_final_commit(volume, info.copy_id))
            else:
                strange = strange or info.copy_id not in copies
        await self._house.quiet.writable()
        for snapshot_id in deleting:
            catalogue.forget_snapshot(snapshot_id)
        for snapshot_id in (set(copies) if known is None else set(copies) & known) - present:
            await self._lost(provider, copies[snapshot_id])
        if strange:
            await self._found.take_in(provider, volume)

    async def _settle(self, call: object) -> None:
        try:
            await call  # type: ignore[misc]
        except VssError as error:
            if error.code != Code.VSS_E_OBJECT_NOT_FOUND:
                raise

    async def _lost(self, provider: Provider, copy: SnapshotProperties) -> None:
        await self.exposures.take_away(copy)
        await self._house.quiet.writable()
        self._house.catalogue.forget_snapshot(copy.snapshot_id)
        await provider.unsurface(copy)
        what = "is gone: its shadow storage could not keep it, for the cause that 'shadowset events' tells before this"
        self._house.event_of("snapshot-lost", copy, what)

    def _known(self, volume: str) -> set[str]:
        aside = (row.copy for row in self._house.catalogue.aside(volume))
        return {copy.snapshot_id for copy in (*self._house.catalogue.snapshots(volume=volume), *aside)}

    async def look_after(self) -> None:
        """One round over all volumes that are online: notice copies that were lost to overflow, and dead devices."""
        await self.purge()
        await self.exposures.mend()
        await self.previous.sync()
        for row in self._house.volumes.rows():
            await self.look_after_volume(row.name)
        for provider in self._house.providers:
            if provider is not self._house.providers.builtin:
                await self.look_after_one(provider)

    async def look_after_volume(self, volume: str) -> None:
        """What has happened to one protected volume; later, while it is in a set that is being made."""
        try:
            self._house.volumes.look_after_device(volume)
            if self._house.creation.uses(volume):
                asyncio.get_running_loop().call_later(AGAIN_S, self._hear_of, volume)
                return
            known = self._known(volume)
            runtime = self._house.volumes.get(volume)
            link = runtime.online()
            told = await runtime.describe()
            await self._house.volumes.mend_device(volume)
            await take_over(self._house, volume, link, told)
            await self.follow_storage(volume, told)
            await self.reconcile(self._house.providers.builtin, volume, told.copies, known)
        except VssError as error:
            log.debug("%s", error)

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
        await self.exposures.correct()
        for copy in self._house.catalogue.snapshots():
            kept = copy.attributes & (Attribute.PERSISTENT if rebooted else Attribute.NO_AUTO_RELEASE)
            if not kept:
                await self.exposures.take_away(copy)
                self._house.catalogue.mark_deleting([copy.snapshot_id])
                self._house.event_of(
                    "snapshot-deleted",
                    copy,
                    "was released: the session that it belonged to ended when the coordinator did",
                )
