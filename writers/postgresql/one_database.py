"""One database out of a copy of its cluster.

The files of a database mean nothing without their cluster's: the copy of the whole cluster goes to a place of its own,
a private server recovers it there, and the database is dumped from it and loaded into the cluster that runs. Under its
own name it takes the place of the one that is there only when it is loaded and sound: both change names in one
transaction.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.restore_options import options_for, parse_options
from shadowset.writers.postgresql.private_server import FAILED, PrivateServer, programs
from shadowset.writers.postgresql.settings import ClusterSettings
from shadowset.writers.postgresql.soundness import Session, look_at
from shadowset.writers.service import LAST_WORDS, POLL_SECONDS, Cancelled

LOG = logging.getLogger("shadowset.writer.postgresql")
SESSIONS_SECONDS = 10.0


def wanted_database(component: Component) -> str:
    """The database that is to be restored by itself; empty when the whole cluster is. Errors: E_INVALIDARG."""
    if not component.restore_options.lstrip().startswith('"'):
        return ""
    return options_for(parse_options(component.restore_options), component.full_path).get("database", "")


def moved_to(component: Component, directory: str) -> str:
    """Where the requester puts, or has put, the files of one of the cluster's directories."""
    for mapping in (*component.new_targets, *component.alternate_location_mappings):
        if os.path.realpath(mapping.path) == directory:
            return mapping.alternate_path
    return directory


def relink(component: Component, data: str) -> None:
    """Has the links of a tree that was moved, to its log and its tablespaces, lead into the tree.

    Errors: VSS_E_WRITERERROR_RECOVERY_FAILED for a link that would lead out of it.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{data}/tablespace_map")  # at its start a server would lead the links back by it
    spaces = f"{data}/pg_tblspc"
    names = os.listdir(spaces) if os.path.isdir(spaces) else []
    for link in (f"{data}/pg_wal", *(f"{spaces}/{name}" for name in names)):
        if not os.path.islink(link):
            continue
        target = os.path.realpath(link)
        place = moved_to(component, target)
        if place == target:
            message = f"{target} of the cluster was not put anywhere else, so {data} cannot be used beside it"
            raise VssError(FAILED, f"{message}; name a new target for it too")
        owner = os.lstat(link)
        os.unlink(link)
        os.symlink(place, link)
        os.chown(link, owner.st_uid, owner.st_gid, follow_symlinks=False)


class Transfer:
    """``database`` of the tree ``data`` goes into the cluster of ``settings``, as ``name`` if there is one."""

    def __init__(self, settings: ClusterSettings, data: str, database: str, name: str) -> None:
        self.settings, self.data, self.database = settings, data, database
        self.replaces = not name
        self.name = name or database
        # of nobody else, so that it may be dropped when something fails
        self.loaded_as = f"{self.name[:40]}_restoring_{secrets.token_hex(4)}"

    def check_target(self) -> None:
        """Errors: VSS_E_OBJECT_ALREADY_EXISTS; VSS_E_WRITERERROR_RETRYABLE when the cluster takes no session."""
        with self._live() as session:
            if not self.replaces and _exists(session, self.name):
                message = f"there is a database {self.name} already; drop it, or restore to another name"
                raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, message)

    def _live(self) -> Session:
        try:
            return psycopg.connect(self.settings.connection, autocommit=True, connect_timeout=5)
        except psycopg.Error as error:
            message = f"the cluster that the database {self.database} is to go to takes no session ({error})"
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, f"{' '.join(message.split())}; start it") from error

    def run(self, seconds: float, cancelled: Cancelled) -> None:
        """Recovers, checks, loads, and exchanges. Errors: VSS_E_WRITERERROR_RECOVERY_FAILED; nothing has changed."""
        end = time.monotonic() + seconds
        tools = programs(self.data, self.settings.bin_directory)
        own = str(conninfo_to_dict(self.settings.connection).get("user") or "")
        users = list(dict.fromkeys(filter(None, (own, _owner(self.data), "postgres"))))
        with PrivateServer(self.data, tools, users, seconds, cancelled) as source:
            self._take_name(source, end - time.monotonic())
            try:
                self._load(source, tools, end - time.monotonic())
                self._exchange()
            except (VssError, psycopg.Error) as error:
                self._drop(self.loaded_as)
                if isinstance(error, VssError):
                    raise
                words = " ".join(str(error).split())
                raise VssError(FAILED, f"the restored database cannot become {self.name} ({words})") from error
        LOG.info("the database %s was restored as %s", self.database, self.name)

    def _take_name(self, source: PrivateServer, seconds: float) -> None:
        """Checks it, and gives it its new name, so that its dump makes it with all that belongs to it."""
        try:
            if self.settings.check:
                with source.session(self.database) as session:
                    if problem := look_at(session, seconds).problem:
                        raise VssError(FAILED, f"the database {self.database} of the backup is not sound: {problem}")
            with source.session("template1") as session:
                _rename(session, self.database, self.loaded_as)
        except psycopg.Error as error:
            words = " ".join(str(error).split())
            message = f"the cluster of the backup does not give its database {self.database} ({words})"
            raise VssError(FAILED, message) from error

    def _load(self, source: PrivateServer, tools: str, seconds: float) -> None:
        """Dumps and loads in one stream, which needs no room."""
        origin = make_conninfo(source.connection, dbname=self.loaded_as)
        dump = [f"{tools}/pg_dump", "-Fc", "-Z0", "-d", origin]
        load = [f"{tools}/pg_restore", "--create", "--exit-on-error", "-d", self.settings.connection]
        with tempfile.TemporaryFile() as log:
            giver = subprocess.Popen(dump, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd="/")
            assert giver.stdout is not None
            try:
                taker = subprocess.run(
                    load, stdin=giver.stdout, stdout=log, stderr=log, timeout=seconds, check=False, cwd="/"
                )
                failed = bool(taker.returncode)
            except subprocess.TimeoutExpired as error:
                failed = True
                raise VssError(FAILED, f"the database {self.database} could not be loaded in time") from error
            finally:
                giver.stdout.close()
                if failed:
                    giver.kill()
                giver.wait()
            if failed or giver.returncode:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_WORDS))
                words = " ".join(log.read().decode(errors="replace").split())
                raise VssError(FAILED, f"the database {self.database} cannot be loaded ({words})")

    def _exchange(self) -> None:
        """The loaded database takes its name; what has had it so far goes, if it may. Errors: psycopg.Error."""
        allow = SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        lost = f"{self.name[:40]}_lost_{secrets.token_hex(4)}"
        with self._live() as session:
            if not self.replaces or not _exists(session, self.name):
                _rename(session, self.loaded_as, self.name)
                return
            session.execute(allow.format(Identifier(self.name), SQL("false")))
            try:
                _end_sessions(session, self.name)
                with session.transaction():
                    _rename(session, self.name, lost)
                    _rename(session, self.loaded_as, self.name)
            except BaseException:
                session.execute(allow.format(Identifier(self.name), SQL("true")))
                raise
        self._drop(lost)

    def _drop(self, name: str) -> None:
        try:
            with self._live() as session:
                session.execute(SQL("DROP DATABASE IF EXISTS {}").format(Identifier(name)))
        except (VssError, psycopg.Error) as error:
            LOG.warning("the database %s is left behind, drop it: %s", name, " ".join(str(error).split()))


def _exists(session: Session, name: str) -> bool:
    return session.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is not None


def _rename(session: Session, old: str, new: str) -> None:
    session.execute(SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(old), Identifier(new)))


def _end_sessions(session: Session, database: str) -> None:
    """Errors: VSS_E_WRITERERROR_RETRYABLE when somebody stays."""
    end = time.monotonic() + SESSIONS_SECONDS
    ask = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"
    while (left := session.execute(ask, (database,)).fetchone()) is not None and left[0]:
        if time.monotonic() >= end:
            message = f"{left[0]} sessions with the database {database} do not end; stop their applications"
            raise VssError(Code.VSS_E_WRITERERROR_RETRYABLE, message)
        time.sleep(POLL_SECONDS)


def _owner(data: str) -> str:
    try:
        return pwd.getpwuid(os.stat(data).st_uid).pw_name
    except (KeyError, OSError):
        return ""


def remove_moved(component: Component) -> None:
    """Removes what the requester put into the scratch place, which nobody needs any more."""
    for mapping in component.alternate_location_mappings:
        shutil.rmtree(mapping.alternate_path, ignore_errors=True)
