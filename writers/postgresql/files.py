"""What a cluster is on disk: its data directory, and the directories outside it that belong to it."""

from __future__ import annotations

import os
import re

from shadowset.vss.codes import Code, VssError

POSTGRESQL_WRITER_ID = "8955e60c-a50a-4caa-8b17-28c17f6f4797"
POSTGRESQL_WRITER_NAME = "PostgreSQL Writer"
MAX_PID_FILE = 4096
SEGMENT = re.compile(r"[0-9A-F]{24}")  # of the log: time line, and its number in two halves


def directories(data_directory: str) -> list[str]:
    """The data directory, then the log's and the tablespaces' directories that lie outside it.

    Errors: VSS_E_OBJECT_NOT_FOUND when it is no cluster; E_ACCESSDENIED when this process may not look.
    """
    data = os.path.realpath(data_directory)
    try:
        os.stat(f"{data}/PG_VERSION")
        wal = os.path.realpath(f"{data}/pg_wal")
        links = [entry.path for entry in os.scandir(f"{data}/pg_tblspc") if entry.is_symlink()]
    except PermissionError as error:
        message = f"the cluster {data} cannot be looked at ({error.filename}); run the writer as its owner"
        raise VssError(Code.E_ACCESSDENIED, message) from error
    except OSError as error:
        message = f"{data} is no PostgreSQL cluster ({error.filename}: {error.strerror}); check its configuration"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message) from error
    outside = [] if wal == f"{data}/pg_wal" else [wal]
    return [data, *outside, *sorted({os.path.realpath(link) for link in links})]


def server_process(data_directory: str) -> int:
    """The process of the server that runs on a data directory; 0 when none does (a stale file counts as none)."""
    data = os.path.realpath(data_directory)
    try:
        with open(f"{data}/postmaster.pid", "rb") as file:
            pid = int(file.read(MAX_PID_FILE).split(b"\n", 1)[0])
        if pid <= 0:
            return 0
        os.kill(pid, 0)
    except PermissionError:
        return pid
    except (OSError, ValueError):
        return 0
    try:
        return pid if os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)") == data else 0
    except FileNotFoundError:
        return 0  # it has ended, and nobody has waited for it yet
    except OSError:
        return pid
