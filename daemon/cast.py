"""The writers of one session: who takes part, sending them events, and what they answered.

``Cast.tell`` sends one event to several writers in parallel and returns when all have answered, refused or run out of
time. It raises nothing for what a writer does: the caller looks at the answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from shadowset.daemon.clock import now
from shadowset.daemon.document import merge_reply
from shadowset.daemon.limits import Limits
from shadowset.daemon.registry import RegisteredWriter, canonical_guid
from shadowset.daemon.writer_link import Answer
from shadowset.daemon.writer_states import WriterProgress
from shadowset.vss.codes import Code, VssError, describe
from shadowset.vss.components import BackupComponentsDocument, Component, Failure, WriterComponents
from shadowset.vss.enums import Level, WriterEvent
from shadowset.vss.instances import taker_of
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.requester_protocol import TimelineEntry, WriterStatus
from shadowset.vss.writer_protocol import Event, EventVolume

log = logging.getLogger(__name__)

WITH_COMPONENTS = (
    WriterEvent.PREPARE_BACKUP,
    WriterEvent.POST_SNAPSHOT,
    WriterEvent.BACKUP_COMPLETE,
    WriterEvent.PRE_RESTORE,
    WriterEvent.POST_RESTORE,
)


@dataclass
class Timeline:
    """Who did what when, in memory; times are those of ``clock.now`` and reported relative to ``zero``."""

    zero: float = field(default_factory=now)
    entries: list[TimelineEntry] = field(default_factory=list)

    def add(self, actor: str, phase: str, started: float, code: int = 0, message: str = "", ended: float = 0.0) -> None:
        """Something that ended now, or at ``ended``."""
        end = ended or now()
        self.entries.append(
            TimelineEntry(actor, phase, (started - self.zero) * 1000, (end - self.zero) * 1000, code, message)
        )


@dataclass
class Participant:
    """A writer that answered identify in this session. ``window_end`` is set from freeze on (``clock.now``)."""

    writer: RegisteredWriter
    metadata: WriterMetadata
    progress: WriterProgress
    prepared_backup: bool = False
    window_end: float = 0.0
    frozen_since: float = 0.0

    @property
    def level(self) -> Level:
        """Its place in the freeze order; a level named in hello or metadata wins over the default."""
        return min(self.writer.link.hello.level, self.metadata.level)

    @property
    def connected(self) -> bool:
        """False once its connection has gone."""
        return self.writer.link.connected

    def status(self) -> WriterStatus:
        """As it stands in this session."""
        return self.writer.status(self.progress, self.metadata.freeze_timeout_ms)


class Cast:
    """All participants of a session, with what every event says about it."""

    def __init__(self, session_id: str, limits: Limits, document: BackupComponentsDocument) -> None:
        self.session_id = session_id
        self.document = document
        self.participants: list[Participant] = []
        self.context = 0
        self.volumes: Callable[[], list[EventVolume]] = list
        self._limits = limits

    # ---- who ----

    async def identify(self, writers: Iterable[RegisteredWriter]) -> list[WriterMetadata]:
        """Ask for metadata; writers that fail are left out. Takes all others into the cast."""
        candidates = [Participant(writer, _no_metadata(writer), WriterProgress()) for writer in writers]
        answers = await asyncio.gather(*(self._identify(candidate) for candidate in candidates))
        self.participants = [each for each, ok in zip(candidates, answers, strict=True) if ok]
        return [each.metadata for each in self.participants]

    async def _identify(self, candidate: Participant) -> bool:
        link = candidate.writer.link
        candidate.writer.progress = candidate.progress
        answer = await link.ask(self._event(candidate, WriterEvent.IDENTIFY), self._limits.identify_ms)
        trouble = answer.failure.message
        if answer.ok and answer.reply:
            trouble = _check_metadata(candidate, answer.reply.metadata)
        if not trouble:
            candidate.writer.history.components = len(candidate.metadata.components)
            return True
        code = answer.failure.code or Code.VSS_E_WRITERERROR_NONRETRYABLE
        candidate.progress.fail(WriterEvent.IDENTIFY, Failure(int(code), 0, trouble), veto=True)
        log.warning("%s is left out: %s", link.label(), trouble)
        return False

    def find(self, writer_id: str, instance_id: str = "") -> Participant | None:
        """A participant by class id, then by instance id or being the only one of its class."""
        wanted = canonical_guid(writer_id) or writer_id
        same_class = [each for each in self.participants if each.metadata.writer_id == wanted]
        instance = canonical_guid(instance_id) or instance_id
        for each in same_class:
            if instance and each.metadata.instance_id == instance:
                return each
        return same_class[0] if len(same_class) == 1 else None

    def taker(self, entry: WriterComponents) -> Participant | None:
        """Who takes an entry of the document that was not moved to another instance."""
        metadata = taker_of(entry, self.document.writers, [each.metadata for each in self.participants])
        return next((each for each in self.participants if each.metadata is metadata), None)

    def components_of(self, participant: Participant) -> WriterComponents | None:
        """Its entry in the document: one that was moved to it, else its own unless that was moved away."""
        metadata = participant.metadata
        for entry in self.document.writers:
            if entry.selected_instance == metadata.instance_id:
                return entry
        own = self.document.writer(metadata.writer_id, metadata.instance_id)
        if own is not None:
            return None if own.selected_instance else own
        for entry in self.document.writers:
            if not entry.selected_instance and self.taker(entry) is participant:
                return entry
        return None

    def taking_part(self) -> list[Participant]:
        """Those that get events after prepare-backup: with a selected component, or all in a backup by volumes."""
        if not self.document.select_components:
            return list(self.participants)
        return [each for each in self.participants if (own := self.components_of(each)) and own.components]

    def statuses(self) -> list[WriterStatus]:
        """All participants."""
        return [each.status() for each in self.participants]

    # ---- events ----

    async def tell(
        self, event: WriterEvent, who: Iterable[Participant], timeline: Timeline | None = None
    ) -> list[tuple[Participant, Answer]]:
        """Send one event in parallel to those that can take it now."""
        chosen = [each for each in who if each.progress.takes(event)]
        answers = await asyncio.gather(*(self._tell(each, event, timeline) for each in chosen))
        return list(zip(chosen, answers, strict=True))

    async def _tell(self, participant: Participant, event: WriterEvent, timeline: Timeline | None) -> Answer:
        link = participant.writer.link
        deadline_ms = float(self._limits.of(event))
        participant.progress.sent(event)
        if event is WriterEvent.PREPARE_BACKUP:
            participant.prepared_backup = True
        if event is WriterEvent.FREEZE:
            deadline_ms = self.window_ms(participant)
            participant.window_end = now() + deadline_ms / 1000
        answer = await link.ask(self._event(participant, event), deadline_ms)
        self._note(participant, answer)
        _measure(participant, answer)
        if timeline and not link.silent:
            timeline.add(
                link.label(), event.value, answer.started, answer.failure.code, answer.failure.message, answer.ended
            )
        return answer

    def window_ms(self, participant: Participant) -> int:
        """The longest time between freeze and thaw for this writer."""
        return participant.writer.window_ms(participant.metadata.freeze_timeout_ms)

    def _note(self, participant: Participant, answer: Answer) -> None:
        progress = participant.progress
        if answer.ok:
            progress.succeed(answer.event)
        else:
            progress.fail(answer.event, answer.failure, answer.veto)
            log.warning("%s [%s]", answer.failure.message, describe(answer.failure.code))
        reply = answer.reply
        if reply and reply.components is not None and answer.event in WITH_COMPONENTS:
            entry = self.components_of(participant)
            foreign = merge_reply(entry, reply.components) if entry else [each.full_path for each in reply.components]
            if foreign:
                log.warning(
                    "%s changed components that are not in the backup: %s", participant.writer.link.label(), foreign
                )

    def _event(self, participant: Participant, event: WriterEvent) -> Event:
        document = self.document
        return Event(
            seq=0,
            event=event,
            session=self.session_id,
            deadline_ms=0,
            set=document.snapshot_set_id,
            level=participant.level,
            context=self.context,
            backup_type=document.backup_type,
            restore_type=document.restore_type,
            select_components=document.select_components,
            bootable_system_state=document.bootable_system_state,
            partial_files=document.partial_files,
            volumes=[] if event is WriterEvent.IDENTIFY else self.volumes(),
            components=self._components(participant, event),
        )

    def _components(self, participant: Participant, event: WriterEvent) -> list[Component] | None:
        if event not in WITH_COMPONENTS or not self.document.select_components:
            return None
        entry = self.components_of(participant)
        components = entry.components if entry else []
        if event in (WriterEvent.PRE_RESTORE, WriterEvent.POST_RESTORE):
            return [each for each in components if each.selected_for_restore]
        return components


def _measure(participant: Participant, answer: Answer) -> None:
    """How long the writer is frozen: from the beginning of freeze to the end of what ended it."""
    if answer.event is WriterEvent.FREEZE:
        participant.frozen_since = answer.started
    elif answer.event in (WriterEvent.THAW, WriterEvent.ABORT) and participant.frozen_since:
        participant.writer.history.frozen_ms = (answer.ended - participant.frozen_since) * 1000
        participant.frozen_since = 0.0


def _no_metadata(writer: RegisteredWriter) -> WriterMetadata:
    hello = writer.link.hello
    return WriterMetadata(hello.writer_id, hello.instance_id, hello.name, hello.instance_name, level=hello.level)


def _check_metadata(candidate: Participant, metadata: WriterMetadata | None) -> str:
    """Take the metadata over; a sentence when it cannot be used."""
    hello = candidate.writer.link.hello
    if metadata is None:
        return "it answered identify without metadata"
    if canonical_guid(metadata.writer_id) != hello.writer_id:
        return f"its metadata names class {metadata.writer_id!r}, its hello {hello.writer_id}"
    if metadata.major_version < 1:
        return f"its metadata has version {metadata.major_version}.{metadata.minor_version}; 1.0 is the lowest"
    identities = [component.full_path for component in metadata.components]
    twice = {path for path in identities if identities.count(path) > 1}
    if twice:
        return f"its metadata names component {sorted(twice)[0]!r} twice"
    bad = [component.name for component in metadata.components if not component.name or "\\" in component.name]
    if bad:
        return f"its metadata has a component with the name {bad[0]!r}; a name must not be empty or hold a backslash"
    candidate.metadata = msgspec.structs.replace(
        metadata,
        writer_id=hello.writer_id,
        instance_id=hello.instance_id,
        instance_name=hello.instance_name or metadata.instance_name,
    )
    return ""


def first_refusal(answers: Iterable[tuple[Participant, Answer]]) -> VssError | None:
    """The first veto, time-out or lost connection among the answers, as an error that names the writer."""
    for participant, answer in answers:
        if answer.veto:
            failure = answer.failure
            label = participant.writer.link.label()
            sentence = failure.message if failure.message.startswith(label) else f"{label}: {failure.message}"
            return VssError(
                failure.code,
                f"{sentence} ({answer.event.value}, after {answer.elapsed_ms:.0f} ms)",
                failure.application_code,
            )
    return None
