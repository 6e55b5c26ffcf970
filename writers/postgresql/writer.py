"""The PostgreSQL writer: one component for each cluster, whose volumes are cut at one instant.

A cluster is restored as a whole: its databases share one log and one set of transaction numbers. The component is a
file group, since the directories of a cluster come and go with its databases. All of it must lie on volumes of the
set: parts that were copied at different instants start without a word and hold different transactions.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from dataclasses import dataclass
from functools import partial

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
from shadowset.writers.postgresql.files import (
    POSTGRESQL_WRITER_ID,
    POSTGRESQL_WRITER_NAME,
    ClusterFiles,
    component_identity,
    data_directory_of,
    read_files,
    server_process,
)
from shadowset.writers.postgresql.restore import prepare_recovery, start_and_check
from shadowset.writers.postgresql.server import Server
from shadowset.writers.postgresql.settings import ClusterSettings, Settings, discover
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder, Writer
from shadowset.writers.service import make_way

LOG = logging.getLogger("shadowset.writer.postgresql")
EXCLUDED = ("postmaster.pid", "postmaster.opts")
CHECKPOINT_SHARE = 0.8  # of the time for prepare-snapshot
TORN = Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT


@dataclass
class Prepared:
    """A cluster between prepare-snapshot and post-snapshot; ``server`` is None when it was not running."""

    settings: ClusterSettings
    files: ClusterFiles
    server: Server | None
    facts: dict[str, str]


class PostgresqlWriter(Writer):
    """Protects the clusters of ``settings``, or those whose servers run when none is named."""

    writer_id = POSTGRESQL_WRITER_ID
    name = POSTGRESQL_WRITER_NAME
    source = SourceType.TRANSACTEDDB
    level = Level.BACK_END

    def __init__(self, settings: Settings, socket_path: str = "") -> None:
        super().__init__(socket_path)
        self.settings = settings
        self.instance_name = settings.name
        self.freeze_timeout_ms = settings.freeze_timeout_ms
        self._chosen: dict[str, list[str]] = {}
        self._prepared: list[Prepared] = []
        self._guard = threading.Lock()  # of the list alone: abort may come while another handler hangs in the server

    # --- the clusters

    def clusters(self) -> dict[str, ClusterSettings]:
        """The clusters by data directory; one that cannot be found is left out with a line in the log."""
        found: dict[str, ClusterSettings] = {}
        for settings in self.settings.cluster or discover():
            try:
                data = os.path.realpath(settings.data_directory) if settings.data_directory else _asked(settings)
                component_identity(data)
                read_files(data)
            except VssError as error:
                LOG.warning("%s: it is left out", error.message)
            else:
                found[data] = settings
        return found

    def _settings_of(self, data: str) -> ClusterSettings:
        for settings in self.settings.cluster:
            if settings.data_directory and os.path.realpath(settings.data_directory) == data:
                return settings
        return ClusterSettings(data_directory=data)

    # --- backup

    def on_identify(self, metadata: MetadataBuilder) -> None:
        metadata.set_restore_method(RestoreMethodType.RESTORE_IF_CAN_REPLACE, WriterRestore.ALWAYS)
        metadata.set_backup_schema(BackupSchema.COPY | BackupSchema.ROLLFORWARD_RESTORE)
        for data in self.clusters():
            logical_path, name = component_identity(data)
            component = metadata.add_component(
                ComponentType.FILEGROUP,
                name,
                logical_path,
                caption=f"PostgreSQL cluster {data}",
                selectable_for_restore=True,
            )
            for directory in read_files(data).directories:
                component.add_files(directory, "*", recursive=True)
            for file in EXCLUDED:
                metadata.exclude_files(data, file)

    def on_prepare_backup(self, event: CurrentEvent) -> None:
        known = self.clusters()
        if event.select_components:
            chosen = [data_directory_of(component.logical_path, component.name) for component in event.components]
        else:
            chosen = [data for data in known if event.is_path_affected(data)]
        for data in chosen:
            if data not in known:
                message = f"{data} is not among the clusters of this writer, or is gone; identify again"
                raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
        self._chosen[event.session] = chosen

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        """Opens the sessions, and has the servers write what they hold in memory."""
        self._let_go()
        known = self.clusters()
        for data in self._chosen.get(event.session, []):
            if data not in known:
                message = f"the cluster {data} cannot be reached any more; see that its server runs, and try again"
                raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
            prepared = _prepare(known[data], data)
            with self._guard:
                self._prepared.append(prepared)
            torn = [directory for directory in prepared.files.directories if event.is_path_left_out(directory)]
            if torn:
                message = f"of the cluster {data}, {', '.join(torn)} lies on no volume of the set; add its volume"
                event.set_failure(TORN, f"{message}, or the copy of the cluster is torn")
            if prepared.server is not None:
                prepared.server.checkpoint(event.remaining * CHECKPOINT_SHARE)

    def on_freeze(self, event: CurrentEvent) -> None:
        """Nothing has to stand still: the cut takes all volumes at one instant. The sessions must be there."""
        for prepared in self._now():
            if prepared.server is not None:
                prepared.facts["before"] = prepared.server.position(max(0.001, event.remaining / 2))
            elif server_process(prepared.files.data):
                message = f"the server of {prepared.files.data} was started amid the creation; try again"
                raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)

    def on_thaw(self, event: CurrentEvent) -> None:
        """Asks the same sessions again: were they lost, the copy is that of a server which somebody had killed."""
        for prepared in self._now():
            data = prepared.files.data
            try:
                if prepared.server is not None:
                    prepared.facts["after"] = prepared.server.position()
                if read_files(data) != prepared.files:
                    message = f"the tablespaces of {data} changed amid the creation; identify again and try again"
                    event.set_failure(Code.VSS_E_WRITERERROR_RETRYABLE, message)
            except VssError as error:
                message = f"the cluster {data} was lost amid the creation ({error.message})"
                event.set_failure(Code.VSS_E_WRITERERROR_RETRYABLE, message)

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        facts = {prepared.files.data: prepared.facts for prepared in self._now()}
        for component in event.components:
            found = facts.get(data_directory_of(component.logical_path, component.name))
            if found is not None:
                component.backup_metadata = json.dumps(found)
                component.backup_stamp = found.get("before", "")
        self._let_go()

    def on_abort(self, event: CurrentEvent) -> None:
        for prepared in self._now():
            if prepared.server is not None:
                prepared.server.interrupt()
        self._let_go()
        self._chosen.pop(event.session, None)

    def on_backup_shutdown(self, event: CurrentEvent) -> None:
        self._chosen.pop(event.session, None)

    def _now(self) -> list[Prepared]:
        with self._guard:
            return list(self._prepared)

    def _let_go(self) -> None:
        with self._guard:
            prepared, self._prepared = self._prepared, []
        for each in prepared:
            if each.server is not None:
                each.server.close()

    # --- restore

    def on_pre_restore(self, event: CurrentEvent) -> None:
        for component in _selected(event):
            data = data_directory_of(component.logical_path, component.name)
            seconds = min(self.settings.command_seconds, event.remaining)
            try:
                stop = self._settings_of(data).stop_command
                make_way(data, partial(server_process, data), stop, seconds, lambda: event.cancelled)
            except VssError as error:
                component.pre_restore_failure_message = error.message
                raise

    def on_post_restore(self, event: CurrentEvent) -> None:
        for component in _selected(event):
            if component.file_restore_status == FileRestoreStatus.ALL:
                self._take_over(event, component)

    def _take_over(self, event: CurrentEvent, component: Component) -> None:
        data = data_directory_of(component.logical_path, component.name)
        settings = self._settings_of(data)
        try:
            prepare_recovery(settings, data, component)
            if settings.start_command:
                seconds = min(self.settings.command_seconds, event.remaining)
                start_and_check(settings, data, _system_of(component), seconds, lambda: event.cancelled)
            else:
                LOG.info("the files of %s are back; start its server, which recovers by itself", data)
        except VssError as error:
            component.post_restore_failure_message = error.message
            component.failure.code = Code.VSS_E_WRITERERROR_RECOVERY_FAILED
            component.failure.message = error.message
            event.set_failure(Code.VSS_E_WRITERERROR_RECOVERY_FAILED, error.message)


def _asked(settings: ClusterSettings) -> str:
    server = Server(settings.connection)
    data: str = server.data_directory
    server.close()
    return data


def _prepare(settings: ClusterSettings, data: str) -> Prepared:
    """Errors: VSS_E_WRITERERROR_RETRYABLE when the server runs and takes no session."""
    files = read_files(data)
    facts = {"data_directory": data, "method": "cold"}
    if not server_process(data):
        return Prepared(settings, files, None, facts)
    if not settings.connection:
        message = f"the server of {data} runs, and there is no connection for it in the configuration; add it"
        raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
    server = Server(settings.connection, data)
    if server.data_directory != data:
        server.close()
        message = f"the connection for {data} leads to the server of {server.data_directory}; mend the configuration"
        raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
    return Prepared(settings, files, server, {**facts, "method": "checkpoint and cut", **server.identity()})


def _system_of(component: Component) -> str:
    try:
        return str(json.loads(component.backup_metadata).get("system", ""))
    except (ValueError, AttributeError):
        return ""


def _selected(event: CurrentEvent) -> list[Component]:
    return [component for component in event.components if component.selected_for_restore]
