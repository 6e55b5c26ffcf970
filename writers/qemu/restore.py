"""What a restore of a guest needs around its files: a guest that is off before, images that are sound after."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from typing import Any

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.writers.qemu.domains import define_missing
from shadowset.writers.qemu.guest import LOOK_SECONDS, look
from shadowset.writers.qemu.settings import GuestSettings
from shadowset.writers.service import POLL_SECONDS, Cancelled, run_command, wait_for_service

FAILED = Code.VSS_E_WRITERERROR_RECOVERY_FAILED
CHECKED_FORMATS = ("qcow2", "qed", "vdi", "vmdk", "vhdx")
LEAKS_ONLY = 3  # qemu-img's status for an image that is sound, and larger than it need be
LAST_WORDS = 300


def turn_off(guest: GuestSettings, seconds: float, cancelled: Cancelled) -> None:
    """Sees that the guest is off; runs its stop_command when it is not.

    Errors: VSS_E_WRITERERROR_RETRYABLE when it stays on.
    """
    if look(guest).state == "off":
        return
    retry = Code.VSS_E_WRITERERROR_RETRYABLE
    if not guest.stop_command:
        raise VssError(retry, f"the guest {guest.name} is on; shut it down and restore again")
    end = time.monotonic() + seconds
    run_command(guest.stop_command, seconds, retry)
    while look(guest).state != "off":
        if cancelled() or time.monotonic() >= end:
            message = f"the guest {guest.name} is still on after its stop_command; shut it down and restore again"
            raise VssError(retry, message)
        time.sleep(POLL_SECONDS)


def turn_on(guest: GuestSettings, seconds: float, cancelled: Cancelled) -> None:
    """Runs the start_command and waits until the guest runs. Errors: VSS_E_WRITERERROR_RECOVERY_FAILED."""
    run_command(guest.start_command, seconds, FAILED)

    def problem() -> str:
        try:
            state = look(guest).state
        except VssError as error:
            return error.message
        return "" if state == "running" else f"it is {state}"

    wait_for_service(f"the guest {guest.name}", problem, seconds, cancelled)


def check_images(component: Component, seconds: float) -> None:
    """Has qemu-img look through the restored images that have a structure.

    Errors: VSS_E_WRITERERROR_RECOVERY_FAILED.
    """
    program = shutil.which("qemu-img")
    for path, kind in images_in(component):
        if program is None:
            return
        try:
            done = subprocess.run(
                [program, "check", "-q", "-f", kind, path],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            message = f"the check of {path} did not end in {seconds:.0f} seconds; run qemu-img check by hand"
            raise VssError(FAILED, message) from error
        if done.returncode not in (0, LEAKS_ONLY):
            words = " ".join((done.stderr + done.stdout).split())[-LAST_WORDS:]
            raise VssError(FAILED, f"the restored image {path} is not sound ({words}); restore another backup")


def define_again(component: Component, uri: str) -> None:
    """Defines the guest with libvirt where it is missing, as the backup's metadata tell it.

    Errors: VSS_E_WRITERERROR_RECOVERY_FAILED.
    """
    facts = _facts(component)
    definition, guest = facts.get("definition"), GuestSettings(name=component.name, libvirt=uri)
    if not uri or not isinstance(definition, str):
        return
    try:
        define_missing(guest, definition, bool(facts.get("passwords_left_out")), LOOK_SECONDS)
    except VssError as error:
        message = f"the disks of the guest {guest.name} are restored, but it is not defined: {error.message}"
        raise VssError(FAILED, message) from error


def images_in(component: Component) -> list[tuple[str, str]]:
    """Path and format of the images with a structure of their own, by the backup's metadata."""
    try:
        disks = _facts(component)["disks"]
        found = [(str(disk["place"]), str(disk["format"])) for disk in disks if disk["kind"] == "file"]
    except (KeyError, TypeError):
        return []
    return [(path, kind) for path, kind in found if kind in CHECKED_FORMATS]


def _facts(component: Component) -> dict[str, Any]:
    """What the backup's metadata tell; nothing when they are another's."""
    try:
        facts = json.loads(component.backup_metadata)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}
