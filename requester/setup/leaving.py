"""What the service leaves where it ran: processes that outlive it, its run-time directory, its own state."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import sqlite3

from shadowset.requester.backup.mounts import read_mounts
from shadowset.requester.ending import end_all
from shadowset.requester.setup.tree import Tree
from shadowset.vss.cgroups import CGROUPS
from shadowset.vss.paths import Paths

UNITS = ("shadowsetd.socket", "shadowsetd.service")
GROUPS = ("shadowset-provider-*", "shadowset-bridge-*", "shadowsetd.service")
END_S = 30.0
OWN = ("catalogue.db", "catalogue.db-shm", "catalogue.db-wal", "shadowsetd.lock", "providers")
"""What the coordinator makes in the state directory, beside what others put there."""


def end_service(tree: Tree, paths: Paths) -> None:
    """Stop the coordinator and what it started, which serves no device any more. Errors: OSError."""
    if not tree.live:
        return
    for unit in UNITS:
        tree.run("systemctl", "stop", unit)
    slices = (f"{CGROUPS}/system.slice", f"{CGROUPS}/memory/system.slice")
    groups = [found for place in slices for name in GROUPS for found in glob.glob(f"{place}/{name}")]
    end_all((pid for group in groups for pid in _processes(group)), END_S)
    for group in groups:
        with contextlib.suppress(OSError):
            os.rmdir(group)
    if not any(mount.path.startswith(f"{paths.runtime}/") for mount in read_mounts()):
        shutil.rmtree(paths.runtime, ignore_errors=True)


def _processes(group: str) -> list[int]:
    try:
        with open(f"{group}/cgroup.procs", encoding="ascii") as file:
            return [int(line) for line in file if int(line)]  # 0: of another namespace; to kill it would be to kill us
    except OSError:
        return []


def worthless(tree: Tree, home: str) -> set[str]:
    """The paths of the coordinator's own state, when it tells of no volume and of no shadow copy; else nothing."""
    providers = tree.at(f"{home}/providers")
    if any(files for _, _, files in os.walk(providers)) or _records(tree.at(f"{home}/catalogue.db")):
        return set()
    return {f"{home}/{name}" for name in OWN if tree.exists(f"{home}/{name}")}


def _records(catalogue: str) -> bool:
    """Whether volumes or copies stand in it; also when that cannot be read."""
    if not os.path.exists(catalogue):
        return False
    try:
        # not mode=ro, which would leave its write-ahead log there
        with contextlib.closing(sqlite3.connect(f"file:{catalogue}?mode=rw", uri=True)) as base:
            tables = ("volumes", "snapshots")
            return any(base.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in tables)
    except sqlite3.Error:
        return True


def forget(tree: Tree, worthless_paths: set[str]) -> None:
    """Take away what ``worthless`` found. Errors: OSError."""
    for path in worthless_paths:
        where = tree.at(path)
        if os.path.isdir(where):
            shutil.rmtree(where)
        elif os.path.exists(where):
            os.unlink(where)
