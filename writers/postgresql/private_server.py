"""A server of the writer's own on a restored tree: nobody but the tree's owner reaches it, and it archives nothing.

It ends with the writer: the kernel tells it when the thread that started it is gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from shadowset.vss.codes import Code, VssError
from shadowset.writers.service import LAST_WORDS, POLL_SECONDS, Cancelled

FAILED = Code.VSS_E_WRITERERROR_RECOVERY_FAILED
SOCKET_PORT = 5432
STOP_SECONDS = 20.0
# What the lost server waited for, or was told to do, at its start.
OLD_WISHES = ("postmaster.pid", "postmaster.opts", "recovery.signal", "standby.signal")
SETTINGS = {
    "listen_addresses": "",
    "port": str(SOCKET_PORT),
    "unix_socket_permissions": "0700",
    "archive_mode": "off",
    "autovacuum": "off",
    "external_pid_file": "",
    "fsync": "off",
    "hot_standby": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
    "max_logical_replication_workers": "0",  # its subscriptions would take what is the lost server's
    "max_prepared_transactions": "1024",
    "max_wal_senders": "0",
    "session_preload_libraries": "",
    "shared_preload_libraries": "",
    "ssl": "off",
}


def programs(data: str, configured: str = "") -> str:
    """The directory of the programs of a tree's version. Errors: VSS_E_OBJECT_NOT_FOUND."""
    try:
        with open(f"{data}/PG_VERSION", encoding="ascii") as file:
            version = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{data} is no PostgreSQL cluster ({error})") from error
    found = shutil.which("postgres")
    for directory in (configured, f"/usr/lib/postgresql/{version}/bin", os.path.dirname(found or "")):
        if directory and os.access(f"{directory}/postgres", os.X_OK):
            return directory
    message = f"the programs of PostgreSQL {version} are not there; install them, or set bin_directory"
    raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)


def as_owner(owner: os.stat_result, on_death: str) -> list[str]:
    """How a program is started that refuses to run as root, and on what is not its own.

    ``on_death`` names the signal that it gets when the thread that started it is gone.
    """
    guard = ["setpriv", "--pdeathsig", on_death]
    if os.geteuid() == owner.st_uid:
        return guard
    return [*guard, f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups"]


class PrivateServer:
    """Runs between ``with`` and its end. The tree is changed: it is recovered, and what the server writes is in it."""

    def __init__(self, data: str, bin_directory: str, users: list[str], seconds: float, cancelled: Cancelled) -> None:
        """``users`` are tried in turn: a superuser's name is not known before."""
        self.data, self._programs, self._users = data, bin_directory, users
        self._end, self._cancelled = time.monotonic() + seconds, cancelled
        self._owner = os.stat(data)
        self.connection = ""

    def __enter__(self) -> PrivateServer:
        """Errors: VSS_E_WRITERERROR_RECOVERY_FAILED with the server's last words."""
        for name in OLD_WISHES:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.data}/{name}")
        self._directory = tempfile.mkdtemp(prefix="ss-pg-", dir="/tmp")
        try:
            self._process = self._start()
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> subprocess.Popen[bytes]:
        for name, text in (("conf", ""), ("hba", "local all all trust\n"), ("ident", "")):
            with open(f"{self._directory}/{name}", "w", encoding="ascii") as file:
                file.write(text)
        places = {
            "config_file": f"{self._directory}/conf",
            "hba_file": f"{self._directory}/hba",
            "ident_file": f"{self._directory}/ident",
            "unix_socket_directories": self._directory,
        }
        options = [part for name, value in {**SETTINGS, **places}.items() for part in ("-c", f"{name}={value}")]
        with open(f"{self._directory}/log", "wb") as log, open(os.devnull, "rb") as null:
            for name in ("", "conf", "hba", "ident", "log"):
                os.chown(f"{self._directory}/{name}", self._owner.st_uid, self._owner.st_gid)
            command = [*as_owner(self._owner, "INT"), f"{self._programs}/postgres", "-D", self.data, *options]
            return subprocess.Popen(command, stdin=null, stdout=log, stderr=log, cwd="/", start_new_session=True)

    def _wait(self) -> None:
        while not self._take_sessions():
            if self._process.poll() is not None:
                raise VssError(FAILED, f"the server on {self.data} ended at its start ({self._last_words()})")
            if self._cancelled() or time.monotonic() >= self._end:
                raise VssError(FAILED, f"the server on {self.data} did not recover in time ({self._last_words()})")
            time.sleep(POLL_SECONDS)

    def _take_sessions(self) -> bool:
        for user in self._users:
            connection = make_conninfo(
                host=self._directory, port=SOCKET_PORT, user=user, dbname="postgres", connect_timeout=5
            )
            try:
                psycopg.connect(connection).close()
            except psycopg.Error:
                continue
            self.connection = connection
            return True
        return False

    def _last_words(self) -> str:
        with open(f"{self._directory}/log", "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_WORDS))
            return " ".join(log.read().decode(errors="replace").split())

    def session(self, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        """Errors: psycopg.Error."""
        return psycopg.connect(self.connection, dbname=database, autocommit=True)

    def _stop(self) -> None:
        process = getattr(self, "_process", None)
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if process is None or process.poll() is not None:
                break
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        shutil.rmtree(self._directory, ignore_errors=True)
