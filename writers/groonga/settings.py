"""The writer's configuration: which databases, and how their servers are asked, stopped and started."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from shadowset.writers.server_settings import Entry, WriterSettings

USUAL_DATABASE = "/var/lib/groonga/db/db"
USUAL_URL = "http://127.0.0.1:10041"


class GroongaServer(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One database, and the HTTP address of the server that has it open; empty when applications open it themselves.

    ``agree_command`` says by its exit status whether index and database agree after a restore.
    """

    database: str = ""
    url: str = ""
    stop_command: list[str] = []
    start_command: list[str] = []
    agree_command: list[str] = []

    def problem(self) -> str:
        """What is wrong; empty when nothing is."""
        if not os.path.isabs(self.database):
            return (
                f"has the database {self.database!r}; give the absolute path of its first file, the one without a dot"
            )
        if self.url and not self.url.startswith("http://"):
            return f"has the url {self.url}; give http://HOST:PORT"
        return ""


class Settings(WriterSettings, kw_only=True):
    """The whole file. ``settle_ms``: how long records under way may take to reach all their columns and indexes."""

    server: list[GroongaServer] = []
    command_seconds: int = 120
    settle_ms: int = 50

    def entries(self) -> Sequence[Entry]:
        return self.server


def discover() -> list[GroongaServer]:
    """The database of Groonga's own service."""
    return [GroongaServer(database=USUAL_DATABASE, url=USUAL_URL)] if os.path.exists(USUAL_DATABASE) else []
