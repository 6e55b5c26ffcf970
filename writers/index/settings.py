"""The writer's configuration: which indexes, and what is run around a restore."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import msgspec

from shadowset.writers.server_settings import Entry, WriterSettings


class IndexSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One index. ``required``: an index whose lock cannot be had fails the set, instead of being cut as it lies.

    ``agree_command`` says by its exit status whether index and database agree after a restore.
    """

    path: str
    kind: Literal["xapian", "tantivy"]
    required: bool = True
    stop_command: list[str] = []
    start_command: list[str] = []
    agree_command: list[str] = []

    def problem(self) -> str:
        """What is wrong; empty when nothing is."""
        return "" if os.path.isabs(self.path) else f"has the path {self.path!r}; give an absolute one"


class Settings(WriterSettings, kw_only=True):
    """The whole file."""

    index: list[IndexSettings] = []
    command_seconds: int = 120

    def entries(self) -> Sequence[Entry]:
        return self.index
