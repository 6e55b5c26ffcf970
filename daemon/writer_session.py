"""What a backup and a restore session have in common: an id, the writers that take part, and the document."""

from __future__ import annotations

import asyncio
import uuid

from shadowset.daemon.cast import Cast
from shadowset.daemon.document import apply_component_call, find_component
from shadowset.daemon.house import House
from shadowset.daemon.registry import RegisteredWriter, canonical_guid
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument
from shadowset.vss.enums import WriterEvent
from shadowset.vss.metadata import WriterMetadata


class WriterSession:
    """Counts towards the limit of sessions from its making until ``leave``."""

    def __init__(self, house: House, document: BackupComponentsDocument) -> None:
        """Errors: VSS_E_WRITER_STATUS_NOT_AVAILABLE when too many sessions are open."""
        if len(house.sessions) >= house.limits.sessions:
            raise VssError(
                Code.VSS_E_WRITER_STATUS_NOT_AVAILABLE,
                f"{house.limits.sessions} sessions are open, which is the limit; wait for one to end",
            )
        self.house = house
        self.session_id = str(uuid.uuid4())
        self.document = document
        document.session_id = self.session_id
        self.cast = Cast(self.session_id, house.limits, document)
        self._only_classes: set[str] = set()
        self._no_classes: set[str] = set()
        self._no_instances: set[str] = set()
        house.sessions.add(self.session_id)

    def leave(self) -> None:
        """The session has ended."""
        self.house.sessions.discard(self.session_id)

    # ---- who takes part ----

    def enable_classes(self, writer_ids: list[str]) -> None:
        """Only these classes, and those named in other calls of this kind."""
        self._only_classes |= {_guid(each) for each in writer_ids}

    def disable_classes(self, writer_ids: list[str]) -> None:
        """Not these classes."""
        self._no_classes |= {_guid(each) for each in writer_ids}

    def disable_instances(self, instance_ids: list[str]) -> None:
        """Not these instances."""
        self._no_instances |= {canonical_guid(each) or each for each in instance_ids}

    def _enabled(self, writer: RegisteredWriter) -> bool:
        hello = writer.link.hello
        if self._only_classes and hello.writer_id not in self._only_classes:
            return False
        return hello.writer_id not in self._no_classes and hello.instance_id not in self._no_instances

    async def gather_metadata(self) -> list[WriterMetadata]:
        """Identify every enabled writer; those that fail are not in the list."""
        return await self.cast.identify(filter(self._enabled, self.house.registry.all()))

    def status(self) -> list[rp.WriterStatus]:
        """The participants as they stand in this session."""
        return self.cast.statuses()

    # ---- the document ----

    def change(self, call: rp.ComponentCall) -> None:
        """Set something of a component. Errors: VSS_E_OBJECT_NOT_FOUND, VSS_E_BAD_STATE."""
        apply_component_call(find_component(self.document, call), call)

    # ---- the end ----

    async def shut_down_writers(self) -> None:
        """BackupShutdown to every writer that has prepared for this backup and has something to clean up."""
        taking_part = self.cast.taking_part()
        reached = [each for each in taking_part if each.prepared_backup and each.connected]
        await asyncio.shield(self.cast.tell(WriterEvent.BACKUP_SHUTDOWN, reached))


def _guid(text: str) -> str:
    guid = canonical_guid(text)
    if not guid:
        raise VssError(Code.E_INVALIDARG, f"{text[:60]!r} is not the id of a writer class")
    return guid
