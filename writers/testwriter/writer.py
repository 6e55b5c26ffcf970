"""The test writer: an ordinary writer with a configuration, which checks the requester and misbehaves as told.

``handle`` is the one way in: the journal, what a well-behaved test writer does in the event, then the actions. How an
answer is spoilt is decided there too, and done where the library sends it (``SpoiltAnswers``).
"""

from __future__ import annotations

import logging
import os
import threading
import time

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import BackupSchema, BackupType
from shadowset.vss.metadata import ComponentInfo, FileSet, WriterMetadata
from shadowset.vss.wire import Message
from shadowset.vss.writer_protocol import Event, Reply
from shadowset.writers.connection import Connection
from shadowset.writers.dispatcher import Send
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder, Writer
from shadowset.writers.testwriter.behaviour import Actions, SpoiltAnswers, perform
from shadowset.writers.testwriter.files import bring_back, delete, files_of, lies_on, spit
from shadowset.writers.testwriter.journal import Journal
from shadowset.writers.testwriter.settings import Settings
from shadowset.writers.testwriter.verify import Verifier

LOG = logging.getLogger("shadowset.writer.test")
NEEDED_SCHEMA = {
    BackupType.INCREMENTAL: BackupSchema.INCREMENTAL,
    BackupType.DIFFERENTIAL: BackupSchema.DIFFERENTIAL,
    BackupType.LOG: BackupSchema.LOG,
    BackupType.COPY: BackupSchema.COPY,
}

CUTS_LOGS = (BackupType.FULL, BackupType.INCREMENTAL, BackupType.LOG)


class ConfiguredWriter(Writer):
    """One instance; every one has the same class id unless its configuration gives another."""

    def __init__(self, settings: Settings, socket_path: str = "") -> None:
        """Errors: E_INVALIDARG when the journal cannot be written."""
        self.writer_id, self.name, self.instance_name = settings.writer_id, settings.name, settings.instance_name
        self.usage, self.source, self.level = settings.usage, settings.source, settings.level
        self.freeze_timeout_ms = settings.freeze_timeout_ms
        super().__init__(socket_path)
        self.settings = settings
        self._journal = Journal(settings.journal)
        self._actions = Actions(settings.actions)
        self._verifier = Verifier(settings, os.environ)
        self._answers: dict[int, SpoiltAnswers] = {}
        self._chosen: dict[str, list[ComponentInfo]] = {}
        self._spat: dict[str, dict[str, str]] = {}
        self._stamps: dict[str, str] = {}
        self._logs: dict[str, dict[str, list[str]]] = {}
        self._ending = threading.Event()

    def stop(self) -> None:
        """As ``Writer.stop``; what hangs as configured goes on."""
        self._ending.set()
        super().stop()

    # --- between the connection and the handlers

    def route(self, event: Event, connection: Connection) -> Send:
        """The way of an event's answer, on which it can be spoilt."""
        answers = self._answers[event.seq] = SpoiltAnswers(connection)

        def send(message: Message) -> None:
            if isinstance(message, Reply):
                self._answers.pop(message.seq, None)
            answers.send(message)

        return send

    def handle(self, event: CurrentEvent) -> WriterMetadata | None:
        """The whole of an event."""
        self._journal.received(event)
        LOG.info("%s%s", event.event, f": {event.reason}" if event.reason else "")
        reply = Reply(event.message.seq)
        try:
            metadata = super().handle(event)
            self._act(event)
            reply.code, reply.message = event.failure.code, event.failure.message
        except VssError as error:
            reply.veto, reply.code, reply.message = True, error.code, error.message
            raise
        except OSError as error:
            reply.veto, reply.code = True, Code.VSS_E_WRITERERROR_RETRYABLE
            reply.message = f"{event.event}: {error.filename}: {error.strerror}; see to the file and try again"
            raise VssError(reply.code, reply.message) from error
        finally:
            self._journal.answered(event, reply)
        return metadata

    def _act(self, event: CurrentEvent) -> None:
        due = self._actions.due(event.event)
        answers = self._answers.get(event.message.seq)
        if answers is not None:
            answers.actions = due
        for action in due:
            perform(action, event, self._ending, self._hang_up)

    def _hang_up(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.close()

    # --- what a test writer does when it behaves

    def on_identify(self, metadata: MetadataBuilder) -> WriterMetadata:
        settings = self.settings
        return msgspec.structs.replace(
            self.identity(),
            restore_method=settings.restore_method,
            components=tuple(each.info for each in settings.components),
            exclude_files=settings.excluded,
            alternate_location_mappings=settings.mappings,
            backup_schema=settings.schema,
        )

    def on_prepare_backup(self, event: CurrentEvent) -> None:
        needed = NEEDED_SCHEMA.get(event.backup_type)
        if needed is not None and not self.settings.schema & needed:
            LOG.warning("the requester makes a %s backup, which this writer does not support", event.backup_type.name)
        self._chosen[event.session] = self._infos(event.components)
        for component in event.components:
            configured = self.settings.component(component.logical_path, component.name)
            if configured is not None and event.message.partial_files:
                component.partial_files = list(configured.partial_files)

    def _infos(self, components: list[Component]) -> list[ComponentInfo]:
        found = [self.settings.component(each.logical_path, each.name) for each in components]
        return [each.info for each in found if each is not None]

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        chosen = self._chosen.get(event.session, [])
        self._stamps[event.session] = str(time.time_ns())
        excluded = self.settings.excluded
        self._logs[event.session] = {i.full_path: files_of(i.log_files, excluded, os.environ) for i in chosen}
        self._verifier.record(event.session, chosen)
        spat = self._spat.setdefault(event.session, {})
        for files in self._file_sets(chosen):
            spat.update(spit(files, self.settings.excluded, os.environ))
        if self.settings.delete_files:
            delete(spat)

    @staticmethod
    def _file_sets(chosen: list[ComponentInfo]) -> list[FileSet]:
        return [files for info in chosen for files in info.file_sets]

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        for component in event.components:
            configured = self.settings.component(component.logical_path, component.name)
            if configured is None:
                continue
            component.differenced_files = list(configured.differenced_files)
            component.backup_stamp = configured.backup_stamp or component.backup_stamp
            if configured.stamps:
                self._stamp(component, self._stamps.get(event.session, ""))
            component.backup_metadata = configured.backup_metadata or component.backup_metadata
        self._verifier.keep(event.session)
        self._delete(event)

    @staticmethod
    def _stamp(component: Component, stamp: str) -> None:
        component.backup_stamp = stamp
        since = int(component.previous_backup_stamp or 0)
        component.differenced_files = [
            msgspec.structs.replace(each, last_modified_ns=since) for each in component.differenced_files
        ]

    def _delete(self, event: CurrentEvent) -> None:
        """Deletes what the configuration wants deleted, as far as it is safe in a shadow copy of the set."""
        chosen = self._chosen.get(event.session, [])
        spat = self._spat.pop(event.session, {})
        wanted = files_of(self._to_delete(chosen), self.settings.excluded, os.environ)
        wanted += spat.values() if self.settings.delete_files else ()
        mounts = [mount for volume in event.volumes for mount in volume.mount_points]
        for path in wanted:
            if lies_on(path, mounts):
                delete([path])
            else:
                LOG.warning("%s is on no volume of the set, so it is not deleted", path)

    def _to_delete(self, chosen: list[ComponentInfo]) -> list[FileSet]:
        settings = self.settings
        rules = self._file_sets(chosen) if settings.delete_files else []
        for configured in filter(None, (settings.component(info.logical_path, info.name) for info in chosen)):
            if settings.delete_partial_files:
                rules += [FileSet(each.path, each.filename) for each in configured.partial_files]
            if settings.delete_differenced_files:
                rules += [FileSet(each.path, each.filespec, each.recursive) for each in configured.differenced_files]
        return rules

    def on_abort(self, event: CurrentEvent) -> None:
        bring_back(self._spat.pop(event.session, {}))
        self._forget(event)

    def on_backup_complete(self, event: CurrentEvent) -> None:
        for component in event.components:
            if not component.backup_succeeded:
                LOG.warning("the requester says that %s was not backed up", component.full_path)
            elif self.settings.cut_logs and event.backup_type in CUTS_LOGS:
                delete(self._logs.get(event.session, {}).get(component.full_path, ()))

    def on_backup_shutdown(self, event: CurrentEvent) -> None:
        self._forget(event)

    def _forget(self, event: CurrentEvent) -> None:
        self._chosen.pop(event.session, None)
        self._spat.pop(event.session, None)
        self._stamps.pop(event.session, None)
        self._logs.pop(event.session, None)
        self._verifier.forget(event.session)

    def on_pre_restore(self, event: CurrentEvent) -> None:
        for component in event.components:
            configured = self.settings.component(component.logical_path, component.name)
            if configured is not None and configured.restore_target:
                component.restore_target = configured.restore_target
                component.directed_targets = list(configured.directed_targets)

    def on_post_restore(self, event: CurrentEvent) -> None:
        problems = {}
        for component in event.components:
            configured = self.settings.component(component.logical_path, component.name)
            if component.selected_for_restore and configured is not None:
                problems[component.full_path] = self._verifier.problems(configured, component)
        wrong = [problem for found in problems.values() for problem in found] + self._verifier.excluded()
        for problem in wrong:
            LOG.warning("%s", problem)
        if not wrong:
            return
        for component in event.components:
            component.post_restore_failure_message = "; ".join(problems.get(component.full_path, []))
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        event.set_failure(Code.VSS_E_WRITERERROR_NONRETRYABLE, f"{wrong[0]}{more}; look at the requester's restore")
