"""The writer of a Plone farm: it knows what belongs together, and holds what the databases' writers do not.

Components::

    Farm                      selectable; defines the set, so everything below comes with it
    Farm\\Config\\main          only with the whole farm: the root database, the register
    Farm\\Content\\c1           also by itself: a content database, with its blobs
    Farm\\FileStore\\…          only with the whole farm
    Farm\\Search\\…             the same
    Farm\\ThirdParty\\…         the same

The farm has the blobs and stores of files; all databases and indexes are other writers', and the components depend on
theirs.
"""

from __future__ import annotations

import logging
import os
import threading
from datetime import UTC, datetime

import msgspec
import psycopg

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import BackupSchema, ComponentType, Level, RestoreMethodType, SourceType, WriterRestore
from shadowset.writers.metadata_builder import ComponentBuilder
from shadowset.writers.plone.dependencies import depend
from shadowset.writers.plone.register import CONFIG, CONTENT, Database, Register, read_register, record_backup
from shadowset.writers.plone.restore import CONTENT_PATH, FARM, Returning, Summary, chosen_content, summary_of
from shadowset.writers.plone.settings import Settings
from shadowset.writers.plone.suspension import Suspension, connect, failed
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder, Writer

PLONE_WRITER_ID = "0f5f5f0e-0d8c-4a43-9a3c-8a2ad3f5b7d1"
FREEZE_SHARE = 0.5  # of the time for freeze
LOG = logging.getLogger("shadowset.writer.plone")


class PloneWriter(Writer):
    """Takes one farm through backup and restore."""

    writer_id = PLONE_WRITER_ID
    name = "Plone Farm Writer"
    source = SourceType.TRANSACTEDDB
    level = Level.FRONT_END

    def __init__(self, settings: Settings, socket_path: str = "") -> None:
        super().__init__(socket_path)
        self.settings = settings
        self.instance_name = settings.name
        self.freeze_timeout_ms = settings.freeze_timeout_ms
        self._suspension: Suspension | None = None
        self._guard = threading.Lock()  # abort may come while another handler hangs in a database
        self._frozen_at = ""
        self._returning: Returning | None = None

    def _register(self) -> Register:
        """Errors: VssError."""
        try:
            with connect(self.settings.farm.connection) as session:
                return read_register(session)
        except psycopg.Error as error:
            raise failed("with its register", "cannot be read", error) from error

    # --- identify

    def on_identify(self, metadata: MetadataBuilder) -> None:
        metadata.set_restore_method(RestoreMethodType.RESTORE_IF_CAN_REPLACE, WriterRestore.ALWAYS)
        metadata.set_backup_schema(BackupSchema.COPY)
        try:
            register = self._register()
        except VssError as error:
            # A farm that is lost has to be known by its writer all the same, or it could not be restored.
            LOG.warning("%s: the farm is shown without components", error.message)
            return
        whole = metadata.add_component(
            ComponentType.FILEGROUP, FARM, caption="The whole farm", notify_on_backup_complete=True
        )
        for database in register.databases:
            self._add_database(metadata, whole, database)
        for index in register.indexes:
            part = metadata.add_component(ComponentType.FILEGROUP, index.name, f"{FARM}\\Search", selectable=False)
            for component in (part, whole):
                depend(component, index)
        for name, directory in register.stores.items():
            store = metadata.add_component(ComponentType.FILEGROUP, name, f"{FARM}\\FileStore", selectable=False)
            store.add_files(os.path.realpath(directory), "*", True)

    def _add_database(self, metadata: MetadataBuilder, whole: ComponentBuilder, database: Database) -> None:
        kinds = {CONFIG: "Config", CONTENT: "Content"}
        alone = database.role == CONTENT
        part = metadata.add_component(
            ComponentType.FILEGROUP if database.blobs else ComponentType.DATABASE,
            database.name,
            f"{FARM}\\{kinds.get(database.role, 'ThirdParty')}",
            selectable=alone,
            selectable_for_restore=alone,
            notify_on_backup_complete=alone,
        )
        for component in (part, whole):
            depend(component, database)
        if database.blobs:
            part.add_files(os.path.realpath(database.blobs), "*", True)

    # --- backup

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        """Closes the administration, and looks whether all of the farm will be in the set."""
        self._let_go()
        suspension = Suspension(self.settings.farm.connection)
        with self._guard:
            self._suspension = suspension
        wanted = {component.full_path for component in event.components} or {FARM}
        missing = [path for path in self._places(suspension.register, wanted) if event.is_path_left_out(path)]
        if missing:
            message = f"{', '.join(missing)} of the farm lie on no volume of the set; add their volumes"
            event.set_failure(Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT, message)

    def _places(self, register: Register, wanted: set[str]) -> list[str]:
        """Everything on this host that the wanted components need."""
        databases = [
            each
            for each in register.databases
            if not each.host and (FARM in wanted or f"{CONTENT_PATH}{each.name}" in wanted)
        ]
        places = [place for each in databases for place in (each.location, each.blobs) if place]
        if FARM in wanted:
            places += [each.location for each in register.indexes if not each.host] + list(register.stores.values())
        return [os.path.realpath(place) for place in dict.fromkeys(places)]

    def on_freeze(self, event: CurrentEvent) -> None:
        if self._suspension is None:
            raise VssError(Code.VSS_E_BAD_STATE, "the farm was not prepared for a copy; begin again")
        self._suspension.hold(event.remaining * FREEZE_SHARE, event.remaining)
        self._frozen_at = datetime.now(UTC).isoformat(timespec="milliseconds")

    def on_thaw(self, event: CurrentEvent) -> None:
        if self._suspension is not None:
            self._suspension.release()

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        suspension = self._suspension
        if suspension is None:
            return
        summary = Summary(suspension.register, suspension.tids, self._frozen_at)
        for component in event.components:
            component.backup_stamp = self._frozen_at
            component.backup_metadata = msgspec.json.encode(summary).decode()
        self._let_go()

    def on_abort(self, event: CurrentEvent) -> None:
        self._let_go()

    def _let_go(self) -> None:
        with self._guard:
            suspension, self._suspension = self._suspension, None
        if suspension is not None:
            suspension.close()

    def on_backup_complete(self, event: CurrentEvent) -> None:
        saved = [component.full_path for component in event.components if component.backup_succeeded]
        if not saved:
            return
        stamp = next(component.backup_stamp for component in event.components if component.backup_succeeded)
        try:
            with connect(self.settings.farm.connection) as session:
                record_backup(session, saved, event.set, stamp or self._frozen_at)
        except psycopg.Error as error:
            raise failed("with its register", "cannot record the backup", error) from error

    # --- restore

    def on_pre_restore(self, event: CurrentEvent) -> None:
        selected = self._selected(event)
        if not selected:
            return
        summary = summary_of(selected[0])
        returning = Returning(self.settings, summary, chosen_content(selected, summary.register))
        returning.detach(event.remaining)
        self._returning = returning

    def on_post_restore(self, event: CurrentEvent) -> None:
        selected = self._selected(event)
        if not selected:
            return
        summary = summary_of(selected[0])
        returning = self._returning or Returning(self.settings, summary, chosen_content(selected, summary.register))
        self._returning = None
        try:
            returning.attach(event.remaining, lambda: event.cancelled)
        except VssError as error:
            for component in selected:
                component.post_restore_failure_message = error.message
            event.set_failure(Code.VSS_E_WRITERERROR_RECOVERY_FAILED, error.message)

    def _selected(self, event: CurrentEvent) -> list[Component]:
        return [component for component in event.components if component.selected_for_restore]
