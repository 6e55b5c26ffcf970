"""The writer's configuration: which clusters, and how their servers are stopped and started for a restore."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Literal

from shadowset.writers.server_settings import Entry, ServerSettings, WriterSettings

SOCKET_DIRECTORY = "/run/postgresql"
PASSWORD = re.compile(r"\b(?:ssl)?password\s*=|://[^/@]*:[^/@]+@")
RecoverCopies = Literal["rollback", "all", "never"]


class ClusterSettings(ServerSettings, kw_only=True):
    """One cluster. ``scratch`` is where its files go when one of its databases is restored out of them.

    ``backup_mode`` is for a cluster whose volumes are not cut at one instant. ``recover_copies`` says in which copies
    the cluster recovers before they are sealed: those for an application's roll back, all, or none.
    ``check`` has amcheck look at restored databases, ``checksums`` pg_checksums at all their pages.
    ``archive_directory`` is where the server's archive_command puts its log, for log backups.
    """

    connection: str = ""
    restore_command: str = ""
    archive_directory: str = ""
    bin_directory: str = ""
    scratch: str = ""
    check: bool = True
    checksums: bool = False
    backup_mode: bool = False
    recover_copies: RecoverCopies = "rollback"

    def problem(self) -> str:
        return next(self._problems(), "") or super().problem()

    def _problems(self) -> Iterator[str]:
        for name in ("bin_directory", "scratch", "archive_directory"):
            if (path := getattr(self, name)) and not os.path.isabs(path):
                yield f"has the {name} {path}; give an absolute path"
        if PASSWORD.search(self.connection):
            yield "has a password in its connection, where a list of processes may show it; put it into ~/.pgpass"
        if not self.connection and not self.data_directory:
            yield "has neither connection nor data_directory; give one at least"
        if self.recover_copies == "all" and (self.restore_command or self.archive_directory):
            yield 'has recover_copies = "all", after which no log can be rolled forward; leave it out, or the archive'
        for name in ("restore_command", "archive_directory", "scratch", "backup_mode"):
            if getattr(self, name) and not self.data_directory:
                yield f"has {name}, but no data_directory by which a restore would know it; add data_directory"
        if self.checksums and not (self.stop_command and self.start_command):
            yield "has checksums, which are read while the server is down; add stop_command and start_command"
        if self.start_command and not self.connection:
            yield "has a start_command, but no connection by which the started server is checked; add connection"


class Settings(WriterSettings, kw_only=True):
    """The whole file."""

    cluster: list[ClusterSettings] = []
    command_seconds: int = 120

    def entries(self) -> Sequence[Entry]:
        return self.cluster


def discover(directory: str = SOCKET_DIRECTORY) -> list[ClusterSettings]:
    """The clusters whose servers listen in the usual place."""
    prefix = ".s.PGSQL."
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    ports = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return [
        ClusterSettings(connection=f"host={directory} port={port} dbname=postgres")
        for port in ports
        if port.isdecimal()
    ]
