"""What a cluster is on disk: its data directory, and the directories outside it that belong to it.

``/var/lib/postgresql/15/main`` is the component ``var\\lib\\postgresql\\15\\main``: logical path
``var\\lib\\postgresql\\15``, name ``main``. So the name is unique on the machine, and a restore finds the place when
the cluster is gone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from shadowset.vss.codes import Code, VssError

POSTGRESQL_WRITER_ID = "8955e60c-a50a-4caa-8b17-28c17f6f4797"
POSTGRESQL_WRITER_NAME = "PostgreSQL Writer"
UNUSABLE = frozenset("\\*?[")
MAX_PID_FILE = 4096


@dataclass(frozen=True)
class ClusterFiles:
    """Where the files of a cluster lie. ``wal`` is empty when the log lies in the data directory; ``tablespaces`` maps
    the OID of each tablespace outside to its directory."""

    data: str
    wal: str = ""
    tablespaces: dict[str, str] = field(default_factory=dict)

    @property
    def directories(self) -> list[str]:
        """All directories, the data directory first."""
        outside = [self.wal] if self.wal else []
        return [self.data, *outside, *sorted(set(self.tablespaces.values()))]


def component_identity(data_directory: str) -> tuple[str, str]:
    """Logical path and name of the component of a cluster.

    Errors: E_INVALIDARG for a path that file specifications cannot express.
    """
    path = os.path.realpath(data_directory)
    if UNUSABLE & set(path):
        raise VssError(Code.E_INVALIDARG, f"{path} cannot be a component: rename it without any of \\ * ? [")
    directory, name = os.path.split(path)
    return directory.strip("/").replace("/", "\\"), name


def data_directory_of(logical_path: str, name: str) -> str:
    """The data directory of a component."""
    return os.path.join("/", logical_path.replace("\\", "/"), name)


def read_files(data_directory: str) -> ClusterFiles:
    """Looks at the data directory and its links.

    Errors: VSS_E_OBJECT_NOT_FOUND when it is no cluster; E_ACCESSDENIED when this process may not look.
    """
    data = os.path.realpath(data_directory)
    try:
        os.stat(f"{data}/PG_VERSION")
        wal = os.path.realpath(f"{data}/pg_wal")
        links = [entry for entry in os.scandir(f"{data}/pg_tblspc") if entry.is_symlink()]
    except PermissionError as error:
        message = (
            f"the cluster {data} cannot be looked at ({error.filename}); run the writer as the owner of the cluster"
        )
        raise VssError(Code.E_ACCESSDENIED, message) from error
    except OSError as error:
        message = f"{data} is no PostgreSQL cluster ({error.filename}: {error.strerror}); check its configuration"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message) from error
    return ClusterFiles(
        data, "" if wal == f"{data}/pg_wal" else wal, {link.name: os.path.realpath(link.path) for link in links}
    )


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
    except OSError:
        return pid
