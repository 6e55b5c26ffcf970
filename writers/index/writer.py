"""The search index writer: the indexes' own locks held over the cut, and a restored index compared with the cut."""

from __future__ import annotations

import logging
import os
import time

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import SourceType
from shadowset.writers.agreement import check_agreement
from shadowset.writers.index.held import HeldIndex
from shadowset.writers.index.library import Library, library_of
from shadowset.writers.index.settings import IndexSettings, Settings
from shadowset.writers.server_writer import FileSet, Held, ServerWriter, found_servers
from shadowset.writers.service import Cancelled, run_command

LOG = logging.getLogger("shadowset.writer.index")
INDEX_WRITER_ID = "f2b8a1de-6c3b-4b0e-8b8c-3f6d2a94e771"
INDEX_WRITER_NAME = "Search Index Writer"
FAILED = Code.VSS_E_WRITERERROR_RECOVERY_FAILED
BUSY = -1


class IndexWriter(ServerWriter[IndexSettings]):
    """Protects the indexes of ``settings``."""

    writer_id = INDEX_WRITER_ID
    name = INDEX_WRITER_NAME
    kind = "search index"
    called = "the index"
    identify_aside = True
    source = SourceType.NONTRANSACTEDDB

    def __init__(self, settings: Settings, socket_path: str = "") -> None:
        """Errors: VSS_E_NOT_SUPPORTED when a library is not installed."""
        super().__init__(settings.command_seconds, socket_path)
        self.settings = settings
        self.instance_name = settings.name
        self.freeze_timeout_ms = settings.freeze_timeout_ms
        self._libraries: dict[str, Library] = {each.kind: library_of(each.kind) for each in settings.index}

    def servers(self) -> dict[str, IndexSettings]:
        return found_servers(self.settings.index, lambda each: each.path, self.file_sets)

    def settings_of(self, data: str) -> IndexSettings:
        for settings in self.settings.index:
            if os.path.realpath(settings.path) == data:
                return settings
        message = f"the index {data} is not in this writer's configuration; add it, with its kind"
        raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)

    def library(self, data: str) -> Library:
        """The library of an index. Errors: VssError when it is not configured."""
        return self._libraries[self.settings_of(data).kind]

    def file_sets(self, data: str) -> list[FileSet]:
        if not os.path.isdir(data):
            message = f"the index {data} cannot be seen; check its configuration"
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
        return [(data, "*", True)]

    def takes_part(self, data: str) -> bool:
        return True  # an indexer may come at any time

    def process(self, data: str) -> int:
        """Not which process writes to the index, but whether one does."""
        if not os.path.isdir(data) or not os.listdir(data):
            return 0
        release = self.library(data).lock(data)
        if release is None:
            return BUSY
        release()
        return 0

    def open(self, settings: IndexSettings, data: str) -> Held:
        return HeldIndex(self.library(data), data, settings.required)

    def recover(self, data: str, component: Component, seconds: float, cancelled: Cancelled) -> None:
        """Errors: VSS_E_WRITERERROR_RECOVERY_FAILED when the index is not sound or not that of the cut, or apart."""
        settings, library = self.settings_of(data), self.library(data)
        ends = time.monotonic() + seconds
        if problem := library.problem(data):
            raise VssError(FAILED, f"the index {data} is not sound ({problem}); restore another backup")
        found = library.read(data)
        if component.backup_stamp and found.stamp() != component.backup_stamp:
            message = f"the index {data} has {found.stamp()} instead of {component.backup_stamp}"
            raise VssError(FAILED, f"{message}; restore another backup")
        if settings.start_command:
            run_command(settings.start_command, ends - time.monotonic(), FAILED)
        if settings.agree_command:
            told = {
                "SHADOWSET_DOCUMENTS": str(found.documents),
                "SHADOWSET_GENERATION": str(found.generation),
            }
            check_agreement(settings.agree_command, settings.path, told, ends - time.monotonic())
