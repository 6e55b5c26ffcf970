"""The writer's configuration: which servers, and how they are stopped and started for a restore."""

from __future__ import annotations

import os
from collections.abc import Sequence

from shadowset.writers.server_settings import Entry, ServerSettings, WriterSettings

USUAL_SOCKET = "/run/mysqld/mysqld.sock"


class MariadbServer(ServerSettings, kw_only=True):
    """One server; ``option_file`` is a file as the database's own tools read it, with the password.

    ``read_lock`` holds a MariaDB server in the way in which a MySQL server is held.
    """

    socket: str = ""
    user: str = ""
    option_file: str = ""
    read_lock: bool = False

    def problem(self) -> str:
        if not self.socket and not self.data_directory:
            return "has neither socket nor data_directory; give one at least"
        if self.start_command and not self.socket:
            return "has a start_command, but no socket by which the started server is checked; add socket"
        return super().problem()


class Settings(WriterSettings, kw_only=True):
    """The whole file."""

    server: list[MariadbServer] = []
    command_seconds: int = 120

    def entries(self) -> Sequence[Entry]:
        return self.server


def discover(path: str = USUAL_SOCKET) -> list[MariadbServer]:
    """The server that listens in the usual place."""
    return [MariadbServer(socket=path)] if os.path.exists(path) else []
