"""The SQLite writer: one component for each database, all of them held at one instant.

Component ``srv\\shop\\orders.db`` (``naming.py``) is of type DATABASE, selectable, and holds the database file, its
``-wal`` and its ``-journal``. The last two are part of the database, not logs that could be saved by themselves: a
database without them may lack committed transactions or be corrupt. ``-shm`` is rebuilt by SQLite and excluded.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import (
    BackupSchema,
    ComponentType,
    FileRestoreStatus,
    Level,
    RestoreMethodType,
    SourceType,
    WriterRestore,
)
from shadowset.writers.naming import component_identity, component_path
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder, Writer
from shadowset.writers.sqlite.database import (
    HeldDatabase,
    integrity_problem,
    remove_side_files,
    wait_until_free,
)
from shadowset.writers.sqlite.discovery import find_databases
from shadowset.writers.sqlite.naming import SQLITE_WRITER_ID, SQLITE_WRITER_NAME

LOG = logging.getLogger("shadowset.writer.sqlite")
RESTORE_SHARE = 0.8  # of the time for pre-restore; the rest is for the other databases and the answer
NO_FILES = (FileRestoreStatus.NONE, FileRestoreStatus.FAILED)


def restored_path(component: Component) -> str:
    """Where the database file of a component goes: its own place, or the requester's new target for it."""
    path = component_path(component.logical_path, component.name)
    for target in component.new_targets:
        if target.path.rstrip("/") == os.path.dirname(path) and target.filespec in (component.name, "*", "*.*"):
            return os.path.join(target.alternate_path, component.name)
    return path


class SqliteWriter(Writer):
    """Protects the databases that match ``patterns``, each a path or a glob pattern."""

    writer_id = SQLITE_WRITER_ID
    name = SQLITE_WRITER_NAME
    source = SourceType.TRANSACTEDDB
    level = Level.BACK_END

    def __init__(
        self,
        patterns: Sequence[str],
        instance_name: str = "",
        busy_timeout_ms: int = 5000,
        freeze_timeout_ms: int = 60_000,
        socket_path: str = "",
    ) -> None:
        super().__init__(socket_path)
        self.patterns = tuple(patterns)
        self.instance_name = instance_name
        self.busy_timeout_ms = busy_timeout_ms
        self.freeze_timeout_ms = freeze_timeout_ms
        self._chosen: dict[str, list[str]] = {}
        self._held: list[HeldDatabase] = []
        self._guard = (
            threading.RLock()
        )  # the library may abort while a handler hangs; SQLite wants one thread at a time

    def databases(self) -> list[str]:
        """The files that exist now."""
        with self._guard:
            in_use = {held.path for held in self._held}
        return find_databases(self.patterns, in_use)

    # --- backup

    def on_identify(self, metadata: MetadataBuilder) -> None:
        metadata.set_restore_method(RestoreMethodType.RESTORE_IF_CAN_REPLACE, WriterRestore.ALWAYS)
        metadata.set_backup_schema(BackupSchema.COPY | BackupSchema.WRITER_SUPPORTS_NEW_TARGET)
        for path in self.databases():
            directory, file = os.path.split(path)
            logical_path, name = component_identity(path)
            component = metadata.add_component(
                ComponentType.DATABASE,
                name,
                logical_path,
                caption=f"SQLite database {path}",
                selectable_for_restore=True,
            )
            for suffix in ("", "-wal", "-journal"):
                component.add_database_files(directory, file + suffix)
            metadata.exclude_files(directory, f"{file}-shm")

    def on_prepare_backup(self, event: CurrentEvent) -> None:
        if event.select_components:
            paths = [component_path(component.logical_path, component.name) for component in event.components]
        else:
            paths = [path for path in self.databases() if event.is_path_affected(path)]
        known = set(self.databases())
        for path in paths:
            if path not in known:
                message = f"{path} is not among the databases of this writer, or is gone; identify again"
                raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
        self._chosen[event.session] = paths

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        """Opens the databases and checkpoints them, so that freeze finds little to do."""
        self._let_go()
        for path in self._chosen.get(event.session, []):
            self._held.append(HeldDatabase(path, self.busy_timeout_ms / 1000))
            self._held[-1].checkpoint()
            if event.is_path_left_out(path):
                message = f"the database {path} lies on no volume of the set; add its volume and try again"
                event.set_failure(Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT, message)

    def on_freeze(self, event: CurrentEvent) -> None:
        with self._guard:
            try:
                self._hold_all(event)
            except VssError:
                self._let_go()
                raise

    def _hold_all(self, event: CurrentEvent) -> None:
        for database in self._held:
            database.hold(min(self.busy_timeout_ms / 1000, event.remaining / 2))
        for database in self._held:
            if event.cancelled:
                raise VssError(Code.VSS_E_WRITERERROR_TIMEOUT, "holding all databases took longer than allowed")
            database.checkpoint()

    def on_thaw(self, event: CurrentEvent) -> None:
        self._let_go()

    def on_abort(self, event: CurrentEvent) -> None:
        self._let_go()
        self._chosen.pop(event.session, None)

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        for component in event.components:
            path = component_path(component.logical_path, component.name)
            component.backup_metadata = json.dumps({"database": path})

    def on_backup_shutdown(self, event: CurrentEvent) -> None:
        self._chosen.pop(event.session, None)

    def _let_go(self) -> None:
        # all locks first: closing may checkpoint, and nobody should wait for another database's checkpoint
        with self._guard:
            held, self._held = self._held, []
            for database in held:
                database.release()
            for database in held:
                database.close()

    # --- restore

    def on_pre_restore(self, event: CurrentEvent) -> None:
        busy_seconds = min(self.busy_timeout_ms / 1000, event.remaining * RESTORE_SHARE)
        for component in self._selected(event):
            path = restored_path(component)
            try:
                wait_until_free(path, lambda: event.cancelled, busy_seconds)
                for removed in remove_side_files(path):
                    LOG.info("removed %s before the restore", removed)
            except VssError as error:
                component.pre_restore_failure_message = error.message
                raise

    def on_post_restore(self, event: CurrentEvent) -> None:
        for component in self._selected(event):
            if component.file_restore_status in NO_FILES:
                continue
            problem = integrity_problem(restored_path(component))
            if problem:
                component.post_restore_failure_message = problem
                component.failure.code = Code.VSS_E_WRITERERROR_RECOVERY_FAILED
                component.failure.message = problem
                event.set_failure(Code.VSS_E_WRITERERROR_RECOVERY_FAILED, f"{problem}; restore another backup")

    def _selected(self, event: CurrentEvent) -> list[Component]:
        return [component for component in event.components if component.selected_for_restore]
