"""The MariaDB writer: commits held over the cut, and every table checked after a restore."""

from __future__ import annotations

import logging
import os
import time

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.writers.mariadb.files import (
    MARIADB_WRITER_ID,
    MARIADB_WRITER_NAME,
    linked_files,
    require_whole,
    server_process,
)
from shadowset.writers.mariadb.server import Server
from shadowset.writers.mariadb.settings import MariadbServer, Settings, discover
from shadowset.writers.server_writer import FileSet, Held, ServerWriter, found_servers
from shadowset.writers.service import Cancelled, run_command, wait_for_service

LOG = logging.getLogger("shadowset.writer.mariadb")
FAILED = Code.VSS_E_WRITERERROR_RECOVERY_FAILED


class MariadbWriter(ServerWriter[MariadbServer]):
    """Protects the servers of ``settings``, or the one in the usual place when none is named."""

    writer_id = MARIADB_WRITER_ID
    name = MARIADB_WRITER_NAME
    kind = "MariaDB server"
    excluded = ("*.pid", "*.sock", "ibtmp*")

    def __init__(self, settings: Settings, socket_path: str = "") -> None:
        super().__init__(settings.command_seconds, socket_path)
        self.settings = settings
        self.instance_name = settings.name
        self.freeze_timeout_ms = settings.freeze_timeout_ms
        self._outside: dict[str, list[FileSet]] = {}

    def servers(self) -> dict[str, MariadbServer]:
        return found_servers(self.settings.server or discover(), self._data_directory, self.file_sets)

    def settings_of(self, data: str) -> MariadbServer:
        for settings in self.settings.server:
            if settings.data_directory and os.path.realpath(settings.data_directory) == data:
                return settings
        return MariadbServer(data_directory=data)

    def _data_directory(self, settings: MariadbServer) -> str:
        """Asks a running server where all of its files lie; one that does not run is known by its configuration."""
        if settings.data_directory and not self.process(os.path.realpath(settings.data_directory)):
            return settings.data_directory
        server = Server(settings)
        try:
            self._outside[server.data_directory] = server.outside()
        finally:
            server.close()
        return server.data_directory

    def file_sets(self, data: str) -> list[FileSet]:
        if data not in self._outside:
            require_whole(data)
        try:
            linked = linked_files(data)
        except OSError as error:
            message = f"{data} cannot be looked at ({error.filename}: {error.strerror}); run the writer as its owner"
            raise VssError(Code.E_ACCESSDENIED, message) from error
        return [(data, "*", True), *self._outside.get(data, []), *linked]

    def process(self, data: str) -> int:
        return server_process(data)

    def open(self, settings: MariadbServer, data: str) -> Held:
        if not settings.socket:
            message = f"the server of {data} runs, and there is no socket for it in the configuration; add it"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
        return self._opened(settings, data)

    def _opened(self, settings: MariadbServer, data: str) -> Server:
        server = Server(settings, data)
        if server.data_directory != data:
            server.close()
            message = f"the socket for {data} leads to the server of {server.data_directory}; mend the configuration"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
        return server

    def recover(self, data: str, component: Component, seconds: float, cancelled: Cancelled) -> None:
        """Errors: VSS_E_WRITERERROR_RECOVERY_FAILED with what the check of the tables says."""
        settings = self.settings_of(data)
        if not settings.start_command:
            LOG.info("the files of %s are back; start its server, which recovers by itself", data)
            return
        ends = time.monotonic() + seconds
        run_command(settings.start_command, seconds, FAILED)
        wait_for_service(data, lambda: self._problem(settings, data), ends - time.monotonic(), cancelled)
        server = self._opened(settings, data)
        try:
            problems = server.damaged_tables(ends, time.monotonic)
        finally:
            server.close()
        if problems:
            raise VssError(FAILED, f"tables of {data} are not sound ({'; '.join(problems)}); restore another backup")

    def _problem(self, settings: MariadbServer, data: str) -> str:
        try:
            self._opened(settings, data).close()
        except VssError as error:
            return error.message
        return ""
