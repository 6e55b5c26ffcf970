"""The making of one shadow copy set, from prepare-snapshot to post-snapshot.

A set exists from the moment its record stands in the catalogue, and not before. Whatever goes wrong earlier voids it on
every volume: file systems thaw, writers are told to abort, pending copies are deleted, and the cause is kept in a
record with the status ABORTED. Whatever goes wrong later is repaired when the provider comes back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sqlite3
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from shadowset.daemon.affected import writers_on
from shadowset.daemon.cast import Cast, Participant, Timeline, first_refusal
from shadowset.daemon.clock import now
from shadowset.daemon.cut import Cut, PlannedSnapshot
from shadowset.daemon.house import House, together
from shadowset.daemon.layers import Layers, Wish, host_wishes, wishes
from shadowset.daemon.process import despite_cancel, within
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Failure
from shadowset.vss.enums import FREEZE_ORDER, Attribute, SnapshotState, WriterEvent
from shadowset.vss.provider import translated
from shadowset.vss.requester_protocol import SetRecord, SnapshotProperties

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class SetPlan:
    """What the requester asked for."""

    set_id: str
    session_id: str
    context: int = 0
    snapshots: list[PlannedSnapshot] = field(default_factory=list)

    @property
    def persistent(self) -> bool:
        """Whether the copies must survive a restart of the host."""
        return bool(self.context & Attribute.PERSISTENT)


class SnapshotSetMaker:
    """One attempt. ``committed`` becomes true at the point of no return."""

    def __init__(self, house: House, plan: SetPlan, cast: Cast) -> None:
        self.plan = plan
        self.committed = False
        self.shown = False
        self.layers = Layers(house, plan.snapshots)
        self._listed: list[Wish] = []
        self._house = house
        self._cast = cast
        self._timeline = Timeline()
        self._cut = Cut(house, plan.set_id, plan.persistent, plan.snapshots, self._timeline)
        self._frozen: list[Participant] = []
        self._alarm: asyncio.Future[VssError] = asyncio.get_running_loop().create_future()
        self._watchers: list[asyncio.Task[None]] = []
        self._deadline = 0.0
        self._has_writers = not plan.context & Attribute.NO_WRITERS

    async def run(self) -> SetRecord:
        """Make the set. Errors: VssError with the cause, after everything has been undone."""
        try:
            await self._prepare()
            await self._freeze_writers()
            await self._watched(self._cut.run(self._cut_deadline()))
            await self._thaw_writers()
            await self._post_snapshot()
            record = await self._record()
        except asyncio.CancelledError:
            await despite_cancel(self._void(VssError(Code.VSS_S_ASYNC_CANCELLED, "the requester gave the set up")))
            raise
        except VssError as error:
            await despite_cancel(self._void(error))
            raise
        except Exception as error:
            log.exception("making shadow copy set %s failed", self.plan.set_id)
            failure = VssError(Code.VSS_E_UNEXPECTED, f"an internal error, which the coordinator's log has: {error!r}")
            await despite_cancel(self._void(failure))
            raise failure from error
        finally:
            self._stop_watching()
        await self._publish(record)
        return record

    # ---- before anything is frozen ----

    async def _prepare(self) -> None:
        for each in self.plan.snapshots:
            each.facts = await each.provider.find(each.volume) or each.facts
        self._house.volumes.check_set([each.facts for each in self.plan.snapshots])
        if self._has_writers and not self.plan.context & Attribute.NO_AUTORECOVERY:
            self._listed = host_wishes(self._house.paths, self._cast.participants, os.environ)
        if self._has_writers:
            await self._cast.tell(WriterEvent.PREPARE_SNAPSHOT, self._cast.taking_part(), self._timeline)
        for each in self.plan.snapshots:
            each.prepared = True
        await self._providers("end-prepare", lambda each: each.provider.end_prepare(each.volume, self.plan.set_id))
        await self._house.quiet.writable()
        numbers = self._house.catalogue.next_device_numbers(len(self.plan.snapshots))
        for each, number in zip(self.plan.snapshots, numbers, strict=True):
            each.device_number = number
        await self._cut.prepare()

    async def _providers(self, phase: str, call: Any) -> None:
        async def one(each: PlannedSnapshot) -> None:
            started = now()
            limit = self._house.limits.provider_ms
            sentence = f"the provider of volume {each.volume} did not finish {phase} within {limit} ms"
            try:
                await within(limit, call(each), Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, sentence)
            except VssError as error:
                raise translated(error, each.volume) from None
            self._timeline.add(f"volume {each.volume}", phase, started)

        await together(*map(one, self.plan.snapshots))

    # ---- writers ----

    async def _freeze_writers(self) -> None:
        self._deadline = now() + self._house.limits.freeze_window_ms / 1000
        await self._cut.arm(self._deadline)
        alarm = self._cut.alarm()
        if alarm:
            alarm.add_done_callback(lambda future: self._ring(future.result()))
        for level in FREEZE_ORDER if self._has_writers else ():
            group = [each for each in self._cast.taking_part() if each.level is level]
            answers = await self._watched(self._cast.tell(WriterEvent.FREEZE, group, self._timeline))
            frozen = [each for each, answer in answers if not answer.veto]
            self._frozen += frozen
            self._watchers += [asyncio.ensure_future(self._watch(each)) for each in frozen]
            refusal = first_refusal(answers)
            if refusal:
                raise refusal
        await self._providers("pre-commit", lambda each: each.provider.pre_commit(each.volume, self.plan.set_id))

    async def _watch(self, participant: Participant) -> None:
        """Raise the alarm when a frozen writer goes away or its window ends. Cancelled in the step that thaws it."""
        link = participant.writer.link
        try:
            await asyncio.wait_for(link.lost.wait(), participant.window_end - now())
        except TimeoutError:
            self._ring(self._overdue(participant))
            return
        sentence = f"{link.label()} closed its connection between freeze and thaw"
        self._ring(self._fail_frozen(participant, Code.VSS_E_WRITER_NOT_RESPONDING, sentence))

    def _overdue(self, participant: Participant) -> VssError:
        window = self._cast.window_ms(participant)
        sentence = f"{participant.writer.link.label()} was frozen for longer than its window of {window} ms"
        return self._fail_frozen(participant, Code.VSS_E_WRITERERROR_TIMEOUT, sentence)

    def _fail_frozen(self, participant: Participant, code: Code, sentence: str) -> VssError:
        participant.progress.fail(WriterEvent.FREEZE, Failure(code, 0, sentence), veto=True)
        self._timeline.add(participant.writer.link.label(), "frozen", now(), code, sentence)
        return VssError(code, sentence)

    def _ring(self, error: VssError) -> None:
        if not self._alarm.done():
            self._alarm.set_result(error)

    def _stop_watching(self) -> None:
        for task in self._watchers:
            task.cancel()
        self._watchers.clear()

    async def _watched(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, unless the guardian or a frozen writer raises the alarm before."""
        task = asyncio.ensure_future(work)
        either: list[asyncio.Future[Any]] = [task, self._alarm]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not self._alarm.done():
                return task.result()
        finally:
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
        raise outcome if isinstance(outcome, VssError) else self._alarm.result()

    def _cut_deadline(self) -> float:
        """When the first of the frozen writers' windows, or the longest freeze allowed, ends."""
        return min([self._deadline, *(each.window_end for each in self._frozen)])

    def _check_windows(self) -> None:
        for each in self._frozen:
            if now() > each.window_end:
                raise self._overdue(each)

    async def _thaw_writers(self) -> None:
        self._stop_watching()
        if self._alarm.done():
            raise self._alarm.result()
        self._check_windows()
        refusals = []
        for level in reversed(FREEZE_ORDER):
            group = [each for each in self._frozen if each.level is level]
            refusals.append(first_refusal(await self._cast.tell(WriterEvent.THAW, group, self._timeline)))
        for refusal in refusals:
            if refusal:
                raise refusal

    async def _post_snapshot(self) -> None:
        set_id = self.plan.set_id
        await self._providers("post-commit", lambda each: each.provider.post_commit(each.volume, set_id))
        await self._providers("pre-final-commit", lambda each: each.provider.pre_final_commit(each.volume, set_id))
        wanted = self._wishes()
        await self._open_layers(wanted)
        self.shown = True
        await self._cast.tell(WriterEvent.POST_SNAPSHOT, self._frozen, self._timeline)
        await self._seal_layers(wanted)

    def _wishes(self) -> list[Wish]:
        cast, context = self._cast, self.plan.context
        found = list(self._listed)
        for each in self._frozen:
            chosen = cast.components_of(each) if cast.document.select_components else None
            found += wishes(each, chosen, context, os.environ)
        return found

    async def _open_layers(self, wanted: list[Wish]) -> None:
        if wanted and not self.plan.context & Attribute.NO_AUTORECOVERY:
            started = now()
            await self.layers.open(wanted)
            self._timeline.add("coordinator", "open-layers", started)

    async def _seal_layers(self, wanted: list[Wish]) -> None:
        started = now()
        for sentence in await self.layers.exclude(wanted, os.environ):
            self._timeline.add("coordinator", "exclude", started, Code.VSS_E_AUTORECOVERY_FAILED, sentence)
            self._house.event("exclude-failed", sentence, set_id=self.plan.set_id)
        await self.layers.seal()

    # ---- the commit point, and both sides of it ----

    async def _record(self) -> SetRecord:
        await self._house.quiet.writable()
        self._cut.check_unbroken()
        record = self._describe(SnapshotState.CREATED, Failure())
        try:
            self._house.catalogue.put_set(record)
        except sqlite3.Error as error:
            place = self._house.paths.catalogue
            message = (
                f"the set cannot be recorded in {place}: {error}; see that its file system has room and can be written"
            )
            raise VssError(Code.VSS_E_UNEXPECTED, message) from None
        self.committed = True
        self._record_writers()
        return record

    def _record_writers(self) -> None:
        """How long each was frozen is known after a restart, too."""
        try:
            for each in self._cast.participants:
                hello, frozen_ms = each.writer.link.hello, each.writer.history.frozen_ms
                if frozen_ms:
                    self._house.catalogue.set_frozen_ms(hello.writer_id, hello.instance_name, frozen_ms)
        except sqlite3.Error as error:
            log.warning("how long the writers were frozen cannot be recorded: %s", error)

    async def _publish(self, record: SetRecord) -> None:
        for each, copy in zip(self.plan.snapshots, record.snapshots, strict=True):
            try:
                await each.provider.post_final_commit(each.volume, each.snapshot_id)
            except VssError as error:
                log.warning("%s; the copy is finished when the provider is back", error)
            try:
                await each.provider.surface(copy)
            except (VssError, OSError) as error:
                log.error("shadow copy %s cannot be made readable: %s", copy.snapshot_id, error)
        names = ", ".join(each.volume for each in self.plan.snapshots) or "no volume"
        self._house.event("set-created", f"shadow copy set of {names}", set_id=record.set_id)

    async def _void(self, cause: VssError) -> None:
        self._stop_watching()
        self._cut.put_away()
        await self.layers.drop()
        reached = [each for each in self._cast.participants if each.progress.prepared_snapshot]
        aborts = self._cast.tell(WriterEvent.ABORT, reached, self._timeline)
        await asyncio.gather(aborts, *map(self._delete_pending, self.plan.snapshots))
        failure = Failure(cause.code, cause.application_code, cause.message)
        await self._house.quiet.writable()
        try:
            self._house.catalogue.put_set(self._describe(SnapshotState.ABORTED, failure))
        except sqlite3.Error as error:
            log.error("the failed set %s cannot be recorded: %s", self.plan.set_id, error)
        self._record_writers()
        self._house.event("set-failed", str(cause), set_id=self.plan.set_id)

    async def _delete_pending(self, each: PlannedSnapshot) -> None:
        if not each.prepared:
            return
        try:
            await each.provider.abort(each.volume, each.snapshot_id)
        except VssError as error:
            if error.code != Code.VSS_E_OBJECT_NOT_FOUND:
                log.warning("%s; the pending copy goes when the provider is back", error)

    def _describe(self, status: SnapshotState, failure: Failure) -> SetRecord:
        created = self._cut.created_ns or time.time_ns()
        return SetRecord(
            set_id=self.plan.set_id,
            session_id=self.plan.session_id,
            created_ns=created,
            context=self.plan.context,
            status=status,
            skew_ms=self._cut.skew_ms,
            snapshots=[self._properties(each, created, status) for each in self.plan.snapshots],
            volumes=self._cut.times(),
            timeline=self._timeline.entries,
            writers=self._cast.statuses(),
            failure=failure,
        )

    def _recovered(self, each: PlannedSnapshot) -> int:
        return Attribute.AUTORECOVER if self.layers.was_open(each.snapshot_id) else 0

    def _properties(self, each: PlannedSnapshot, created_ns: int, status: SnapshotState) -> SnapshotProperties:
        machine = socket.gethostname()
        return SnapshotProperties(
            snapshot_id=each.snapshot_id,
            snapshot_set_id=self.plan.set_id,
            snapshots_count=len(self.plan.snapshots),
            device_object=each.provider.place(each.device_number),
            original_volume=each.volume,
            originating_machine=machine,
            service_machine=machine,
            exposed_name="",
            exposed_path="",
            provider_id=each.provider.info.provider_id,
            attributes=self.plan.context | Attribute.DIFFERENTIAL | self._recovered(each),
            created_ns=created_ns,
            status=status,
            size=each.facts.size,
            number=each.number,
            device_number=each.device_number,
            mount_points=each.facts.mount_points,
            mount_roots=each.facts.mount_roots,
            writer_ids=writers_on(each, self.plan.snapshots, self._cast.participants, os.environ),
        )
