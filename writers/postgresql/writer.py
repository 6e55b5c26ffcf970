"""The PostgreSQL writer: a checkpoint before the cut, a session kept over it, and a roll forward after a restore."""

from __future__ import annotations

import json
import logging
import os

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import Attribute, BackupSchema, BackupType, ComponentFlag, ComponentType, RestoreTarget
from shadowset.writers.naming import component_identity, component_path
from shadowset.writers.postgresql.archive import LOG_COMPONENT
from shadowset.writers.postgresql.backup_mode import BackupSession
from shadowset.writers.postgresql.copy_recovery import RECOVERED, recover_copy
from shadowset.writers.postgresql.files import (
    POSTGRESQL_WRITER_ID,
    POSTGRESQL_WRITER_NAME,
    directories,
    server_process,
)
from shadowset.writers.postgresql.log_backup import LogBackup, wanted_logs
from shadowset.writers.postgresql.one_database import Transfer, moved_to, relink, remove_moved, wanted_database
from shadowset.writers.postgresql.restore import start_and_check
from shadowset.writers.postgresql.roll_forward import facts_of, prepare_recovery
from shadowset.writers.postgresql.server import Server
from shadowset.writers.postgresql.settings import ClusterSettings, Settings, discover
from shadowset.writers.postgresql.shadow_tree import CopiedCluster
from shadowset.writers.sdk import CurrentEvent, MetadataBuilder
from shadowset.writers.server_writer import PREPARE_SHARE, FileSet, Held, ServerWriter, found_servers
from shadowset.writers.service import Cancelled

LOG = logging.getLogger("shadowset.writer.postgresql")
COLD = "cold"  # the stamp where no server told its position
RECOVERY_SHARE = 0.8  # of the time for post-snapshot; the rest is for the answer
RECOVERY_FLAGS = {
    "rollback": ComponentFlag.APP_ROLLBACK_RECOVERY,
    "all": ComponentFlag.APP_ROLLBACK_RECOVERY | ComponentFlag.BACKUP_RECOVERY,
    "never": ComponentFlag(0),
}


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
        self._logs: dict[str, list[LogBackup]] = {}
        if any(each.archive_directory for each in settings.cluster):
            self.backup_schema = PostgresqlWriter.backup_schema | BackupSchema.LOG

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
        return [name for name in names if not {"/", "\\"} & set(name) and name != LOG_COMPONENT]

    def describe_members(self, metadata: MetadataBuilder, path: str, data: str, settings: ClusterSettings) -> None:
        super().describe_members(metadata, path, data, settings)
        if settings.archive_directory:
            logs = metadata.add_component(ComponentType.DATABASE, LOG_COMPONENT, path, selectable=False)
            # by its mask no backup takes it whole: the writer names the segments that a log backup needs
            logs.add_log_files(os.path.realpath(settings.archive_directory), "*", mask=0)

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
        settings = self.settings_of(data)
        completed = ComponentFlag.BACKUP_RECOVERY | ComponentFlag.APP_ROLLBACK_RECOVERY if settings.backup_mode else 0
        return completed | RECOVERY_FLAGS[settings.recover_copies]

    # --- log backups

    def on_prepare_backup(self, event: CurrentEvent) -> None:
        super().on_prepare_backup(event)
        if event.backup_type is BackupType.LOG:
            logs = self._logs[event.session] = wanted_logs(event.components)
            whole = set(self._chosen[event.session]) - {each.data for each in logs}
            self._chosen[event.session] = sorted(whole)

    def on_prepare_snapshot(self, event: CurrentEvent) -> None:
        super().on_prepare_snapshot(event)
        logs = self._logs.get(event.session, [])
        known = self.servers() if logs else {}
        for number, each in enumerate(logs):
            seconds = event.remaining * PREPARE_SHARE / (len(logs) - number)
            each.prepare(known.get(each.data), event, seconds)

    def _finish_logs(self, event: CurrentEvent) -> None:
        for each in self._logs.pop(event.session, []):
            component = event.component(*component_identity(each.data))
            if component is not None:
                try:
                    each.name_files(component)
                except VssError as error:
                    _tell_failure(event, component, error)

    def on_abort(self, event: CurrentEvent) -> None:
        super().on_abort(event)
        self._logs.pop(event.session, None)

    def on_backup_shutdown(self, event: CurrentEvent) -> None:
        super().on_backup_shutdown(event)
        self._logs.pop(event.session, None)

    # --- the copies

    def complete(self, held: Held, event: CurrentEvent) -> None:
        if isinstance(held, BackupSession):
            held.finish(event.recovery_path)

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        """Has the clusters recover in the copy, where that is wanted, while nobody else can see it."""
        recovering = [data for data in self._parts if self._recovers(data, event)]
        super().on_post_snapshot(event)
        for each in event.components:
            if each.backup_metadata and not each.backup_stamp:
                each.backup_stamp = COLD  # without one a log backup would not know that it has a base
        self._finish_logs(event)
        for number, data in enumerate(recovering):
            seconds = event.remaining * RECOVERY_SHARE / (len(recovering) - number)
            component = event.component(*component_identity(data))
            try:
                done = self._recover_copy(data, event, min(seconds, self.command_seconds))
            except VssError as error:
                _tell_failure(event, component, error)
                continue
            LOG.info("the copy of %s: %s", data, done)
            if component is not None:
                facts = json.loads(component.backup_metadata)
                component.backup_metadata = json.dumps({**facts, "copy": done})
                # the log of the live cluster goes on from another place than the copy's
                component.backup_stamp = RECOVERED if done == RECOVERED else component.backup_stamp

    def _recovers(self, data: str, event: CurrentEvent) -> bool:
        rollback = bool(event.context & Attribute.ROLLBACK_RECOVERY)
        flag = ComponentFlag.APP_ROLLBACK_RECOVERY if rollback else ComponentFlag.BACKUP_RECOVERY
        wanted = RECOVERY_FLAGS[self.settings_of(data).recover_copies] & flag
        return bool(wanted) and bool(event.recovery_path(data))

    def _recover_copy(self, data: str, event: CurrentEvent, seconds: float) -> str:
        roots = tuple(os.path.realpath(each.recovery_path) for each in event.volumes if each.recovery_path)
        copied = CopiedCluster(data, event.recovery_path, roots)
        return recover_copy(copied, self.settings_of(data).bin_directory, seconds, lambda: event.cancelled)

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
        if component.additional_restores:
            message = f"the database {database} can be restored from a full backup, not through the log that follows"
            raise VssError(Code.E_INVALIDARG, f"{message}; name the full backup")
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
            done = start_and_check(settings, data, facts_of(component).get("system", ""), seconds, cancelled)
            component.restore_metadata = json.dumps(done)
        else:
            LOG.info("the files of %s are back; start its server, which recovers by itself", data)


def _tell_failure(event: CurrentEvent, component: Component | None, error: VssError) -> None:
    event.set_failure(error.code, error.message)
    if component is not None:
        component.post_snapshot_failure_message = error.message
        component.failure.code, component.failure.message = error.code, error.message


def _data_directory(settings: ClusterSettings) -> str:
    if settings.data_directory:
        return settings.data_directory
    server = Server(settings.connection)
    server.close()
    return server.data_directory
