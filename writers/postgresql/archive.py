"""The log between two backups: a named end for it, and the segments of the archive that lead there.

The archive is what the server's own archive_command fills. A log backup writes a restore point into the log, has the
server begin a new segment, and waits until the one before is archived. Then the archive must hold every segment from
the base's position on, of this cluster's own history: a gap, or a restore since the base, is told, not backed up.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from shadowset.vss.codes import Code, VssError
from shadowset.writers.postgresql.files import SEGMENT
from shadowset.writers.postgresql.server import CONNECT_SECONDS, Server, translate
from shadowset.writers.service import POLL_SECONDS, Cancelled

LOG_COMPONENT = "archived log"
HISTORIES = "*.history"
UNFINISHED = re.compile(r"\.partial$|\.backup$|\.tmp$")
STAMP = re.compile(r"([0-9A-F]+)/([0-9A-F]+) timeline (\d+)")
ADDRESSES = 1 << 32


@dataclass(frozen=True)
class Position:
    """A place in the log, on a time line; ``lsn`` counts bytes."""

    lsn: int
    timeline: int

    @classmethod
    def parse(cls, stamp: str) -> Position:
        """Errors: VSS_E_WRITERERROR_NONRETRYABLE for the stamp of a backup from which no log goes on."""
        found = STAMP.fullmatch(stamp)
        if found is None:
            message = f"the log does not go on from the base, whose stamp is {stamp!r}; make a full backup"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
        return cls(int(found[1], 16) * ADDRESSES + int(found[2], 16), int(found[3]))

    def __str__(self) -> str:
        return f"{self.lsn // ADDRESSES:X}/{self.lsn % ADDRESSES:X} timeline {self.timeline}"


@dataclass(frozen=True)
class LogEnd:
    """Where a log backup ends: its restore point, the last segment, and the size of segments."""

    restore_point: str
    position: Position
    segment: str
    segment_size: int

    def number(self, name: str) -> int:
        """A segment's place in the log, whatever its time line."""
        return int(name[8:16], 16) * (ADDRESSES // self.segment_size) + int(name[16:24], 16)


class ArchivingServer(Server):
    """A session with a server that archives its log."""

    def finish_segment(self, seconds: float, cancelled: Cancelled) -> LogEnd:
        """Ends the log for a backup, and waits for the archiver. Errors: VssError."""
        end = time.monotonic() + seconds
        if self._value("SHOW archive_mode", "telling whether it archives") == "off" or self.recovering():
            message = f"the server of {self.where} archives no log; back up its primary, or set archive_mode"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
        name = f"shadowset {secrets.token_hex(8)}"
        size = int(self._value("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'", "telling sizes"))
        try:
            self._execute("SELECT 1", CONNECT_SECONDS)
            row = self._connection.execute(
                "SELECT lsn::text, pg_walfile_name(pg_switch_wal()) FROM pg_create_restore_point(%s) lsn", (name,)
            ).fetchone()
        except psycopg.Error as error:
            raise translate(self.where, "the end of a segment of its log", error) from error
        assert row is not None
        segment = str(row[1])
        self._wait_until_archived(segment, end, cancelled)
        timeline = int(segment[:8], 16)
        return LogEnd(name, Position.parse(f"{row[0]} timeline {timeline}"), segment, size)

    def _wait_until_archived(self, segment: str, end: float, cancelled: Cancelled) -> None:
        """The server's own note goes when the command has succeeded."""
        while os.path.lexists(f"{self.data_directory}/pg_wal/archive_status/{segment}.ready"):
            if cancelled() or time.monotonic() >= end:
                failed = self._value("SELECT last_failed_wal FROM pg_stat_archiver", "telling of its archiver")
                last = f", its archive_command fails for {failed}" if failed else ""
                message = f"the server of {self.where} did not archive {segment} in time{last}; look at its log"
                raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
            time.sleep(POLL_SECONDS)


def segments_since(
    archive: str, data: str, since: Position, end: LogEnd, copied: Callable[[str], str] = lambda path: path
) -> list[str]:
    """The names of the archive's files from a position to the end; ``copied`` tells where to look for a path.

    Errors: VSS_E_WRITERERROR_NONRETRYABLE naming what is missing.
    """
    place = copied(archive)
    lines = _own_timelines(place, data, since, end.position.timeline)
    found: dict[int, list[str]] = {}
    try:
        for name in os.listdir(place):
            if SEGMENT.fullmatch(name[:24]) and not UNFINISHED.search(name) and _is_whole(f"{place}/{name}", end):
                found.setdefault(end.number(name), []).append(name)
    except OSError as error:
        message = f"the archive {archive} of {data} cannot be looked at ({error.strerror}); see to archive_directory"
        raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message) from error
    numbers = range(since.lsn // end.segment_size, end.number(end.segment) + 1)
    for number in numbers:
        if not any(int(name[:8], 16) in lines for name in found.get(number, ())):
            high, low = divmod(number, ADDRESSES // end.segment_size)
            missing = f"{end.position.timeline:08X}{high:08X}{low:08X}"
            message = f"the archive {archive} of {data} lacks {missing}, so the log has a gap; make a full backup"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, message)
    return sorted(name for number in numbers for name in found[number])


def _is_whole(path: str, end: LogEnd) -> bool:
    """Whether a segment can be trusted by its size; a compressed one is what the archive_command made of it."""
    compressed = len(os.path.basename(path)) > len(end.segment)
    return compressed or os.stat(path).st_size == end.segment_size


def _own_timelines(place: str, data: str, since: Position, timeline: int) -> set[int]:
    """The time lines that lead from the base's to the present one. Errors: VSS_E_WRITERERROR_NONRETRYABLE."""
    if timeline == since.timeline:
        return {timeline}
    history = _history(f"{data}/pg_wal", timeline) or _history(place, timeline)
    if history.get(since.timeline, -1) >= since.lsn:
        return {timeline, *history}
    message = f"the cluster {data} was restored or promoted since the base, to time line {timeline}, and its log does"
    raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, f"{message} not go on from there; make a full backup")


def _history(directory: str, timeline: int) -> dict[int, int]:
    """Where earlier time lines were left on the way to this one; empty when it is not told."""
    try:
        with open(f"{directory}/{timeline:08X}.history", encoding="utf-8") as file:
            lines = re.findall(r"^\s*(\d+)\s+([0-9A-F]+/[0-9A-F]+)", file.read(), re.MULTILINE)
    except OSError:
        return {}
    return {int(line): Position.parse(f"{switch} timeline {line}").lsn for line, switch in lines}
