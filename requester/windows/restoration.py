"""A restore as diskshadow and vshadow do one: the writers' events around whatever puts the files back.

The files are somebody else's business (a script between the two events); this selects the components of a saved backup
components document for restore and says how it went.
"""

from __future__ import annotations

from typing import NamedTuple

from shadowset.requester.backup.verdicts import has_failed, writer_failure_text
from shadowset.requester.backup_components import BackupComponents, ComponentKey
from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import BackupComponentsDocument, Component, WriterComponents
from shadowset.vss.documents import components_from_xml
from shadowset.vss.enums import FileRestoreStatus, RestoreType
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.selection import Selector, wants_restore_events
from shadowset.vss.selection.dependencies import guid_key


class Concerned(NamedTuple):
    """A component that is to be restored, and its writer as it runs now."""

    writer: WriterMetadata
    component: Component
    key: ComponentKey


class Restoration:
    """One restore on one BackupComponents. Errors of all calls: VssError."""

    def __init__(
        self,
        calls: BackupComponents,
        document: str,
        required: tuple[Selector, ...] = (),
        excluded: tuple[Selector, ...] = (),
    ) -> None:
        self._calls = calls
        self._text = document
        self._document = components_from_xml(document)
        self._required = required
        self._excluded = excluded
        self._chosen: list[Concerned] = []

    def choose(self) -> list[Concerned]:
        """Ask the writers; returns what would be restored.

        Errors: VSS_E_OBJECT_NOT_FOUND when there is nothing, or not what must be in it.
        """
        self._calls.initialize_for_restore(self._text)
        self._calls.set_restore_state(RestoreType.BY_COPY)
        running = self._calls.gather_writer_metadata().result()
        self._chosen = choose(self._document, running, self._required, self._excluded)
        return self._chosen

    def begin(self) -> None:
        """Select the components and let their writers make way. After choose."""
        for one in self._chosen:
            self._calls.set_selected_for_restore(one.key)
        self._calls.pre_restore().result()
        self._refuse_failed()

    def end(self, succeeded: bool = True) -> None:
        """Say how it went and let the writers take over."""
        status = FileRestoreStatus.ALL if succeeded else FileRestoreStatus.FAILED
        for one in self._chosen:
            self._calls.set_file_restore_status(one.key, status)
        self._calls.post_restore().result()
        self._refuse_failed()

    def _refuse_failed(self) -> None:
        concerned = {guid_key(one.writer.instance_id) for one in self._chosen}
        for status in self._calls.gather_writer_status().result():
            if has_failed(status) and guid_key(status.instance_id) in concerned:
                raise VssError(status.failure.code or Code.VSS_E_WRITER_NOT_RESPONDING, writer_failure_text(status))


def choose(
    document: BackupComponentsDocument,
    running: list[WriterMetadata],
    required: tuple[Selector, ...] = (),
    excluded: tuple[Selector, ...] = (),
) -> list[Concerned]:
    """The components of a document whose writers run and want restore events.

    Errors: VSS_E_OBJECT_NOT_FOUND when there are none, or not those of a selector in ``required``.
    """
    chosen = [
        Concerned(writer, component, _key(entry, component))
        for entry in document.writers
        for writer in _running(entry, running)
        for component in entry.components
        if wants_restore_events(writer) and not any(_means(one, writer, component) for one in excluded)
    ]
    for selector in required:
        if not any(_means(selector, one.writer, one.component) for one in chosen):
            raise VssError(
                Code.VSS_E_OBJECT_NOT_FOUND,
                f"{selector} must be in the restore and is not; see that its writer runs and that the document has it",
            )
    if not chosen:
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            "no writer that runs has a component in the document; start the writers of the backup",
        )
    return chosen


def _running(entry: WriterComponents, running: list[WriterMetadata]) -> list[WriterMetadata]:
    """The writer of an entry: the same instance, else the first of its class."""
    alike = [one for one in running if guid_key(one.writer_id) == guid_key(entry.writer_id)]
    same = [one for one in alike if guid_key(one.instance_id) == guid_key(entry.instance_id)]
    return (same or alike)[:1]


def _key(entry: WriterComponents, component: Component) -> ComponentKey:
    return ComponentKey(entry.writer_id, entry.instance_id, component.type, component.logical_path, component.name)


def _means(selector: Selector, writer: WriterMetadata, component: Component) -> bool:
    return selector.names(writer) and selector.path in ("", component.full_path)
