"""Checks of the kernel, the clock and memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from shadowset.requester.doctor.finding import Finding, Patient, problem, warning

NEEDED = (5, 15)
MEMORY_NEEDED = 256 << 20
DAY_NS = 86400 * 10**9
STEP_NS = 60 * 10**9


def kernel_version(patient: Patient) -> Iterator[Finding]:
    """New enough."""
    release = patient.host.kernel()
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < NEEDED:
        needed = ".".join(map(str, NEEDED))
        yield problem(
            "kernel-version",
            f"Linux {release}",
            f"it is older than {needed}, which Shadowset needs",
            "boot a newer kernel",
        )


def block_devices(patient: Patient) -> Iterator[Finding]:
    """How volumes can be attached."""
    host = patient.host
    if host.has_module("nbd"):
        return
    if host.exists("/dev/loop-control") or host.has_module("loop"):
        yield warning(
            "nbd",
            "kernel module nbd",
            "it is neither there nor loadable, so volumes are attached by a loop device over FUSE, which is slower and "
            "depends on one more process",
            "install a kernel with nbd, as Debian's linux-image-amd64",
        )
    else:
        yield problem(
            "nbd",
            "kernel modules nbd and loop",
            "neither is there, so no volume can be attached",
            "install a kernel with nbd, as Debian's linux-image-amd64",
        )


def fuse(patient: Patient) -> Iterator[Finding]:
    """Device objects are served over FUSE."""
    host = patient.host
    if not host.exists("/dev/fuse") and not host.has_module("fuse"):
        yield problem(
            "fuse",
            "/dev/fuse",
            "it is not there, so shadow copies have no device objects",
            "load the kernel module fuse",
        )
    if not host.has_library("fuse3"):
        yield problem(
            "fuse",
            "libfuse3",
            "the library is not installed, so shadow copies have no device objects",
            "install it: apt install fuse3",
        )


def clock(patient: Patient) -> Iterator[Finding]:
    """Times of copies, holds and retention are the wall clock's."""
    events = patient.told.events
    ahead = max((each.time_ns for each in events), default=0) - patient.host.now_ns()
    if ahead > STEP_NS:
        yield problem(
            "clock",
            "system clock",
            f"it was set back: events lie up to {_long(ahead)} in the future, and holds last that much longer",
            "look at the clock and its time service, and correct it",
        )
    for before, after in pairwise(events):
        back = before.time_ns - after.time_ns
        if back > STEP_NS and ahead <= STEP_NS:
            yield warning(
                "clock",
                "system clock",
                f"it went back by {_long(back)} between events {before.id} and {after.id}: copies may be out of order",
                "let a time service slew the clock instead of stepping it",
            )
            break
    if not patient.host.clock_synchronised():
        yield warning(
            "clock-source",
            "system clock",
            "nothing keeps it right, so times of shadow copies and ends of holds drift",
            "run a time service: apt install systemd-timesyncd",
        )


def _long(nanoseconds: int) -> str:
    seconds = nanoseconds // 10**9
    return f"{seconds // 3600} h" if seconds >= 7200 else f"{seconds // 60} min"


def memory(patient: Patient) -> Iterator[Finding]:
    """What serves a live volume must not wait for memory."""
    host, told = patient.host, patient.told
    swapping = len(host.read("/proc/swaps").splitlines()) > 1
    servers = [(volume.pid, f"the provider of volume {volume.name}") for volume in told.volumes if volume.pid]
    if told.service:
        servers.append((told.service.pid, "the coordinator"))
    for pid, what in servers:
        yield from _limited(patient, pid, what)
        locked = re.search(r"^VmLck:\s+(\d+)", host.read(f"/proc/{pid}/status"), re.MULTILINE)
        if swapping and "provider" in what and locked and locked[1] == "0":
            yield warning(
                "memory",
                f"{what} (process {pid})",
                "nothing of it is locked in memory and the host swaps, so live writes can wait for the disk they go to",
                "run it as root or raise its limit of locked memory (LimitMEMLOCK=infinity)",
            )


def _limited(patient: Patient, pid: int, what: str) -> Iterator[Finding]:
    line = next((each for each in patient.host.read(f"/proc/{pid}/cgroup").splitlines() if each.startswith("0::")), "")
    if not line:
        return
    place = f"/sys/fs/cgroup{line[3:].rstrip('/')}"
    limit = patient.host.read(f"{place}/memory.max").strip()
    if limit.isdecimal() and int(limit) < MEMORY_NEEDED:
        yield warning(
            "memory",
            f"{what} (process {pid})",
            f"its control group allows it {int(limit) >> 20} MiB, less than the {MEMORY_NEEDED >> 20} MiB it may need",
            "raise MemoryMax= of its unit",
        )
    killed = re.search(r"^oom_kill (\d+)", patient.host.read(f"{place}/memory.events"), re.MULTILINE)
    if killed and int(killed[1]):
        yield warning(
            "memory",
            f"the control group of {what}",
            f"the kernel has killed {killed[1]} of its processes for want of memory",
            "raise MemoryMax= of its unit, or give the host more memory",
        )
