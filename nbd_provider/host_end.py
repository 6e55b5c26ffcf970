"""The end of the host: systemd's last step asks every process to end, and only then unmounts what is still mounted.

A file system on our device that was busy until that moment would lose its server with data unwritten, and the host
would hang for minutes. So it is unmounted here, by its server, and the device is detached; then the provider ends.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import sys
import time
from typing import Final

from shadowset.nbd_provider.attach import usage

log = logging.getLogger(__name__)

LAST_STEP: Final = "systemd-shutdow"
"""The kernel's name, of 15 bytes, of the program that systemd becomes when all units are stopped."""
PATIENCE_S: Final = 60.0
"""Less than the 90 s after which the host kills whoever is left."""
LOOK_S: Final = 0.1


def host_ends() -> bool:
    """Whether the first process has begun its last step."""
    try:
        with open("/proc/1/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip() == LAST_STEP
    except OSError:
        return False


def let_go(options: argparse.Namespace) -> None:
    """Take the volume's device away as soon as nobody else uses it, while it is served; never raises."""
    import subprocess  # not before: each provider would keep it in memory all its life

    from shadowset.nbd_provider.attach import state

    directory = os.path.dirname(os.path.realpath(options.control))
    try:
        attachment = state.load(directory)
        if attachment is None or not attachment.device:
            return
        end = time.monotonic() + PATIENCE_S
        while not _unmounted(attachment.device) and time.monotonic() < end:
            time.sleep(LOOK_S)
        command = [sys.executable, "-m", "shadowset.nbd_provider.attach.main", "detach", options.name]
        subprocess.run([*command, "--runtime", directory], timeout=PATIENCE_S, check=False)
    except Exception:
        log.exception("the device of volume %s cannot be detached before the host ends", options.name)


def _unmounted(device: str) -> bool:
    """Whether nothing is mounted from the device any more; the last mount is the first to go."""
    libc = ctypes.CDLL(None, use_errno=True)  # which lets other threads serve what the unmount writes
    for point in reversed(usage.mounted_from(device)):
        if libc.umount2(os.fsencode(point), 0):
            return False
        log.info("%s was unmounted before the host ends", point)
    return True
