"""The Groonga writer: every table and column locked over the cut, and unlocked in the copy."""

from __future__ import annotations

import json
import logging
import os
import time

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentFlag, SourceType
from shadowset.vss.paths import Paths
from shadowset.writers.agreement import check_agreement
from shadowset.writers.groonga import http
from shadowset.writers.groonga.files import GROONGA_WRITER_ID, GROONGA_WRITER_NAME, database_files, user_of
from shadowset.writers.groonga.record import clear_left, record_path
from shadowset.writers.groonga.recovery import recover
from shadowset.writers.groonga.server import Server
from shadowset.writers.groonga.settings import GroongaServer, Settings, discover
from shadowset.writers.naming import component_path
from shadowset.writers.sdk import CurrentEvent
from shadowset.writers.server_writer import FileSet, Held, ServerWriter, found_servers
from shadowset.writers.service import Cancelled, run_command, wait_for_service

LOG = logging.getLogger("shadowset.writer.groonga")
UNKNOWN_PROCESS = -1
FAILED = Code.VSS_E_WRITERERROR_RECOVERY_FAILED


class GroongaWriter(ServerWriter[GroongaServer]):
    """Protects the databases of ``settings``, or that of Groonga's own service when none is named."""

    writer_id = GROONGA_WRITER_ID
    name = GROONGA_WRITER_NAME
    kind = "Groonga database"
    identify_aside = True
    source = SourceType.NONTRANSACTEDDB
    component_flags = ComponentFlag.BACKUP_RECOVERY | ComponentFlag.APP_ROLLBACK_RECOVERY

    def __init__(self, settings: Settings, socket_path: str = "", records: str = "") -> None:
        """``records`` is a directory for the names of held locks, on no volume that is copied."""
        super().__init__(settings.command_seconds, socket_path)
        self.settings = settings
        self.instance_name = settings.name
        self.freeze_timeout_ms = settings.freeze_timeout_ms
        self.records = records or records_directory()
        self._clear_what_is_left()

    def _clear_what_is_left(self) -> None:
        try:
            os.makedirs(self.records, mode=0o700, exist_ok=True)
            for name in sorted(os.listdir(self.records)):
                left = clear_left(f"{self.records}/{name}")
                if left:
                    LOG.warning("cleared locks that a killed writer had left: %s", ", ".join(left))
        except OSError as error:
            message = f"the directory {self.records} cannot be used ({error.strerror}); set STATE_DIRECTORY"
            raise VssError(Code.E_INVALIDARG, message) from error

    def servers(self) -> dict[str, GroongaServer]:
        return found_servers(self.settings.server or discover(), lambda each: each.database, self.file_sets)

    def settings_of(self, data: str) -> GroongaServer:
        for settings in self.settings.server or discover():
            if os.path.realpath(settings.database) == data:
                return settings
        return GroongaServer(database=data)

    def file_sets(self, data: str) -> list[FileSet]:
        return database_files(data)

    def process(self, data: str) -> int:
        """Another user's process cannot be looked at, but a server can be asked."""
        url = self.settings_of(data).url
        return user_of(data) or (UNKNOWN_PROCESS if url and not _problem(self.settings_of(data), data) else 0)

    def open(self, settings: GroongaServer, data: str) -> Held:
        return Server(settings, data, record_path(self.records, data), self.settings.settle_ms / 1000)

    def on_post_snapshot(self, event: CurrentEvent) -> None:
        """Unlocks and checks the databases in the copy, while nobody else can see it."""
        super().on_post_snapshot(event)
        for component in event.components:
            place = event.recovery_path(component_path(component.logical_path, component.name))
            if not component.backup_metadata:
                continue
            try:
                done = _recovered(place, component, event.remaining)[0] if place else "locks held"
            except VssError as error:
                component.post_snapshot_failure_message = error.message
                event.set_failure(FAILED, error.message)
            else:
                facts = json.loads(component.backup_metadata)
                component.backup_metadata = json.dumps({**facts, "copy": done})

    def recover(self, data: str, component: Component, seconds: float, cancelled: Cancelled) -> None:
        """Errors: VSS_E_WRITERERROR_RECOVERY_FAILED when the database is not sound, or records are missing, or its
        application says that it is apart from what it indexes."""
        settings = self.settings_of(data)
        ends = time.monotonic() + seconds
        _, records = _recovered(data, component, seconds)
        if settings.start_command:
            run_command(settings.start_command, ends - time.monotonic(), FAILED)
            wait_for_service(data, lambda: _problem(settings, data), ends - time.monotonic(), cancelled)
        else:
            LOG.info("the files of %s are back and sound; start its server", data)
        if settings.agree_command:
            told = {"SHADOWSET_RECORDS": records}
            check_agreement(settings.agree_command, data, told, ends - time.monotonic())


def _recovered(database: str, component: Component, seconds: float) -> tuple[str, str]:
    """Recovers a database and compares its records with those at the cut.

    Returns what had to be done, and the number of records of each table. Errors: VssError.
    """
    done, records = recover(database, seconds)
    if component.backup_stamp and records != component.backup_stamp:
        message = f"{database} has other records than at the cut: {records} instead of {component.backup_stamp}"
        raise VssError(FAILED, f"{message}; use another backup")
    return done, records


def _problem(settings: GroongaServer, data: str) -> str:
    if not settings.url:
        return "" if user_of(data) else "no process has it open"
    try:
        http.ask(settings.url, "status", 1.0)
    except VssError as error:
        return error.message
    return ""


def records_directory() -> str:
    """The service's own directory, or one below Shadowset's."""
    return os.environ.get("STATE_DIRECTORY", "") or f"{Paths.from_environment(os.environ).state}/writers/groonga"
