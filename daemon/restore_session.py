"""A restore session: the saved document, the writers that run now, pre-restore and post-restore."""

from __future__ import annotations

from shadowset.daemon.cast import Participant
from shadowset.daemon.document import apply_component_call, before_restore, find_component
from shadowset.daemon.house import House
from shadowset.daemon.registry import canonical_guid
from shadowset.daemon.restore_wishes import apply_wish, require_file_set, require_supported
from shadowset.daemon.writer_session import WriterSession
from shadowset.vss import requester_protocol as rp
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component, WriterComponents
from shadowset.vss.documents import components_from_xml
from shadowset.vss.enums import WriterEvent


class RestoreSession(WriterSession):
    """From initialize-for-restore to the end of the connection. A restore cannot be aborted."""

    def __init__(self, house: House, document: str) -> None:
        """Errors: VSS_E_INVALID_XML_DOCUMENT, VSS_E_CORRUPT_XML_DOCUMENT."""
        super().__init__(house, before_restore(components_from_xml(document)))
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
        component, entry = self._component(call)
        require_supported(entry, call)
        if isinstance(call, rp.AddNewTarget):
            require_file_set(self._running(entry, entry.selected_instance).metadata, component, call)
        super().change(call)
        apply_wish(component, call)

    def select(self, call: rp.SetSelectedForRestore) -> None:
        """Errors: VSS_E_OBJECT_NOT_FOUND when the component is not in the document or its writer does not run.

        Those of set-selected-for-restore-ex beside it: VSS_E_NOT_SUPPORTED, VSS_E_OBJECT_ALREADY_EXISTS.
        """
        component, entry = self._component(call)
        require_supported(entry, call)
        instance = ""
        if isinstance(call, rp.SetSelectedForRestoreEx):
            instance = canonical_guid(call.selected_instance) or call.selected_instance
        if call.selected:
            self._require_free(entry, component, instance, self._running(entry, instance))
        apply_component_call(component, call)
        component.selected_instance = instance if call.selected else ""

    def _component(self, call: rp.ComponentCall) -> tuple[Component, WriterComponents]:
        component = find_component(self.document, call)
        entry = self.document.writer(call.writer_id, call.instance_id)
        assert entry is not None
        return component, entry

    def _running(self, entry: WriterComponents, instance: str = "") -> Participant:
        """The writer that takes an entry: its own instance, or the one named."""
        found = self.cast.find(entry.writer_id, instance) if instance else self.cast.taker(entry)
        if found is not None and instance in ("", found.metadata.instance_id):
            return found
        which = f"instance {instance[:60]!r} of " if instance else ""
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            f"{which}writer {entry.name or entry.writer_id} does not run; start it, or restore its files without it",
        )

    def _require_free(self, entry: WriterComponents, component: Component, instance: str, taker: Participant) -> None:
        """Events name components, not instances: an instance takes one entry, and an entry goes to one instance."""
        name = entry.name or entry.writer_id
        chosen = [each for each in entry.components if each.selected_for_restore and each is not component]
        if any(each.selected_instance != instance for each in chosen):
            raise VssError(
                Code.VSS_E_OBJECT_ALREADY_EXISTS,
                f"other components of writer {name} are selected for another instance; move all of them to one",
            )
        taken = self.cast.components_of(taker)
        if taken and taken is not entry and any(each.selected_for_restore for each in taken.components):
            raise VssError(
                Code.VSS_E_OBJECT_ALREADY_EXISTS,
                f"instance {taker.metadata.instance_id} of writer {name} already takes the components of "
                f"instance {taken.instance_id}; restore the two one after the other",
            )

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
