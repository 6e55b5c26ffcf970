"""Checks of volumes, their shadow storage, and what earlier runs left on the host."""

from __future__ import annotations

import os
from collections.abc import Iterator

from shadowset.requester.doctor.finding import Finding, Patient, problem, warning
from shadowset.requester.doctor.room import room
from shadowset.vss.mountinfo import Mount
from shadowset.vss.requester_protocol import StorageInfo

MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
WAITS_FOR_THAW = "percpu_rwsem_wait"


def volumes(patient: Patient) -> Iterator[Finding]:
    """All of them are served."""
    for volume in patient.told.volumes:
        if volume.state != "online":
            yield problem(
                "volumes",
                f"volume {volume.name}",
                f"it is {volume.state}" + (f": {volume.message}" if volume.message else ""),
                "look at 'shadowset volume list' and 'shadowset events'",
            )
        yield from _mounted_beside(patient, volume.name, volume.origin)


def _mounted_beside(patient: Patient, name: str, origin: str) -> Iterator[Finding]:
    status = patient.host.status(origin)
    if status is None:
        return
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    for mount in patient.host.mounts():
        if status.st_rdev and mount.device == number:
            yield problem(
                "mounted-beside",
                f"volume {name}",
                f"its origin {origin} is mounted at {mount.path}; what is written there is missing in shadow copies",
                f"unmount it there and mount /dev/shadowset/{name} instead",
            )


def storages(patient: Patient) -> Iterator[Finding]:
    """They lie in the right place and have room."""
    for storage in patient.told.storages:
        mount = patient.host.mount_of(storage.storage)
        if mount:
            yield from _wrong_place(patient, storage, mount)
        yield from room(patient, storage)


def _devices(patient: Patient) -> dict[str, str]:
    """Names of the live devices, each as ``major:minor`` and by all its paths, to the volume."""
    found = {}
    for volume in patient.told.volumes:
        if volume.device:
            found[volume.device] = found[f"/dev/shadowset/{volume.name}"] = volume.name
            status = patient.host.status(volume.device)
            if status and status.st_rdev:
                found[f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"] = volume.name
    return found


def _wrong_place(patient: Patient, storage: StorageInfo, mount: Mount) -> Iterator[Finding]:
    devices = _devices(patient)
    carrier = devices.get(mount.device) or devices.get(mount.source)
    what = f"shadow storage {storage.storage} of volume {storage.volume}"
    move = f"move it: 'shadowset storage move {storage.volume} DIR'"
    if carrier:
        whose = "the volume that it protects" if carrier == storage.volume else f"the protected volume {carrier}"
        yield problem("storage-place", what, f"it lies on {whose}, and a write there waits for itself", move)
    elif mount.fs_type in MEMORY_FILE_SYSTEMS:
        yield problem(
            "storage-place", what, f"it lies in memory ({mount.fs_type}), and a reboot takes all copies", move
        )


def frozen(patient: Patient) -> Iterator[Finding]:
    """File systems that somebody froze and did not thaw, seen by what waits for them."""
    host, paths = patient.host, patient.paths
    if patient.told.service is None:
        for name in host.names(paths.frozen):
            yield problem(
                "frozen",
                f"journal {paths.frozen}/{name}",
                "a coordinator died while it was making a set, and the file systems named there may still be frozen",
                "start the coordinator, which thaws them",
            )
    waiting: dict[str, list[str]] = {}
    for pid in filter(str.isdecimal, host.names("/proc")):
        if host.read(f"/proc/{pid}/wchan").strip() == WAITS_FOR_THAW and _uninterruptible(
            host.read(f"/proc/{pid}/stat")
        ):
            waiting.setdefault(host.read(f"/proc/{pid}/comm").strip() or "?", []).append(pid)
    for program, pids in waiting.items():
        yield warning(
            "frozen",
            f"process {pids[0]} ({program})",
            "it waits for a frozen file system, which is right for a moment while a set is made, and never longer",
            "if it goes on, find the file system it writes to and thaw it: fsfreeze --unfreeze MOUNTPOINT",
        )


def _uninterruptible(status: str) -> bool:
    return status.rpartition(")")[2].split()[:1] == ["D"]


def loops(patient: Patient) -> Iterator[Finding]:
    """Loop devices on files of ours that nobody uses any more."""
    host, told = patient.host, patient.told
    used = {mount.source for mount in host.mounts()} | {volume.device for volume in told.volumes}
    for name in host.names("/sys/block"):
        backing = host.read(f"/sys/block/{name}/loop/backing_file").rstrip("\n")
        holders = host.names(f"/sys/block/{name}/holders")
        if backing.startswith(f"{patient.paths.runtime}/") and f"/dev/{name}" not in used and not holders:
            if told.service is None and not backing.endswith("(deleted)"):
                continue  # it may be a volume's device, which nobody can tell now
            yield warning(
                "loops",
                f"loop device /dev/{name}",
                f"it is left on {backing}, and nothing is mounted from it",
                f"take it away: losetup --detach /dev/{name}",
            )


def selftests(patient: Patient) -> Iterator[Finding]:
    """Those that were killed left a volume with its processes."""
    for directory in patient.host.abandoned():
        yield warning(
            "selftests",
            f"directory {directory}",
            "a selftest or demonstration that was killed has left it, with a volume, its mount and its processes",
            "take all of that away: 'shadowset selftest --clean'",
        )


def mounts(patient: Patient) -> Iterator[Finding]:
    """Mounts of ours whose copy or server is gone."""
    host, paths, told = patient.host, patient.paths, patient.told
    exposed = {copy.exposed_name for copy in told.copies}
    for mount in host.mounts():
        ours = mount.path.startswith(f"{paths.runtime}/")
        trouble = host.trouble(mount.path) if ours else ""
        if trouble:
            cause = f"what served it has died ({trouble})"
        elif told.service and mount.path.startswith(f"{paths.mounts}/") and mount.path not in exposed:
            cause = "the shadow copy that it showed is none any more"
        else:
            continue
        yield warning("mounts", f"mount {mount.path}", cause, f"take it away: umount --lazy {mount.path}")
