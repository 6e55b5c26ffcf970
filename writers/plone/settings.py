"""The writer's configuration: where the farm's register is, and how the farm's application is stopped and started."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from shadowset.writers.server_settings import Entry, WriterSettings


class FarmSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The farm. ``connection`` leads to the database with its register; the others differ by their names only."""

    connection: str
    url: str = ""
    credentials: str = ""
    stop_command: list[str] = []
    start_command: list[str] = []

    def problem(self) -> str:
        """What is wrong; empty when nothing is."""
        if bool(self.stop_command) != bool(self.start_command):
            return "has one of stop_command and start_command; give both or none"
        if self.credentials and not os.path.isabs(self.credentials):
            return f"has the credentials {self.credentials}; give an absolute path"
        return ""


class Settings(WriterSettings, kw_only=True):
    """The whole file."""

    farm: FarmSettings
    command_seconds: int = 120

    def entries(self) -> Sequence[Entry]:
        return [self.farm]
