"""The restore of one backup: let the writers make way, put the files back, let the writers take over.

A chain of backups is as many of these, each with a session and a document of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from shadowset.requester.backup import manifest as bundle
from shadowset.requester.backup.chain import Link
from shadowset.requester.backup.copy import OnBytes
from shadowset.requester.backup.manifest import DIRECTORY, PARENT
from shadowset.requester.backup.verdicts import failed_in_part, has_failed, writer_failure_text
from shadowset.requester.backup_components import BackupComponents, ComponentKey
from shadowset.requester.observer import Observer
from shadowset.requester.restore import services
from shadowset.requester.restore.choose import RestoreItem
from shadowset.requester.restore.pending import PendingList, PendingRestore
from shadowset.requester.restore.place import Placement
from shadowset.requester.restore.report import RestoredComponent, restored
from shadowset.requester.restore.takers import component_of, refusal_text, require_taker
from shadowset.requester.restore.targets import Way, find_way, stale_of
from shadowset.requester.restore.wishes import Wishes, new_targets, tell, tell_ranges_files
from shadowset.vss.codes import VssError
from shadowset.vss.components import BackupComponentsDocument, Component
from shadowset.vss.enums import ComponentType, FileRestoreStatus, RestoreMethodType, RestoreType, WriterRestore
from shadowset.vss.metadata import WriterMetadata
from shadowset.vss.paths import Paths
from shadowset.vss.requester_protocol import WriterStatus
from shadowset.vss.selection import guid_key

Identity = tuple[str, str, str]
DIRECTORIES = (DIRECTORY, PARENT)


class RestoreStep:
    """One backup's part of a restore. ``problems`` are sentences about writers and services that failed afterwards."""

    def __init__(
        self,
        link: Link,
        items: list[RestoreItem],
        wishes: Wishes,
        mapped_before: dict[Identity, bool],
        variables: Mapping[str, str],
        paths: Paths,
        observer: Observer,
    ) -> None:
        """``mapped_before``, by item: whether an earlier backup of its chain went to alternate places; kept here."""
        self._link = link
        self._items = items
        self._wishes = wishes
        self._mapped = mapped_before
        self._variables = variables
        self._paths = paths
        self._observer = observer
        self._takers: dict[tuple[str, str], str] = {}
        self._refused: dict[Identity, str] = {}
        self.problems: list[str] = []

    def run(self) -> list[RestoredComponent]:
        """A result for each item. Errors: VssError before anything was changed."""
        with BackupComponents(self._paths, client="shadowset restore") as calls:
            self._select(calls)
            self._observer.phase("letting the writers make way")
            calls.pre_restore().result()
            document = calls.get_document()
            self._note_refusals(calls.gather_writer_status().result(), document)
            results = self._place_all(calls, document)
            self._observer.phase("letting the writers take over")
            calls.post_restore().result()
            self._note_failures(calls, results)
        return results

    # ---- the writers ----

    def _select(self, calls: BackupComponents) -> None:
        calls.initialize_for_restore(self._link.texts[bundle.COMPONENTS_DOCUMENT])
        calls.set_restore_state(RestoreType.BY_COPY)
        self._observer.phase("asking the writers")
        running = calls.gather_writer_metadata().result()
        document = self._link.document
        selected: set[ComponentKey] = set()
        for item in self._items:
            item.events = item.events and not self._goes_without(item)
            if not item.events:
                continue
            if item.key not in selected:
                self._select_component(calls, item, document, running)
                selected.add(item.key)
            if item.member is not None:
                calls.add_restore_subcomponent(item.key, item.member.logical_path, item.member.name)

    def _select_component(
        self,
        calls: BackupComponents,
        item: RestoreItem,
        document: BackupComponentsDocument,
        running: list[WriterMetadata],
    ) -> None:
        """Once for each defining component, however many of its members are restored by themselves."""
        instance = self._wishes.instance_for(item)
        self._takers[item.instance] = require_taker(item, document.writers, running, instance)
        if instance:
            calls.set_selected_for_restore_ex(item.key, instance)
        else:
            calls.set_selected_for_restore(item.key)
        tell(calls, item, self._wishes, self._variables)
        tell_ranges_files(calls, item, document)

    def _goes_without(self, item: RestoreItem) -> bool:
        """Whether its writer wants to be involved only where files cannot be replaced, and they can."""
        if item.metadata.restore_method.writer_restore != WriterRestore.IF_REPLACE_FAILS:
            return False
        try:
            way = find_way(item, None, self._variables, self._mapped.get(item.identity))
        except (VssError, OSError):
            return False
        return not way.moved and not way.at_reboot

    def _taker(self, item: RestoreItem) -> str:
        return self._takers.get(item.instance, "") if item.events else ""

    def _note_refusals(self, statuses: list[WriterStatus], document: BackupComponentsDocument) -> None:
        """A writer that failed keeps its files, one that failed in part those of the components that say so."""
        failed = {guid_key(status.instance_id): status for status in statuses if has_failed(status)}
        for item in self._items:
            status = failed.get(self._taker(item))
            component = component_of(document, item)
            message = component.pre_restore_failure_message if component else ""
            if status is not None and failed_in_part(status) and component is not None:
                if message or component.failure.code:
                    self._refused[item.identity] = f"its writer says: {refusal_text(component, message)}"
            elif status is not None:
                more = f" ({message})" if message else ""
                self._refused[item.identity] = writer_failure_text(status) + more
            elif message:
                self._refused[item.identity] = f"its writer says: {message}"

    def _note_failures(self, calls: BackupComponents, results: list[RestoredComponent]) -> None:
        """What the writers say in the end, of the components too."""
        told = {self._taker(item) for item in self._items if item.identity in self._refused}
        concerned = {self._taker(item) for item in self._items} - told
        for status in calls.gather_writer_status().result():
            if has_failed(status) and guid_key(status.instance_id) in concerned:
                self.problems.append(f"after the restore {writer_failure_text(status)}")
        document = calls.get_document()
        for item, result in zip(self._items, results, strict=True):
            component = component_of(document, item)
            result.restore_metadata = component.restore_metadata if component is not None else ""
            if component is not None and component.post_restore_failure_message:
                message = component.post_restore_failure_message
                self.problems.append(f"after the restore of component {item.path} its writer says: {message}")

    # ---- the files ----

    def _place_all(self, calls: BackupComponents, document: BackupComponentsDocument) -> list[RestoredComponent]:
        self._observer.phase("putting the files back")
        stopped = self._stop_services()
        on_bytes = self._observer.begin(sum(file.size for item in self._items for file in item.files))
        results = []
        try:
            for item in self._items:
                reason = self._refused.get(item.identity, "")
                if reason:
                    result = restored(item, FileRestoreStatus.NONE, reason)
                else:
                    result = self._place(calls, item, self._component(document, item), on_bytes)
                results.append(result)
            self._tell_statuses(calls, results)
        finally:
            self._start_services(stopped)
        self._observer.end()
        return results

    def _tell_statuses(self, calls: BackupComponents, results: list[RestoredComponent]) -> None:
        """One for each defining component: a part that is restored beside one that is not makes it FAILED."""
        found: dict[ComponentKey, set[FileRestoreStatus]] = {}
        for item, result in zip(self._items, results, strict=True):
            if item.events:
                found.setdefault(item.key, set()).add(result.status)
        for key, statuses in found.items():
            calls.set_file_restore_status(key, statuses.pop() if len(statuses) == 1 else FileRestoreStatus.FAILED)

    def _component(self, document: BackupComponentsDocument, item: RestoreItem) -> Component | None:
        if item.events:
            return component_of(document, item)
        component = Component(ComponentType.UNDEFINED, item.component.logical_path, item.component.name)
        component.new_targets = new_targets(item, self._wishes, self._variables)
        return component

    def _stop_services(self) -> list[str]:
        """Stop what has to be stopped before; a component whose service does not stop is not restored."""
        stopped: list[str] = []
        failed: dict[str, str] = {}
        for item in self._items:
            method = item.metadata.restore_method
            if method.method != RestoreMethodType.STOP_RESTORE_START or item.identity in self._refused:
                continue
            if method.service not in (*stopped, *failed):
                try:
                    services.stop(method.service)
                    stopped.append(method.service)
                except VssError as error:
                    failed[method.service] = error.message
            if method.service in failed:
                self._refused[item.identity] = failed[method.service]
        return stopped

    def _start_services(self, stopped: list[str]) -> None:
        again = []
        for item in self._items:
            method = item.metadata.restore_method
            if method.method == RestoreMethodType.RESTORE_STOP_START and item.identity not in self._refused:
                again += [method.service] if method.service not in again else []
        for service in (*stopped, *again):
            try:
                if service in again:
                    services.stop(service)
                services.start(service)
            except VssError as error:
                self.problems.append(f"after the restore {error.message}")

    def _place(
        self, calls: BackupComponents, item: RestoreItem, component: Component | None, on_bytes: OnBytes
    ) -> RestoredComponent:
        """Restore one component; a failure is told in the result, so that the others are restored all the same."""
        placement = None
        try:
            way = find_way(item, component, self._variables, self._mapped.get(item.identity))
            self._mapped.setdefault(item.identity, bool(way.mappings))
            placement = Placement(self._link.directory, way.puts, pending=way.at_reboot)
            # Before staging, whose temporary files would count as stale.
            leftovers = set(placement.clear())
            stale = [path for path in stale_of(item, way, self._variables) if path not in leftovers]
            placement.stage(on_bytes)
            removed = self._finish(item, placement, way, stale)
        except (VssError, OSError) as error:
            touched = placement is not None and placement.touched
            if placement is not None:
                placement.undo()
            text = str(error) if isinstance(error, VssError) else f"{error.filename}: {error.strerror}"
            return restored(item, FileRestoreStatus.FAILED if touched else FileRestoreStatus.NONE, text)
        except BaseException:
            if placement is not None:
                placement.undo()
            raise
        for mapping in way.mappings if item.events else ():
            calls.add_alternative_location_mapping(
                item.key, mapping.path, mapping.filespec, mapping.recursive, mapping.alternate_path
            )
        return _result(item, way, removed)

    def _finish(self, item: RestoreItem, placement: Placement, way: Way, stale: list[str]) -> list[str]:
        """Put it in place, or into the list for the next boot; returns what was removed."""
        if not way.at_reboot:
            return placement.commit(stale)
        record = PendingRestore(
            source=self._link.directory,
            writer=item.metadata.name,
            component=item.path,
            swaps=placement.defer(),
            remove=stale,
        )
        PendingList(self._paths.pending).add(record)
        return []


def _result(item: RestoreItem, way: Way, removed: list[str]) -> RestoredComponent:
    result = restored(item, FileRestoreStatus.ALL)
    result.removed = removed
    result.mapped = [mapping.alternate_path for mapping in way.mappings]
    result.at_reboot = way.at_reboot
    if way.moved and not way.mappings:
        moved = [put for put in way.puts if put.file.kind not in DIRECTORIES and put.destination != put.file.path]
        elsewhere = {os.path.dirname(put.destination) for put in moved}
        result.moved_to = sorted(elsewhere)
    return result
