"""A private data directory over a copy of a cluster: its parts are the copy's, its surroundings are nobody's.

The data directory in a copy is the live one's twin, and to start a server on it would be to start the live one again:
its configuration archives, its slots and subscriptions reach out, and its links lead to the live log and the live
tablespaces. So the server gets another directory, in which each part that recovery works on is a link into the copy,
and all else is missing or empty. Nothing in the copy has to be changed for it, and nothing changed back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shadowset.vss.codes import Code, VssError
from shadowset.writers.current_event import lies_in

FAILED = Code.VSS_E_WRITERERROR_RECOVERY_FAILED
LOG_DIRECTORY = "pg_wal"
TABLESPACES = "pg_tblspc"
LABEL = "backup_label"
LINKED = (
    "base",
    "global",
    "pg_commit_ts",
    "pg_logical",
    "pg_multixact",
    "pg_stat",
    "pg_subtrans",
    "pg_twophase",
    LOG_DIRECTORY,
    "pg_xact",
)
# slots would be served, and may be of a kind that the server cannot have; the rest is of one run of a server
EMPTY = ("pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", TABLESPACES)
COPIED = ("PG_VERSION", LABEL)


@dataclass(frozen=True)
class CopiedCluster:
    """The cluster ``data`` (its live path) in fresh copies.

    ``copied`` tells where a live path can be written to in a copy, or ""; ``roots`` are the places of the copies.
    """

    data: str
    copied: Callable[[str], str]
    roots: tuple[str, ...]

    @property
    def place(self) -> str:
        """Where the data directory is in the copy. Errors: VSS_E_WRITERERROR_RECOVERY_FAILED."""
        return self._checked(self.data, self.copied(self.data))

    def part(self, name: str) -> str:
        """Where a directory of the cluster, or what its link leads to, is in the copy. Errors: as ``place``."""
        path = f"{self.place}/{name}"
        if not os.path.islink(path):
            return self._checked(f"{self.data}/{name}", path)
        live = os.path.realpath(os.path.join(os.path.dirname(f"{self.data}/{name}"), os.readlink(path)))
        return self._checked(live, self.copied(live))

    def _checked(self, live: str, place: str) -> str:
        inside = os.path.realpath(place)
        if not place or not os.path.isdir(inside) or not any(lies_in(inside, root) for root in self.roots):
            raise VssError(FAILED, f"{live} of the cluster {self.data} is in no copy of the set; add its volume")
        return inside

    def tablespaces(self) -> dict[str, str]:
        """The places of the tablespaces by their numbers. Errors: as ``place``."""
        return {name: self.part(f"{TABLESPACES}/{name}") for name in os.listdir(self.part(TABLESPACES))}


@contextlib.contextmanager
def shadow_tree(cluster: CopiedCluster) -> Iterator[str]:
    """The private data directory, as long as it is needed; it belongs to the copy's owner.

    Errors: VSS_E_WRITERERROR_RECOVERY_FAILED when something of it would lead out of the copy; OSError.
    """
    parts = {name: cluster.part(name) for name in LINKED if os.path.lexists(f"{cluster.place}/{name}")}
    spaces = cluster.tablespaces()
    for directory in (*parts.values(), *spaces.values()):
        _refuse_links(directory)
    owner = os.stat(cluster.place)
    top = tempfile.mkdtemp(prefix="ss-pg-")
    try:
        for name in EMPTY:
            os.mkdir(f"{top}/{name}", 0o700)
        for name, place in parts.items():
            os.symlink(place, f"{top}/{name}")
        for name, place in spaces.items():
            os.symlink(place, f"{top}/{TABLESPACES}/{name}")
        for name in COPIED:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{cluster.place}/{name}", f"{top}/{name}")
        with open(f"{top}/postgresql.conf", "wb"):
            pass
        # a tablespace that is made in the log would be linked to its live place: that must not even be possible
        os.chmod(f"{top}/{TABLESPACES}", 0o500)
        for name in ("", *os.listdir(top)):
            os.chown(f"{top}/{name}", owner.st_uid, owner.st_gid, follow_symlinks=False)
        yield top
    finally:
        with contextlib.suppress(OSError):
            os.chmod(f"{top}/{TABLESPACES}", 0o700)
        shutil.rmtree(top, ignore_errors=True)


def _refuse_links(directory: str) -> None:
    pending = [directory]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    message = f"{entry.path} in the copy is a link, which may lead to the live cluster"
                    raise VssError(FAILED, f'{message}; make it a tablespace, or set recover_copies = "never"')
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
