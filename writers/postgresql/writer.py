"""The PostgreSQL writer: a checkpoint before the cut, a session kept over it, and a roll forward after a restore."""

from __future__ import annotations

import json
import logging
import os

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import BackupSchema, ComponentFlag, RestoreTarget
from shadowset.writers.naming import component_path
from shadowset.writers.postgresql.backup_mode import BackupSession
from shadowset.writers.postgresql.files import (
    POSTGRESQL_WRITER_ID,
    POSTGRESQL_WRITER_NAME,
    directories,
    server_process,
)
from shadowset.writers.postgresql.one_database import Transfer, moved_to, relink, remove_moved, wanted_database
from shadowset.writers.postgresql.restore import prepare_recovery, start_and_check
from shadowset.writers.postgresql.server import Server
from shadowset.writers.postgresql.settings import ClusterSettings, Settings, discover
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder
from shadowset.writers.server_writer import FileSet, Held, ServerWriter, found_servers
from shadowset.writers.service import Cancelled

LOG = logging.getLogger("shadowset.writer.postgresql")


class PostgresqlWriter(ServerWriter[ClusterSettings]):
    """Protects the clusters of ``settings``, or those whose servers run when none is named."""

    writer_id = POSTGRESQL_WRITER_ID
    name = POSTGRESQL_WRITER_NAME
    kind = "PostgreSQL cluster"
    identify_aside = True
    excluded = ("postmaster.pid", "postmaster.opts")
    backup_schema = (
        BackupSchema.COPY
        | BackupSchema.ROLLFORWARD_RESTORE
        | BackupSchema.RESTORE_RENAME
        | BackupSchema.WRITER_SUPPORTS_NEW_TARGET
    )

    def __init__(self, settings: Settings, socket_path: str = "") -> None:
        super().__init__(settings.command_seconds, socket_path)
        self.settings = settings
        self.instance_name = settings.name
        self.freeze_timeout_ms = settings.freeze_timeout_ms

    def servers(self) -> dict[str, ClusterSettings]:
        return found_servers(self.settings.cluster or discover(), _data_directory, self.file_sets)

    def settings_of(self, data: str) -> ClusterSettings:
        for settings in self.settings.cluster:
            if settings.data_directory and os.path.realpath(settings.data_directory) == data:
                return settings
        return ClusterSettings(data_directory=data)

    def file_sets(self, data: str) -> list[FileSet]:
        return [(directory, "*", True) for directory in directories(data)]

    def process(self, data: str) -> int:
        return server_process(data)

    def open(self, settings: ClusterSettings, data: str) -> Held:
        if not settings.connection:
            message = f"the server of {data} runs, and there is no connection for it in the configuration; add it"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
        kind = BackupSession if settings.backup_mode else Server
        server = kind(settings.connection, data)
        if server.data_directory != data:
            server.close()
            message = f"the connection for {data} leads to that of {server.data_directory}; mend the configuration"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
        return server

    def members(self, data: str, settings: ClusterSettings) -> list[str]:
        """Without those whose names no component can have; none of a server that tells nothing now."""
        if not settings.connection or not self.process(data):
            return []
        try:
            server = Server(settings.connection, data)
            try:
                names = server.user_databases()
            finally:
                server.close()
        except VssError as error:
            LOG.warning("%s: its databases are left out", error.message)
            return []
        return [name for name in names if not {"/", "\\"} & set(name)]

    def on_identify(self, metadata: MetadataBuilder) -> None:
        super().on_identify(metadata)
        for settings in self.settings.cluster:
            if settings.scratch and settings.data_directory:
                data = os.path.realpath(settings.data_directory)
                self._map_to_scratch(metadata, data, f"{settings.scratch}/{data.strip('/').replace('/', '-')}")

    def _map_to_scratch(self, metadata: MetadataBuilder, data: str, top: str) -> None:
        try:
            file_sets = self.file_sets(data)
        except VssError:
            return  # a lost cluster has no component either, and the log says so
        for number, (directory, filespec, recursive) in enumerate(file_sets):
            metadata.add_alternate_location_mapping(directory, filespec, recursive, f"{top}/{number}")

    def flags(self, data: str) -> int:
        return ComponentFlag.BACKUP_RECOVERY if self.settings_of(data).backup_mode else 0

    def complete(self, held: Held, event: CurrentEvent) -> None:
        if isinstance(held, BackupSession):
            held.finish(event.recovery_path)

    # --- restore

    def make_way(self, component: Component, seconds: float, cancelled: Cancelled) -> None:
        data = component_path(component.logical_path, component.name)
        database = wanted_database(component)
        if not database:
            if component.restore_name:
                message = f"which database of {data} is to be {component.restore_name} is not said"
                raise VssError(Code.E_INVALIDARG, f'{message}; add the restore option "Database"="NAME"')
            if moved_to(component, data) == data:
                super().make_way(component, seconds, cancelled)
            return
        Transfer(self._running(data), data, database, component.restore_name).check_target()
        if not component.new_targets:
            component.restore_target = RestoreTarget.ALTERNATE  # the scratch place of the backup's time

    def _running(self, data: str) -> ClusterSettings:
        """Errors: VSS_E_WRITERERROR_RETRYABLE."""
        settings = self.servers().get(data)
        if settings is None or not settings.connection:
            message = f"the cluster {data} has to run while one of its databases is restored; start it"
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
        return settings

    def recover(self, data: str, component: Component, seconds: float, cancelled: Cancelled) -> None:
        database, place = wanted_database(component), moved_to(component, data)
        if place != data:
            relink(component, place)
        if database:
            try:
                Transfer(self._running(data), place, database, component.restore_name).run(seconds, cancelled)
            finally:
                if not component.new_targets:
                    remove_moved(component)
            return
        if place != data:
            prepare_recovery(self.settings_of(data), place, component)
            LOG.info("the files of %s are in %s; start a server on them", data, place)
            return
        settings = self.settings_of(data)
        prepare_recovery(settings, data, component)
        if settings.start_command:
            start_and_check(settings, data, _system_of(component), seconds, cancelled)
        else:
            LOG.info("the files of %s are back; start its server, which recovers by itself", data)


def _data_directory(settings: ClusterSettings) -> str:
    if settings.data_directory:
        return settings.data_directory
    server = Server(settings.connection)
    server.close()
    return server.data_directory


def _system_of(component: Component) -> str:
    try:
        return str(json.loads(component.backup_metadata).get("system", ""))
    except (ValueError, AttributeError):
        return ""
