"""Discipline of a process that serves the block device of its own host: it must not wait for that device itself."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import sys
from typing import Final

from shadowset.nbd_provider.store.shares import HOST, LITTLE
from shadowset.vss.cgroups import CGROUPS, beside, memory_groups

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
PR_SET_IO_FLUSHER: Final = 57
MCL_CURRENT: Final = 1
MCL_FUTURE: Final = 2
MCL_ONFAULT: Final = 4
OOM_SCORE: Final = -900
NICENESS: Final = -10


def harden(lock_future: bool = False) -> list[str]:
    """Do not be swapped out, do not enter reclaim that waits for our own device, do not be the first to be killed,
    and get the processor before those who wait for the device.

    Each is best effort, since a container may forbid it; returns what was refused, for the log. ``lock_future`` locks
    memory that is mapped later as well, which must not be where large sparse files are mapped. Without it a host with
    little memory keeps all code, but of data only what was used.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if HOST < LITTLE:
        _keep_little(libc)
    refused = []
    if libc.prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0):
        refused.append(f"PR_SET_IO_FLUSHER: {os.strerror(ctypes.get_errno())}")
    if lock_future or HOST >= LITTLE:
        failed = libc.mlockall(MCL_CURRENT | (MCL_FUTURE if lock_future else 0))
    else:
        failed = _lock_what_is_used(libc)
    if failed:
        refused.append(f"mlockall: {os.strerror(ctypes.get_errno())}")
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(OOM_SCORE))
    except OSError as error:
        refused.append(f"out-of-memory score: {error.strerror}")
    try:
        os.setpriority(os.PRIO_PROCESS, 0, min(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    except OSError as error:
        refused.append(f"priority: {error.strerror}")
    return refused


def _lock_what_is_used(libc: ctypes.CDLL) -> bool:
    """Pages stay from their first use on, but those with code all at once: a rare way through it must not wait for the
    disk that it lies on. Whether something was refused."""
    failed: int = libc.mlockall(MCL_CURRENT | MCL_ONFAULT)
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            place, rights, _, device, *_ = line.split()
            if "x" in rights and device != "00:00":
                start, end = (int(number, 16) for number in place.split("-"))
                failed |= libc.mlock(ctypes.c_void_p(start), ctypes.c_size_t(end - start))
    return bool(failed)


def _keep_little(libc: ctypes.CDLL) -> None:
    """The C library gives back what is free, at the price of time, and keeps no room for each thread apart."""
    if hasattr(libc, "mallopt"):  # musl has none, and keeps little anyway
        for name, value in ((M_ARENA_MAX, 1), (M_TRIM_THRESHOLD, 256 << 10), (M_MMAP_THRESHOLD, 256 << 10)):
            libc.mallopt(name, value)


def allow_many_files() -> None:
    """As many descriptors as may be: a client may have two for each copy that it asks about. Without one no client is
    accepted, and no old data can be kept in a segment that is not open yet."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def enter_group(name: str) -> list[str]:
    """Go into a memory cgroup of that name beside the present one, so that neither a limit nor the end of a service
    reaches both; best effort, returns what was refused. Where it is in one of that name already nothing happens."""
    try:
        for own in groups_of(os.getpid()):
            if os.path.basename(own) != name:
                group = beside(own, name)
                os.makedirs(group, exist_ok=True)
                with open(f"{group}/cgroup.procs", "w", encoding="ascii") as file:
                    file.write(str(os.getpid()))
    except OSError as error:
        return [f"memory cgroup: {error.strerror}"]
    return []


def groups_of(pid: int) -> list[str]:
    """The memory cgroups of a process. Errors: OSError."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        return memory_groups(file.read(), os.path.exists(f"{CGROUPS}/cgroup.controllers"))


def start_logging(level: str) -> None:
    """Log lines on standard error, with the time to the millisecond."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
