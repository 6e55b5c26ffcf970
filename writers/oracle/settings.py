"""The writer's configuration: which databases, by which driver."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from shadowset.writers.server_settings import Entry, WriterSettings


class Database(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One database. ``driver`` is a module as PEP 249 has them (``oracledb`` is the product's own). ``copies`` is where
    the server puts a copy of its control file: a directory of its own, which both the server and the writer can reach.
    """

    dsn: str
    copies: str
    driver: str = "oracledb"
    user: str = ""
    password_file: str = ""
    stop_command: list[str] = []
    recover_command: list[str] = []

    def problem(self) -> str:
        """What is wrong; empty when nothing is."""
        if not self.dsn:
            return "has no dsn; say how its driver reaches it"
        if not os.path.isabs(self.copies) or "'" in self.copies:
            return f"has the directory {self.copies!r} for copies; give an absolute path without quotes"
        if self.password_file and not os.path.isabs(self.password_file):
            return f"names {self.password_file}; give an absolute path"
        return ""


class Settings(WriterSettings, kw_only=True):
    """The whole file."""

    database: list[Database] = []
    command_seconds: int = 600

    def entries(self) -> Sequence[Entry]:
        return self.database
