"""Keeps a server of local storage out of the memory trouble of those it serves. Everything here is best effort.

Such a process must not be swapped out, must not wait for its own device when it needs memory, and must not share a
memory limit with the writers whose pages it cleans.
"""

from __future__ import annotations

import os

from shadowset.nbd_provider.process import harden

_CGROUPS = "/sys/fs/cgroup"


def protect(group: str) -> list[str]:
    """Applies everything to this process; ``group`` names its memory cgroup. Returns what was refused, for the log."""
    refused = harden(lock_future=True)
    try:
        _enter(group_path(group))
    except OSError as error:
        refused.append(f"memory cgroup: {error.strerror}")
    return refused


def leave(group: str) -> None:
    """Removes the cgroup of a process that has ended."""
    try:
        os.rmdir(group_path(group))
    except OSError:
        pass


def group_path(group: str) -> str:
    """Beside the starting unit's own cgroup (version 2), so that stopping or limiting the unit does not reach it."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        own = next((line[3:].strip() for line in file if line.startswith("0::")), "/")
    return f"{_CGROUPS}{os.path.dirname(own).rstrip('/')}/{group}"


def _enter(path: str) -> None:
    if not os.path.exists(f"{_CGROUPS}/cgroup.controllers"):
        raise OSError(0, "no unified hierarchy")
    os.makedirs(path, exist_ok=True)
    _write(f"{path}/cgroup.procs", str(os.getpid()))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
