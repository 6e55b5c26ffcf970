"""Ends the backup mode of databases whose writer died: tried until each has ended it."""

from __future__ import annotations

import logging
import sys

import msgspec

from shadowset.vss.codes import VssError
from shadowset.writers.guard import guard, insist
from shadowset.writers.oracle.database import END, Session
from shadowset.writers.oracle.settings import Database

LOG = logging.getLogger("shadowset.writer.oracle")
REST_SECONDS = 2.0
PATIENCE_SECONDS = 1800.0


def end_all(line: bytes) -> None:
    """Takes all databases in ``line`` out of backup mode."""
    databases = msgspec.json.decode(line, type=list[Database])
    for settings in insist(databases, ended, REST_SECONDS, PATIENCE_SECONDS):
        LOG.error("the database %s may still be in backup mode; end it by hand", settings.dsn)


def ended(settings: Database) -> bool:
    """One try."""
    try:
        session = Session(settings)
        try:
            if session.files_in_backup():
                session.tell(END)
            return not session.files_in_backup()
        finally:
            session.close()
    except VssError as error:
        LOG.warning("%s: it is tried again", error.message)
        return False


if __name__ == "__main__":
    sys.exit(guard(end_all))
