"""What comes after the files of a restored cluster: its server, which recovers, and whether all of it is sound."""

from __future__ import annotations

import os
import subprocess
import time
from functools import partial
from typing import Any

import psycopg

from shadowset.vss.codes import Code, VssError
from shadowset.writers.postgresql.files import server_process
from shadowset.writers.postgresql.private_server import as_owner, programs
from shadowset.writers.postgresql.server import Server
from shadowset.writers.postgresql.settings import ClusterSettings
from shadowset.writers.postgresql.soundness import Finding, look_at
from shadowset.writers.service import LAST_WORDS, Cancelled, make_way, run_command, wait_for_service

FAILED = Code.VSS_E_WRITERERROR_RECOVERY_FAILED


def start_and_check(
    settings: ClusterSettings, data: str, system: str, seconds: float, cancelled: Cancelled
) -> dict[str, Any]:
    """Starts the server, waits for its recovery, and checks every database; tells what was checked.

    ``system`` is the system identifier that the cluster had at the cut, or empty. With ``checksums`` the server is
    stopped once more, since its pages can be read whole only while it is down.

    Errors: VSS_E_WRITERERROR_RECOVERY_FAILED.
    """
    end = time.monotonic() + seconds
    start = partial(_start, settings, data, end, cancelled)
    start()
    try:
        names = _check_identity(settings.connection, data, system)
    except VssError as error:
        raise VssError(FAILED, error.message) from error
    looked = [name for name in names if _check_database(settings, name, end - time.monotonic())]
    done: dict[str, Any] = {"amcheck": looked, "not checked": [name for name in names if name not in looked]}
    if settings.checksums:
        process = partial(server_process, data)
        make_way(data, process, settings.stop_command, end - time.monotonic(), cancelled)
        done["checksums"] = page_checksums(settings, data, end - time.monotonic())
        start()
    return done


def _start(settings: ClusterSettings, data: str, end: float, cancelled: Cancelled) -> None:
    run_command(settings.start_command, max(1.0, end - time.monotonic()), FAILED)
    wait_for_service(data, lambda: _problem(settings.connection, data), end - time.monotonic(), cancelled)


def page_checksums(settings: ClusterSettings, data: str, seconds: float) -> str:
    """Reads every page of a cluster that is down; what was found, in words.

    Errors: VSS_E_WRITERERROR_RECOVERY_FAILED when a page is not what was written.
    """
    tool = f"{programs(data, settings.bin_directory)}/pg_checksums"
    command = [*as_owner(os.stat(data), "TERM"), tool, "--check", "-D", data]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=max(1.0, seconds),
            stdin=subprocess.DEVNULL, check=False, cwd="/", env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VssError(FAILED, f"the pages of {data} could not be read in time ({error}); run pg_checksums") from error
    if not done.returncode:
        return "every page"
    if "not enabled" in done.stderr:
        return "none in this cluster"
    words = " ".join((done.stderr + done.stdout).split())[:LAST_WORDS]
    raise VssError(FAILED, f"after the restore of {data} pages are not what was written: {words}; use another backup")


def _check_identity(connection: str, data: str, system: str) -> list[str]:
    server = Server(connection, data)
    try:
        if server.data_directory != os.path.realpath(data):
            message = f"the server that was started is that of {server.data_directory}; check start_command"
            raise VssError(FAILED, message)
        if system and server.identity()["system"] != system:
            raise VssError(FAILED, f"{data} is another cluster than the one in the backup; restore another backup")
        return server.databases()
    finally:
        server.close()


def _check_database(settings: ClusterSettings, database: str, seconds: float) -> bool:
    """Whether it was looked at."""
    try:
        with psycopg.connect(settings.connection, dbname=database, autocommit=True) as session:
            found = look_at(session, seconds) if settings.check else Finding(looked=False)
    except psycopg.Error as error:
        found = Finding(" ".join(str(error).split()))
    if found.problem:
        raise VssError(FAILED, f"after the restore the database {database} is not sound: {found.problem}")
    return found.looked


def _problem(connection: str, data: str) -> str:
    try:
        server = Server(connection, data)
    except VssError as error:
        return error.message
    try:
        return "it still recovers" if server.recovering() else ""
    except VssError as error:
        return error.message
    finally:
        server.close()
