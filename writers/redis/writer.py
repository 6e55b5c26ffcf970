"""The Redis writer: writing clients paused over the cut, the append-only file settled or the data set saved."""

from __future__ import annotations

import json
import logging
import os
import time

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.writers.redis.server import Server
from shadowset.writers.redis.settings import RedisServer, Settings, discover
from shadowset.writers.server_writer import FileSet, Held, ServerWriter, found_servers
from shadowset.writers.service import Cancelled, run_command, wait_for_service

LOG = logging.getLogger("shadowset.writer.redis")
REDIS_WRITER_ID = "ca7f36f1-5b32-4fcf-b9f1-dcf2b967e330"
REDIS_WRITER_NAME = "Redis Writer"
FAILED = Code.VSS_E_WRITERERROR_RECOVERY_FAILED


class RedisWriter(ServerWriter[RedisServer]):
    """Protects the servers of ``settings``, or those in the usual places when none is named."""

    writer_id = REDIS_WRITER_ID
    name = REDIS_WRITER_NAME
    kind = "Redis server"
    excluded = ("temp-*",)

    def __init__(self, settings: Settings, socket_path: str = "") -> None:
        super().__init__(settings.command_seconds, socket_path)
        self.settings = settings
        self.instance_name = settings.name
        self.freeze_timeout_ms = settings.freeze_timeout_ms
        self._files: dict[str, list[str]] = {}
        self._seen: dict[str, RedisServer] = {}

    def servers(self) -> dict[str, RedisServer]:
        return found_servers(self.settings.server or discover(), self._data_directory, self.file_sets)

    def settings_of(self, data: str) -> RedisServer:
        if data in self._seen:
            return self._seen[data]
        for settings in self.settings.server:
            if settings.data_directory and os.path.realpath(settings.data_directory) == data:
                return settings
        return RedisServer(data_directory=data)

    def _data_directory(self, settings: RedisServer) -> str:
        """Asks a running server for its files; one that does not run is known by its configuration."""
        try:
            server = Server(settings)
        except VssError:
            if settings.data_directory:
                return settings.data_directory
            raise
        try:
            self._files[server.data_directory] = server.files()
            self._seen[server.data_directory] = settings
        finally:
            server.close()
        return server.data_directory

    def file_sets(self, data: str) -> list[FileSet]:
        names = self._files.get(data) or list(self.settings_of(data).files)
        if not os.path.isdir(data):
            message = f"the data directory {data} of a Redis server cannot be seen; check dir in redis.conf"
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
        directories = [name for name in names if os.path.isdir(f"{data}/{name}")]
        files: list[FileSet] = [(data, name, False) for name in names if name not in directories]
        return files + [(f"{data}/{name}", "*", True) for name in directories]

    def process(self, data: str) -> int:
        settings = self.settings_of(data)
        try:
            server = Server(settings)
            try:
                return server.process() if server.data_directory == data else 0
            finally:
                server.close()
        except VssError:
            return 0

    def open(self, settings: RedisServer, data: str) -> Held:
        return self._opened(settings, data)

    def _opened(self, settings: RedisServer, data: str) -> Server:
        server = Server(settings, data)
        if server.data_directory != data:
            server.close()
            message = f"the socket for {data} leads to the server of {server.data_directory}; mend the configuration"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
        return server

    def recover(self, data: str, component: Component, seconds: float, cancelled: Cancelled) -> None:
        """Errors: VSS_E_WRITERERROR_RECOVERY_FAILED when keys are missing."""
        settings = self.settings_of(data)
        if not settings.start_command:
            LOG.info("the files of %s are back; start its server, which loads them", data)
            return
        ends = time.monotonic() + seconds
        run_command(settings.start_command, seconds, FAILED)
        wait_for_service(data, lambda: self._problem(settings, data), ends - time.monotonic(), cancelled)
        server = self._opened(settings, data)
        try:
            found = server.lasting_keys()
        finally:
            server.close()
        wanted = _lasting_keys(component)
        if wanted is not None and found != wanted:
            message = f"{data} has {found} lasting keys instead of {wanted}; look at the server's log"
            raise VssError(FAILED, message)

    def _problem(self, settings: RedisServer, data: str) -> str:
        try:
            server = self._opened(settings, data)
        except VssError as error:
            return error.message
        try:
            return "it still loads its files" if server.loading() else ""
        except VssError as error:
            return error.message
        finally:
            server.close()


def _lasting_keys(component: Component) -> int | None:
    try:
        return int(json.loads(component.backup_metadata)["lasting_keys"])
    except (ValueError, KeyError, TypeError):
        return None
