"""The writer's configuration: which servers, and how they are stopped and started for a restore."""

from __future__ import annotations

import os
from collections.abc import Sequence

from shadowset.writers.server_settings import Entry, ServerSettings, WriterSettings

USUAL_SOCKETS = ("/run/redis/redis-server.sock", "/run/redis/redis.sock")


class RedisServer(ServerSettings, kw_only=True):
    """One server. ``password_file`` holds the password and nothing else; ``files`` are needed to know the server's
    files while it is down, and default to Redis's own names."""

    socket: str = ""
    user: str = ""
    password_file: str = ""
    files: tuple[str, ...] = ("dump.rdb", "appendonly.aof", "appendonlydir")

    def problem(self) -> str:
        if not self.socket:
            return "has no socket; set unixsocket in redis.conf and give it here"
        wrong = [name for name in self.files if not name or "/" in name]
        return f"has the file {wrong[0]!r}; give names in the data directory" if wrong else super().problem()


class Settings(WriterSettings, kw_only=True):
    """The whole file."""

    server: list[RedisServer] = []
    command_seconds: int = 120

    def entries(self) -> Sequence[Entry]:
        return self.server


def discover() -> list[RedisServer]:
    """Servers that listen in the usual places."""
    return [RedisServer(socket=path) for path in USUAL_SOCKETS if os.path.exists(path)]
