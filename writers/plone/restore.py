"""Detach, replace, attach: a farm lets go of what is restored, and takes it back when it agrees with itself.

The databases are restored by their own writers meanwhile, which know nothing of each other; this one waits until they
are there. What was detached and does not agree stays detached, and the farm's register says so.
"""

from __future__ import annotations

import logging
import time

import msgspec
import psycopg

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.writers.plone.application import FAILED, Application
from shadowset.writers.plone.blobs import missing_blobs
from shadowset.writers.plone.register import (
    ATTACHED,
    CONTENT,
    DETACHED,
    Database,
    Register,
    Session,
    read_register,
    set_state,
    write_sites,
)
from shadowset.writers.plone.settings import Settings
from shadowset.writers.plone.suspension import connect, failed
from shadowset.writers.service import POLL_SECONDS, Cancelled, run_command

LOG = logging.getLogger("shadowset.writer.plone")
FARM = "Farm"
CONTENT_PATH = f"{FARM}\\Content\\"
SHOWN = 3


class Summary(msgspec.Struct):
    """What the backup's metadata keeps of the farm: its register, and the last transaction of each database."""

    register: Register
    tids: dict[str, int] = {}
    frozen_at: str = ""


def summary_of(component: Component) -> Summary:
    """Errors: VSS_E_CORRUPT_XML_DOCUMENT for metadata that this writer did not write."""
    try:
        return msgspec.json.decode(component.backup_metadata, type=Summary)
    except msgspec.MsgspecError as error:
        message = f"the backup does not say what its farm consists of ({error}); use another backup"
        raise VssError(Code.VSS_E_CORRUPT_XML_DOCUMENT, message) from error


def chosen_content(selected: list[Component], register: Register) -> list[str]:
    """The content databases that are restored by themselves; empty when the whole farm is."""
    paths = [component.full_path for component in selected]
    paths += [f"{each.logical_path}\\{each.name}" for one in selected for each in one.restore_subcomponents]
    names = [path.removeprefix(CONTENT_PATH) for path in paths if path.startswith(CONTENT_PATH)]
    parts = any(component.restore_subcomponents for component in selected)
    if FARM in paths and not parts:
        return []
    return [name for name in dict.fromkeys(names) if register.content(name) is not None]


class Returning:
    """One restore: of the content databases ``alone``, or of the whole farm when there are none."""

    def __init__(self, settings: Settings, summary: Summary, alone: list[str]) -> None:
        self.settings, self.summary, self.alone = settings, summary, alone
        self._application = Application(settings.farm)
        self._lost: dict[str, int] = {}

    def _databases(self) -> list[Database]:
        known = self.summary.register.zope()
        return [each for each in known if not self.alone or (each.role == CONTENT and each.name in self.alone)]

    def detach(self, seconds: float) -> None:
        """Marks the databases as detached, and stops the application, which keeps objects of theirs in memory.

        Errors: VssError.
        """
        if self.alone:
            with self._register() as session:
                set_state(session, self.alone, DETACHED)
                self._lost = {each.name: _number(session, each.database) for each in self._databases()}
        if self.settings.farm.stop_command:
            limit = min(seconds, self.settings.command_seconds)
            run_command(self.settings.farm.stop_command, limit, Code.VSS_E_WRITERERROR_RETRYABLE)

    def attach(self, seconds: float, cancelled: Cancelled) -> None:
        """Waits for the databases, checks them, starts the application, and has the site map follow.

        Errors: VSS_E_WRITERERROR_RECOVERY_FAILED.
        """
        end = time.monotonic() + min(seconds, self.settings.command_seconds)
        agrees = False
        try:
            self._wait(end, cancelled)
            self._check()
            self._mark(ATTACHED)
            agrees = True
        finally:
            # the rest of the farm is well and goes on; a whole farm that does not agree is left to its administrator
            if self.settings.farm.start_command and (agrees or self.alone):
                run_command(self.settings.farm.start_command, max(10.0, end - time.monotonic()), FAILED)
        if self.settings.farm.url:
            self._application.wait(end - time.monotonic(), cancelled)
            self._synchronise()

    def _register(self) -> Session:
        return connect(self.settings.farm.connection)

    def _wait(self, end: float, cancelled: Cancelled) -> None:
        while problem := self._not_there():
            if cancelled() or time.monotonic() >= end:
                message = f"the farm's databases did not come back ({problem}); restore their components too"
                raise VssError(FAILED, message)
            time.sleep(POLL_SECONDS)

    def _not_there(self) -> str:
        try:
            with self._register() as session:
                if session.execute("SELECT pg_is_in_recovery()").fetchone() != (False,):
                    return "their server still recovers"
                for each in self._databases():
                    number = _number(session, each.database)
                    if not number:
                        return f"there is no database {each.database}"
                    if number == self._lost.get(each.name):
                        return f"the database {each.database} is still the one that was there before"
        except VssError as error:
            return error.message
        except psycopg.Error as error:
            return " ".join(str(error).split())
        return ""

    def _check(self) -> None:
        problems = []
        for each in self._databases():
            try:
                with connect(self.settings.farm.connection, each.database) as session:
                    problems += self._disagreements(session, each)
            except psycopg.Error as error:
                problems.append(failed(each.database, "cannot be read", error).message)
        if problems:
            raise VssError(FAILED, f"the restored farm does not agree: {'; '.join(problems)}; restore another backup")

    def _disagreements(self, session: Session, database: Database) -> list[str]:
        row = session.execute("SELECT coalesce(max(tid), 0) FROM object_state").fetchone()
        last, wanted = int(row[0]) if row else 0, self.summary.tids.get(database.name, 0)
        missing = missing_blobs(session, database)
        found = []
        if last < wanted:  # more is right after a roll forward
            found.append(f"the last transaction of {database.name} is {last}, and was {wanted} when it was copied")
        if missing:
            names = ", ".join(missing[:SHOWN]) + (" and others" if len(missing) > SHOWN else "")
            found.append(f"{len(missing)} blobs of {database.name} are missing: {names}")
        return found

    def _mark(self, state: str) -> None:
        names = self.alone or [each.name for each in self.summary.register.databases]
        try:
            with self._register() as session:
                set_state(session, names, state)
        except psycopg.Error as error:
            raise VssError(FAILED, failed("with its register", "cannot be written", error).message) from error

    def _synchronise(self) -> None:
        """The site map has the sites that there are, of those that it had at the backup or has now."""
        for each in self._databases():
            if each.role != CONTENT:
                continue
            try:
                with self._register() as session:
                    known = {**self.summary.register.sites, **read_register(session).sites}
                    found = {path: self._application.documents(path) for path in known if known[path] == each.name}
                    sites = {path: documents for path, documents in found.items() if documents is not None}
                    write_sites(session, each.name, sites)
            except psycopg.Error as error:
                raise VssError(FAILED, failed("with its register", "cannot be written", error).message) from error
            LOG.info("%s is attached again, with the sites %s", each.name, ", ".join(sites) or "none")


def _number(session: Session, database: str) -> int:
    """What tells a database from another one that gets its name; 0 when there is none."""
    row = session.execute("SELECT oid FROM pg_database WHERE datname = %s", (database,)).fetchone()
    return int(row[0]) if row else 0
