"""A backup session: context, components, the snapshot set, and what happens when its requester goes away."""

from __future__ import annotations

import asyncio
import uuid

from shadowset.daemon.creation import Footprint, Tell, Turn
from shadowset.daemon.cut import PlannedSnapshot
from shadowset.daemon.document import add_component
from shadowset.daemon.house import House
from shadowset.daemon.process import despite_cancel
from shadowset.daemon.snapshot_set import SetPlan, SnapshotSetMaker
from shadowset.daemon.snapshots import Snapshots
from shadowset.daemon.volume_checks import check_holds, footprint
from shadowset.daemon.writer_session import WriterSession
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument
from shadowset.vss.enums import Attribute, Context, WriterEvent
from shadowset.vss.provider import Provider, VolumeFacts, translated
from shadowset.vss.writer_protocol import EventVolume

_KIND = Attribute.PERSISTENT | Attribute.CLIENT_ACCESSIBLE | Attribute.NO_AUTO_RELEASE | Attribute.NO_WRITERS
_MODIFIERS = (
    Attribute.NO_AUTORECOVERY
    | Attribute.TRANSPORTABLE
    | Attribute.NOT_TRANSACTED
    | Attribute.DIFFERENTIAL
    | Attribute.PLEX
    | Attribute.ROLLBACK_RECOVERY
    | Attribute.TXF_RECOVERY
)
_NOT_OFFERED = Attribute.TRANSPORTABLE | Attribute.PLEX | Attribute.TXF_RECOVERY


class BackupSession(WriterSession):
    """From initialize-for-backup to the end of the connection."""

    def __init__(self, house: House, snapshots: Snapshots) -> None:
        super().__init__(house, BackupComponentsDocument())
        self.context = 0
        self._snapshots = snapshots
        self._plan: SetPlan | None = None
        self._footprint = Footprint()
        self._has_state = False
        self._maker: SnapshotSetMaker | None = None
        self._making: asyncio.Task[rp.SetRecord] | None = None
        self.cast.volumes = self._event_volumes

    def set_context(self, context: int) -> None:
        """Errors: VSS_E_UNSUPPORTED_CONTEXT."""
        kinds = {int(each) for each in Context if each is not Context.ALL}
        unknown = context & ~int(_KIND | _MODIFIERS)
        if unknown or context & _KIND not in kinds:
            raise VssError(
                Code.VSS_E_UNSUPPORTED_CONTEXT,
                f"context 0x{context & 0xFFFFFFFFFF:X} is not one that copies can be made in",
            )
        if context & Attribute.CLIENT_ACCESSIBLE and context & Attribute.PLEX:
            raise VssError(Code.VSS_E_UNSUPPORTED_CONTEXT, "client-accessible copies cannot be split mirrors (PLEX)")
        self.context = self.cast.context = context

    def set_state(self, call: rp.SetBackupState) -> None:
        """What kind of backup it is. Errors: VSS_E_BAD_STATE when a set beside others would get further writers."""
        chosen = self._has_state and self.document.select_components and not call.select_components
        if chosen and self._footprint.volumes is not None:
            raise VssError(
                Code.VSS_E_BAD_STATE,
                "a backup by volumes takes all writers, so set-backup-state must come before a start-snapshot-set that "
                "names its volumes",
            )
        self._has_state = True
        self.document.select_components = call.select_components
        self.document.bootable_system_state = call.bootable_system_state
        self.document.backup_type = call.backup_type
        self.document.partial_files = call.partial_files

    def add_component(self, call: rp.AddComponent) -> None:
        """Errors: VSS_E_OBJECT_NOT_FOUND for an unknown writer, and those of the selection rules."""
        participant = self.cast.find(call.writer_id, call.instance_id)
        if participant is None or call.instance_id not in ("", participant.metadata.instance_id):
            raise VssError(
                Code.VSS_E_OBJECT_NOT_FOUND,
                f"writer {call.writer_id} (instance {call.instance_id or 'any'}) did not answer gather-writer-metadata",
            )
        add_component(self.document, participant.metadata, call)

    # ---- the set ----

    async def start_set(self, call: rp.StartSnapshotSet, who: str, tell: Tell) -> str:
        """The new set's id, when it is this session's turn. Errors: VSS_E_SNAPSHOT_SET_IN_PROGRESS; no such volume."""
        plan = SetPlan(str(uuid.uuid4()), self.session_id, self.context)
        turn = Turn(self.session_id, plan.set_id, who, tell)
        if call.volumes:
            facts = [(await self._choose(volume, ""))[1] for volume in call.volumes]
            turn.footprint = footprint(facts, self._involved())
        await self.house.creation.take(turn, call.wait_ms)
        self._footprint = turn.footprint
        self._plan = plan
        self.document.snapshot_set_id = plan.set_id
        return plan.set_id

    def _involved(self) -> set[str]:
        """The writers, by instance, that get the events of the set."""
        taking_part = self.cast.taking_part() if self._has_state else self.cast.participants
        return {each.metadata.instance_id for each in taking_part if not each.writer.link.silent}

    @property
    def has_turn(self) -> bool:
        """From start-snapshot-set to the end of do-snapshot-set; others whose sets share something wait meanwhile."""
        return self.house.creation.holds(self.session_id)

    async def is_supported(self, volume: str, provider_id: str) -> bool:
        """Whether copies of a volume can be made. Errors: VSS_E_PROVIDER_NOT_REGISTERED, VSS_E_OBJECT_NOT_FOUND."""
        try:
            provider, facts = await self._choose(volume, provider_id)
        except VssError as error:
            if error.code in (Code.VSS_E_VOLUME_NOT_SUPPORTED, Code.VSS_E_VOLUME_NOT_SUPPORTED_BY_PROVIDER):
                return False
            raise
        return await provider.is_volume_supported(facts.name)

    async def add_volume(self, volume: str, provider_id: str) -> str:
        """The id of the copy to come. Errors: VssError."""
        plan = self._planned()
        provider, facts = await self._choose(volume, provider_id)
        if self._footprint.volumes is not None and not self._footprint.covers(footprint([facts], ())):
            raise VssError(
                Code.VSS_E_BAD_STATE,
                f"volume {facts.name} was not among the volumes that start-snapshot-set named; name it there",
            )
        if self.context & _NOT_OFFERED:
            wish = Attribute(self.context & _NOT_OFFERED).name
            raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, f"volume {facts.name} cannot be copied with {wish}")
        if any(each.volume == facts.name for each in plan.snapshots):
            raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"volume {facts.name} is already in the set")
        limit = self.house.limits.volumes_per_set
        if len(plan.snapshots) >= limit:
            raise VssError(Code.VSS_E_MAXIMUM_NUMBER_OF_VOLUMES_REACHED, f"a set holds {limit} volumes at the most")
        check_holds([*(each.facts for each in plan.snapshots), facts])
        snapshot_id = str(uuid.uuid4())
        try:
            await provider.begin_prepare(facts.name, plan.set_id, snapshot_id)
            facts = await provider.find(facts.name) or facts
        except VssError as error:
            raise translated(error, facts.name) from None
        plan.snapshots.append(PlannedSnapshot(snapshot_id, facts.name, provider, facts))
        return snapshot_id

    async def _choose(self, volume: str, provider_id: str) -> tuple[Provider, VolumeFacts]:
        chosen = await self.house.providers.choose(volume, provider_id)
        if chosen is None:
            name = self.house.volumes.resolve(volume).name  # says why not
            raise VssError(
                Code.VSS_E_VOLUME_NOT_SUPPORTED_BY_PROVIDER,
                f"provider {provider_id[:60]} does not make copies of volume {name}; leave the choice to the service",
            )
        return chosen

    def _planned(self) -> SetPlan:
        if self._plan is None:
            raise VssError(Code.VSS_E_BAD_STATE, "there is no set yet; call start-snapshot-set first")
        return self._plan

    async def prepare(self) -> None:
        """PrepareBackup to all writers; refusals show in the writers' status.

        One that takes no part in this backup is left alone while it takes part in the set of another session.
        """
        involved, busy = self._involved(), self.house.creation.writers_of_others(self.session_id)
        reached = [
            each
            for each in self.cast.participants
            if each.metadata.instance_id in involved or each.metadata.instance_id not in busy
        ]
        await self.cast.tell(WriterEvent.PREPARE_BACKUP, reached)

    async def make_set(self) -> rp.SetRecord:
        """Make the set. A cancellation that comes after the point of no return is too late and changes nothing."""
        maker = self._maker = SnapshotSetMaker(self.house, self._planned(), self.cast)
        task = self._making = asyncio.ensure_future(maker.run())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not maker.committed:
                task.cancel()
            await asyncio.wait([task])
            if task.cancelled():
                raise
            return task.result()
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        self.house.creation.leave(self.session_id)

    async def complete(self) -> None:
        """BackupComplete to the writers that took part."""
        await self.cast.tell(WriterEvent.BACKUP_COMPLETE, self.cast.taking_part())

    async def abort(self) -> None:
        """Give up: Abort to the writers that have prepared. Harmless once the set has been made."""
        if self._maker is None:
            self._end_turn()
            reached = [each for each in self.cast.taking_part() if each.prepared_backup]
            await self.cast.tell(WriterEvent.ABORT, reached)

    async def close(self) -> None:
        """The connection has gone: abort what is under way, let auto-release copies go, shut the writers down."""
        try:
            await despite_cancel(self._close())
        finally:
            self._end_turn()
            self.leave()

    async def _close(self) -> None:
        if self._making and not self._making.done():
            await asyncio.wait([self._making])
        made = self._maker is not None and self._maker.committed
        if not made and self._maker is None:
            await self.abort()
        try:
            if made and self._plan:
                await self._snapshots.release_session(self._plan.set_id)
        finally:
            await self.shut_down_writers()

    def _event_volumes(self) -> list[EventVolume]:
        if self._plan is None:
            return []
        shown = self._maker is not None and (self._maker.shown or self._maker.committed)
        return [self._event_volume(each, shown) for each in self._plan.snapshots]

    def _event_volume(self, each: PlannedSnapshot, shown: bool) -> EventVolume:
        device = each.provider.place(each.device_number) if shown else ""
        layer = self._maker.layers.place(each.snapshot_id) if self._maker else ""
        return EventVolume(each.volume, each.facts.mount_points, each.snapshot_id, device, layer)
