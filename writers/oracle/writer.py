"""The Oracle writer: tablespaces in backup mode over the cut, then the logs archived and the control file copied."""

from __future__ import annotations

import json
import logging
import os

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import (
    BackupSchema,
    ComponentType,
    FileRestoreStatus,
    FileSetMask,
    Level,
    RestoreMethodType,
    SourceType,
    WriterRestore,
)
from shadowset.writers.guard import Guard
from shadowset.writers.metadata_builder import ComponentBuilder
from shadowset.writers.oracle.database import (
    ARCHIVE,
    ARCHIVED,
    ARCHIVES,
    BEGIN,
    CONTROL_FILES,
    COPY_CONTROL_FILE,
    DATA_FILES,
    END,
    PARAMETER_FILE,
    Facts,
    Session,
)
from shadowset.writers.oracle.settings import Database, Settings
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder, Writer
from shadowset.writers.service import run_command

LOG = logging.getLogger("shadowset.writer.oracle")
GUARD = "shadowset.writers.oracle.guard"
AFTER_THE_CUT = 0x0F | FileSetMask.CREATED_DURING_BACKUP  # read live: they come to be when the copy exists
CONTROL_COPY = "control.bkp"
UNTESTED = "not tested on the product"
LOGS = "archived logs"


class Held:
    """A database between prepare-snapshot and post-snapshot."""

    def __init__(self, settings: Database) -> None:
        """Errors: VssError."""
        self.session = Session(settings)
        self.settings = settings
        self.facts: Facts = self.session.facts()
        self.files = [str(path) for _, path in self.session.ask(DATA_FILES)]
        self.first = self.last = 0
        self.begun = False
        self.archived: list[str] = []

    def begin(self) -> None:
        """All tablespaces into backup mode, which ends with a checkpoint of their files. Errors: VssError."""
        if self.facts.quiet:
            return
        if not self.facts.archiving:
            message = f"the database {self.facts.name} is open and keeps no archived logs; close it, or have it archive"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
        if self.session.files_in_backup():
            message = f"the database {self.facts.name} is in backup mode already; wait for the other backup, or end it"
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
        self.first = self.session.sequence()
        self.begun = True
        self.session.tell(BEGIN)

    def check(self) -> None:
        """Every file is in backup mode, or nobody writes. Errors: VssError."""
        if self.begun:
            missing = len(self.files) - self.session.files_in_backup()
            lost = f"{missing} of its data files are not in backup mode" if missing else ""
        else:
            lost = "" if self.session.facts().quiet else "it was opened amid the creation"
        if lost:
            message = f"the database {self.facts.name}: {lost}; see who else makes backups, and try again"
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)

    def end(self) -> None:
        """Out of backup mode. Errors: VssError."""
        if self.begun:
            self.session.tell(END)
            self.begun = False

    def finish(self) -> None:
        """The logs up to the end of backup mode, and a control file that knows them. Errors: VssError."""
        if self.first:
            self.last = self.session.sequence()
            self.session.tell(ARCHIVE)
            self.archived = list(self.session.column(ARCHIVED, self.first, self.last))
        self.session.tell(COPY_CONTROL_FILE.format(path=os.path.join(self.settings.copies, CONTROL_COPY)))

    def metadata(self) -> str:
        """What a recovery needs to know."""
        facts = {**msgspec.to_builtins(self.facts), "method": "backup mode" if self.first else "closed"}
        return json.dumps({**facts, "logs": [self.first, self.last], "archived": self.archived, "note": UNTESTED})


class OracleWriter(Writer):
    """Protects the databases of ``settings``."""

    writer_id = "b99c2d8e-3fab-4b7a-84eb-ff4d1138a0bc"
    name = "Oracle Writer"
    source = SourceType.TRANSACTEDDB
    level = Level.BACK_END

    def __init__(self, settings: Settings, socket_path: str = "") -> None:
        super().__init__(socket_path)
        self.settings = settings
        self.instance_name = settings.name
        self.freeze_timeout_ms = settings.freeze_timeout_ms
        self._chosen: dict[str, list[Database]] = {}
        self._held: list[Held] = []
        self._guard: Guard | None = None
        self._names: dict[str, Database] = {}

    # --- backup

    def on_identify(self, metadata: MetadataBuilder) -> None:
        metadata.set_restore_method(RestoreMethodType.RESTORE_IF_CAN_REPLACE, WriterRestore.ALWAYS)
        metadata.set_backup_schema(BackupSchema.COPY)
        for settings in self.settings.database:
            try:
                session = Session(settings)
            except VssError as error:
                LOG.warning("%s: it is left out", error.message)
                continue
            try:
                self._describe(metadata, settings, session)
            finally:
                session.close()

    def _describe(self, metadata: MetadataBuilder, settings: Database, session: Session) -> None:
        name = session.facts().name
        self._names[name] = settings
        caption = f"Oracle database {name} ({UNTESTED})"
        database = metadata.add_component(ComponentType.DATABASE, name, caption=caption, selectable_for_restore=True)
        for path in [*session.column(CONTROL_FILES), *session.column(PARAMETER_FILE)]:
            database.add_database_files(*os.path.split(path))
        database.add_log_files(settings.copies, CONTROL_COPY, mask=AFTER_THE_CUT)
        tablespaces: dict[str, ComponentBuilder] = {}
        for tablespace, path in session.ask(DATA_FILES):
            if tablespace not in tablespaces:
                tablespaces[tablespace] = metadata.add_component(
                    ComponentType.DATABASE, tablespace, f"{name}\\tablespaces", selectable=False
                )
            tablespaces[tablespace].add_database_files(*os.path.split(path))
        logs = metadata.add_component(ComponentType.DATABASE, LOGS, name, selectable=False)
        for directory in session.column(ARCHIVES):
            logs.add_log_files(directory, "*", mask=AFTER_THE_CUT)

    def on_prepare_backup(self, event: CurrentEvent) -> None:
        if not event.select_components:
            self._chosen[event.session] = list(self.settings.database)
            return
        missing = [component.name for component in event.components if component.name not in self._names]
        if missing:
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no database {missing[0]} any more; identify again")
        self._chosen[event.session] = [self._names[component.name] for component in event.components]

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        """Backup mode begins here: its checkpoint may take long, and the database works on."""
        self._let_go()
        for settings in self._chosen.get(event.session, []):
            each = Held(settings)
            if event.select_components or any(map(event.is_path_affected, each.files)):
                self._held.append(each)
            else:
                each.session.close()
        for each in self._held:
            away = [path for path in each.files if event.is_path_left_out(path)]
            if away:
                message = f"of the database {each.facts.name}, {', '.join(away)} lies on no volume of the set"
                message += "; add its volume, or the copy is torn"
                event.set_failure(Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT, message)
        if self._held:
            self._guard = Guard(GUARD, msgspec.json.encode([each.settings for each in self._held]))
        for each in self._held:
            each.begin()

    def on_freeze(self, event: CurrentEvent) -> None:
        for each in self._held:
            each.check()

    def on_thaw(self, event: CurrentEvent) -> None:
        for each in self._held:
            try:
                each.check()  # it lasted
                each.end()
            except VssError as error:
                event.set_failure(error.code, error.message)

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        now = {each.facts.name: each for each in self._held}
        for component in event.components:
            if component.name in now:
                now[component.name].finish()
                component.backup_metadata = now[component.name].metadata()
                component.backup_stamp = str(now[component.name].facts.scn)
        self._let_go()

    def on_abort(self, event: CurrentEvent) -> None:
        self._let_go()
        self._chosen.pop(event.session, None)

    def on_backup_shutdown(self, event: CurrentEvent) -> None:
        self._chosen.pop(event.session, None)

    def _let_go(self) -> None:
        """Ends backup mode; where that fails, the guard goes on with it."""
        held, self._held = self._held, []
        failed = False
        for each in held:
            try:
                each.end()
            except VssError as error:
                LOG.warning("%s", error.message)
                failed = True
            each.session.close()
        guard, self._guard = self._guard, None
        if guard is not None and failed:
            guard.take_over()
        elif guard is not None:
            guard.dismiss()

    # --- restore

    def on_pre_restore(self, event: CurrentEvent) -> None:
        """Sees that the database is shut down."""
        for component, settings in self._selected(event):
            seconds = min(self.settings.command_seconds, event.remaining)
            if settings.stop_command and _is_up(settings):
                run_command(settings.stop_command, seconds, Code.VSS_E_WRITERERROR_RETRYABLE)
            if _is_up(settings):
                message = f"the database {component.name} is up; shut it down and restore again"
                component.pre_restore_failure_message = message
                raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)

    def on_post_restore(self, event: CurrentEvent) -> None:
        """Recovery is the recover_command's: what is to be applied stands in the backup's metadata."""
        for component, settings in self._selected(event):
            if component.file_restore_status != FileRestoreStatus.ALL or not settings.recover_command:
                continue
            try:
                seconds = min(self.settings.command_seconds, event.remaining)
                run_command(settings.recover_command, seconds, Code.VSS_E_WRITERERROR_RECOVERY_FAILED)
            except VssError as error:
                component.post_restore_failure_message = error.message
                event.set_failure(error.code, error.message)

    def _selected(self, event: CurrentEvent) -> list[tuple[Component, Database]]:
        """The databases that are restored; one that was never seen up is known by its DSN when there is only one."""
        only = self.settings.database[0] if len(self.settings.database) == 1 else None
        pairs = [(c, self._names.get(c.name, only)) for c in event.components if c.selected_for_restore]
        return [(component, settings) for component, settings in pairs if settings is not None]


def _is_up(settings: Database) -> bool:
    try:
        Session(settings).close()
    except VssError as error:
        if error.code == Code.VSS_E_NOT_SUPPORTED:
            raise
        return False
    return True
