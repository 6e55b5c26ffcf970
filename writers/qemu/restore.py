"""What a restore of a guest needs around its files: a guest that is off before, images that are sound after."""

from __future__ import annotations

import json
import shutil
import subprocess
import time

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.writers.qemu.guest import look
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


def images_in(component: Component) -> list[tuple[str, str]]:
    """Path and format of the images with a structure of their own, by the backup's metadata."""
    try:
        disks = json.loads(component.backup_metadata)["disks"]
        found = [(str(disk["place"]), str(disk["format"])) for disk in disks if disk["kind"] == "file"]
    except (ValueError, KeyError, TypeError):
        return []
    return [(path, kind) for path, kind in found if kind in CHECKED_FORMATS]
