"""A file system that is in use moves in under Shadowset, and out again; when a step fails, all is as it was."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

from shadowset.requester.administration import DEFAULT_CHUNK, Administration
from shadowset.requester.volumes.fstab import file_system
from shadowset.requester.volumes.mounting import Mounted, mount, mounted, refuse_when_used, unmount
from shadowset.requester.volumes.steps import Step, run
from shadowset.vss.codes import Code, VssError
from shadowset.vss.requester_protocol import VolumeInfo

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Moved:
    """A volume after its move, where it is mounted, and for how many seconds it was not."""

    volume: str
    device: str
    mount_point: str
    away_s: float


@dataclass(frozen=True)
class Plan:
    """What was found, and the steps to take. ``was_mounted`` tells whether anybody will notice."""

    name: str
    device: str
    place: Mounted
    was_mounted: bool
    steps: list[Step]
    result: str

    def sentences(self) -> list[str]:
        """What will happen, in order."""
        return [step.text for step in self.steps]


def plan_adoption(
    administration: Administration, device: str, name: str, storage: str, mount_point: str = "", via: str = "auto"
) -> Plan:
    """Look at everything that can be looked at. Errors: VssError saying what is in the way."""
    _check_device(device)
    found = mounted(device)
    if found is not None and mount_point and os.path.realpath(mount_point) != found.path:
        message = f"{device} is mounted at {found.path} and not at {mount_point}; leave the mount point out"
        raise VssError(Code.E_INVALIDARG, message)
    place = found or _place(device, mount_point)
    if place.path == "/":
        message = f"{device} holds the root file system, which cannot be unmounted; protect other file systems"
        raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, message)
    if any(each.name == name for each in administration.volume_list()):
        raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"there is already a volume {name!r}; give another --name")
    if found is not None:
        refuse_when_used(device, found)
        _check_storage(storage, found)
    steps = _adoption_steps(administration, device, name, storage, place, found is not None, via)
    return Plan(name, device, place, found is not None, steps, f"volume {name} protects {device} at {place.path}")


def _check_device(device: str) -> None:
    try:
        if not stat.S_ISBLK(os.stat(device).st_mode):
            message = f"{device} is no block device; an image file is protected with 'shadowset volume add'"
            raise VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, message)
    except OSError as error:
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{device} cannot be used: {error.strerror}") from None
    block = f"/sys/class/block/{os.path.basename(os.path.realpath(device))}"
    holders = os.listdir(f"{block}/holders") if os.path.isdir(f"{block}/holders") else []
    if holders:
        message = f"{device} is held by {', '.join(holders)}; adopt that instead, or remove it first"
        raise VssError(Code.VSS_E_VOLUME_IN_USE, message)


def _place(device: str, mount_point: str) -> Mounted:
    if not mount_point:
        message = f"{device} is mounted nowhere; say with --mountpoint where it is to be mounted"
        raise VssError(Code.E_INVALIDARG, message)
    if not os.path.isdir(mount_point):
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"{mount_point} is no directory; make it first")
    return Mounted(os.path.realpath(mount_point), file_system(device), "defaults")


def _check_storage(storage: str, found: Mounted) -> None:
    if (os.path.realpath(storage) + "/").startswith(found.path.rstrip("/") + "/"):
        message = f"the shadow storage {storage} lies on the volume itself; choose a directory on another file system"
        raise VssError(Code.E_INVALIDARG, message)


def _adoption_steps(
    administration: Administration, device: str, name: str, storage: str, place: Mounted, was_mounted: bool, via: str
) -> list[Step]:
    live: list[VolumeInfo] = []

    def attach() -> None:
        live[:] = [administration.volume_attach(name, via)]

    first = Step(
        f"unmount {place.path} ({device}, {place.fs_type}, {place.options})",
        lambda: unmount(device, place),
        lambda: mount(device, place),
    )
    return [
        *([first] if was_mounted else []),
        Step(
            f"protect {device} as volume {name}, with shadow storage in {storage}",
            lambda: administration.volume_add(name, device, storage, DEFAULT_CHUNK),
            lambda: administration.volume_remove(name),
        ),
        Step(f"attach volume {name}", attach, lambda: administration.volume_detach(name)),
        Step(
            f"mount the live device of volume {name} at {place.path} with the same options",
            lambda: mount(live[0].device, place),
            lambda: unmount(live[0].device, place),
        ),
    ]


def plan_release(administration: Administration, name: str, force: bool = False) -> Plan:
    """The way back. Errors: VssError saying what is in the way; VSS_E_VOLUME_IN_USE for shadow copies without force."""
    volume = administration.volume(name)
    found = mounted(volume.device) if volume.device else None
    if volume.copies and not force:
        message = f"volume {name} has {volume.copies} shadow copies, which would be lost; delete them, or give --force"
        raise VssError(Code.VSS_E_VOLUME_IN_USE, message)
    if found is not None:
        refuse_when_used(volume.device, found)
    steps: list[Step] = []
    if found is not None:
        steps.append(
            Step(
                f"unmount {found.path} ({volume.device})",
                lambda: unmount(volume.device, found),
                lambda: mount(administration.volume(name).device, found),
            )
        )
    if volume.device:
        steps.append(
            Step(
                f"detach volume {name}",
                lambda: administration.volume_detach(name),
                lambda: administration.volume_attach(name, volume.via),
            )
        )
    steps += _last_steps(administration, volume, found, force)
    place = found or Mounted("", "", "")
    return Plan(name, volume.origin, place, found is not None, steps, f"{volume.origin} is a plain device again")


def _last_steps(administration: Administration, volume: VolumeInfo, found: Mounted | None, force: bool) -> list[Step]:
    """Nobody else can mount the plain device as long as its provider runs, so it is mounted last."""
    origin, name = volume.origin, volume.name
    remove = Step(
        f"stop protecting {origin}" + (f"; its {volume.copies} shadow copies go" if volume.copies else ""),
        lambda: administration.volume_remove(name, force),
        lambda: administration.volume_add(name, origin, volume.storage, volume.chunk_size),
    )
    if found is None:
        return [remove]
    again = Step(
        f"mount {origin} at {found.path} with the same options",
        lambda: mount(origin, found),
        lambda: unmount(origin, found),
    )
    return [remove, again]


def carry_out(plan: Plan, tell: Tell) -> Moved:
    """All steps, or none. Errors: VssError of the step that failed; NotUndone."""
    begun = time.monotonic()
    run(plan.steps, tell)
    away = time.monotonic() - begun
    found = mounted(plan.device)
    return Moved(plan.name, plan.device, found.path if found else plan.place.path, round(away, 3))
