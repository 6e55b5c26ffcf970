"""PostgreSQL's own backup mode, for a cluster whose parts cannot be cut at one instant.

Between its start and its stop the server logs whole pages, so that a copy whose parts are of different instants becomes
right when the log of all that time is replayed. This needs a label in the copy, which says where to begin, and the log
itself, up to the stop; both get there after the cut, in the copy's own layer. A slot keeps the log until then.

Backup mode and slot belong to the session: when that ends, for whatever reason, the server ends them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import LiteralString

import psycopg

from shadowset.vss.codes import Code, VssError
from shadowset.writers.postgresql.files import SEGMENT
from shadowset.writers.postgresql.server import Server, translate

NEW_NAMES_VERSION = 150_000
LABEL = "backup_label"
SLOT = "shadowset"
STOP_SECONDS = 30.0


class BackupSession(Server):
    """A session that holds its server in backup mode from ``prepare`` to ``finish``."""

    def prepare(self, seconds: float) -> None:
        """Errors: VSS_E_WRITERERROR_NONRETRYABLE on a standby, or when the role may not; RETRYABLE when it is slow."""
        self._facts = {"method": "backup mode", **self.identity()}
        if self.recovering():
            message = f"the server of {self.where} is a standby, which cannot be told to keep its log; copy its primary"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, f"{message}, or set backup_mode = false")
        slot: LiteralString = "SELECT pg_create_physical_replication_slot(%s || '_' || pg_backend_pid(), true, true)"
        start: LiteralString = (
            "SELECT pg_backup_start('shadowset', true)"
            if self._connection.info.server_version >= NEW_NAMES_VERSION
            else "SELECT pg_start_backup('shadowset', true, false)"
        )
        try:
            self._connection.execute(slot, (SLOT,))
            row = self._execute(start, seconds).fetchone()
        except psycopg.Error as error:
            raise translate(self.where, "the start of backup mode", error) from error
        self._facts["start"] = str(row[0]) if row else ""

    def finish(self, copied: Callable[[str], str]) -> None:
        """Ends backup mode, and puts label and log into the copy; ``copied`` tells where a path lies in it, or "".

        Errors: VssError.
        """
        places = {
            path: copied(path) for path in (self.data_directory, os.path.realpath(f"{self.data_directory}/pg_wal"))
        }
        for path, place in places.items():
            if not place:
                message = (
                    f"{path} cannot be written to in the copy, so the label and the log of backup mode have no place"
                )
                raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, f"{message}; allow recovery in the copy")
        first, last, label = self._stop()
        data, wal = places.values()
        try:
            self._copy_log(os.path.realpath(f"{self.data_directory}/pg_wal"), wal, first, last)
            _write(f"{data}/{LABEL}", label)
        except OSError as error:
            message = f"the copy of {self.data_directory} cannot be completed ({error.filename}: {error.strerror})"
            raise VssError(Code.VSS_E_WRITERERROR_NONRETRYABLE, f"{message}; look at the shadow storage") from error

    def _stop(self) -> tuple[str, str, str]:
        """First and last segment of the log that the copy needs, and the label."""
        stop: LiteralString = (
            "SELECT lsn, labelfile FROM pg_backup_stop(false)"
            if self._connection.info.server_version >= NEW_NAMES_VERSION
            else "SELECT lsn, labelfile FROM pg_stop_backup(false, false)"
        )
        try:
            row = self._execute(stop, STOP_SECONDS).fetchone()
            assert row is not None
            lsn, label = str(row[0]), str(row[1])
            names = self._connection.execute(
                "SELECT pg_walfile_name(%s::pg_lsn), pg_walfile_name(%s::pg_lsn)", (self._facts["start"], lsn)
            ).fetchone()
        except psycopg.Error as error:
            raise translate(self.where, "the end of backup mode", error) from error
        assert names is not None
        self._facts.update(stop=lsn, label=label)
        return str(names[0]), str(names[1]), label

    def _copy_log(self, source: str, target: str, first: str, last: str) -> None:
        names = sorted(name for name in os.listdir(source) if SEGMENT.fullmatch(name) and first <= name <= last)
        if not names or names[0] != first or names[-1] != last:
            message = f"the log of {self.data_directory} from {first} to {last} is not whole any more; try again"
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
        owner = os.stat(target)
        for name in names:
            shutil.copyfile(f"{source}/{name}", f"{target}/{name}")
            os.chmod(f"{target}/{name}", 0o600)
            os.chown(f"{target}/{name}", owner.st_uid, owner.st_gid)


def _write(path: str, text: str) -> None:
    owner = os.stat(os.path.dirname(path))
    with open(path, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        file.write(text)
