"""The log backups of a writer: for each cluster an end of its log, then the archive's segments that lead there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component, DifferencedFile
from shadowset.writers.naming import component_path
from shadowset.writers.postgresql.archive import HISTORIES, ArchivingServer, LogEnd, Position, segments_since
from shadowset.writers.postgresql.settings import ClusterSettings
from shadowset.writers.sdk import CurrentEvent

METHOD = "log"


class LogBackup:
    """The log of one cluster since its base."""

    def __init__(self, data: str, previous_stamp: str) -> None:
        self.data, self._previous = data, previous_stamp
        self.failure: VssError | None = None
        self._facts: dict[str, str] = {}

    def prepare(self, settings: ClusterSettings | None, event: CurrentEvent, seconds: float) -> None:
        """Ends the log and waits for the archive; what fails is kept in ``failure``."""
        try:
            self._since = Position.parse(self._previous)
            if settings is None or not settings.connection or not settings.archive_directory:
                message = f"the log of {self.data} needs a server that runs, and an archive_directory; add it"
                raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
            self._archive = os.path.realpath(settings.archive_directory)
            self._end = self._finish(settings, event, seconds)
        except VssError as error:
            self.failure = error

    def _finish(self, settings: ClusterSettings, event: CurrentEvent, seconds: float) -> LogEnd:
        server = ArchivingServer(settings.connection, self.data)
        try:
            if server.data_directory != self.data:
                message = f"the connection for {self.data} leads to that of {server.data_directory}"
                raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, f"{message}; mend the configuration")
            end = server.finish_segment(seconds, lambda: event.cancelled)
            self._facts = server.identity()
        finally:
            server.close()
        segments_since(self._archive, self.data, self._since, end)  # a gap is told before anything is cut
        return end

    def name_files(self, component: Component) -> None:
        """Says which files the backup takes, and what a restore has to know. Errors: VssError."""
        if self.failure is not None:
            raise self.failure
        names = segments_since(self._archive, self.data, self._since, self._end)
        component.differenced_files = [DifferencedFile(self._archive, name) for name in (*names, HISTORIES)]
        facts = {"data_directory": self.data, "method": METHOD, **self._facts, "archive": self._archive}
        facts |= {"since": str(self._since), "segment": self._end.segment, "restore_point": self._end.restore_point}
        facts["timeline"] = str(self._end.position.timeline)
        component.backup_metadata = json.dumps(facts)
        component.backup_stamp = str(self._end.position)


def wanted_logs(components: Iterable[Component]) -> list[LogBackup]:
    """Those that build on a base; what is taken whole has no stamp before it."""
    return [
        LogBackup(component_path(each.logical_path, each.name), each.previous_backup_stamp)
        for each in components
        if each.previous_backup_stamp
    ]
