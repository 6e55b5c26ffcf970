"""A restore session: the saved document, the writers that run now, pre-restore and post-restore."""

from __future__ import annotations

from shadowset.daemon.cast import Participant
from shadowset.daemon.document import apply_component_call, find_component
from shadowset.daemon.house import House
from shadowset.daemon.registry import canonical_guid
from shadowset.daemon.writer_session import WriterSession
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.documents import components_from_xml
from shadowset.vss.enums import WriterEvent


class RestoreSession(WriterSession):
    """From initialize-for-restore to the end of the connection. A restore cannot be aborted."""

    def __init__(self, house: House, document: str) -> None:
        """Errors: VSS_E_INVALID_XML_DOCUMENT, VSS_E_CORRUPT_XML_DOCUMENT."""
        super().__init__(house, components_from_xml(document))
        for entry in self.document.writers:
            entry.writer_id = canonical_guid(entry.writer_id) or entry.writer_id
            entry.instance_id = canonical_guid(entry.instance_id) or entry.instance_id
        self._with_options: set[int] = set()

    def change(self, call: rp.ComponentCall) -> None:
        """Errors: VSS_E_OBJECT_ALREADY_EXISTS for a second set-restore-options, and those of the base class.

        Options that the saved document brings along are those of an earlier restore and may be replaced.
        """
        if isinstance(call, rp.SetRestoreOptions):
            component = find_component(self.document, call)
            if id(component) in self._with_options:
                raise VssError(
                    Code.VSS_E_OBJECT_ALREADY_EXISTS,
                    f"component {component.full_path!r} was given its restore options before in this session",
                )
            self._with_options.add(id(component))
        super().change(call)

    def select(self, call: rp.SetSelectedForRestore) -> None:
        """Errors: VSS_E_OBJECT_NOT_FOUND when the component is not in the document or its writer does not run."""
        component = find_component(self.document, call)
        entry = self.document.writer(call.writer_id, call.instance_id)
        assert entry is not None
        if self.cast.find(entry.writer_id, entry.instance_id, entry.instance_name) is None:
            raise VssError(
                Code.VSS_E_OBJECT_NOT_FOUND,
                f"writer {entry.name or entry.writer_id} does not run; start it, or restore its files without it",
            )
        apply_component_call(component, call)

    async def pre_restore(self) -> None:
        """PreRestore to the writers with selected components; refusals show in the writers' status."""
        await self.cast.tell(WriterEvent.PRE_RESTORE, self._selected())

    async def post_restore(self) -> None:
        """PostRestore to the same."""
        await self.cast.tell(WriterEvent.POST_RESTORE, self._selected())

    async def close(self) -> None:
        """The connection has gone."""
        self.leave()

    def _selected(self) -> list[Participant]:
        chosen = []
        for each in self.cast.participants:
            entry = self.cast.components_of(each)
            if entry and any(component.selected_for_restore for component in entry.components):
                chosen.append(each)
        return chosen
