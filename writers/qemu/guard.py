"""The thaw of the guests of a writer that died or hangs: tried until each guest has said that it is thawed."""

from __future__ import annotations

import logging
import sys

import msgspec

from shadowset.vss.codes import VssError
from shadowset.writers.guard import guard, insist
from shadowset.writers.qemu.guest import look, thaw_lost
from shadowset.writers.qemu.settings import GuestSettings

LOG = logging.getLogger("shadowset.writer.qemu")
TRY_SECONDS = 5.0
REST_SECONDS = 1.0
PATIENCE_SECONDS = 1800.0


class Guarded(msgspec.Struct):
    """A guest that may be frozen, or paused."""

    settings: GuestSettings
    paused: bool = False


def thaw_all(line: bytes) -> None:
    """Thaws all guests in ``line``, each again and again until it is thawed, or its QEMU has ended."""
    guests = msgspec.json.decode(line, type=list[Guarded])
    for guest in insist(guests, thawed, REST_SECONDS, PATIENCE_SECONDS):
        LOG.error("the guest %s may still be frozen; thaw it by hand", guest.settings.name)


def thawed(guest: Guarded) -> bool:
    """One try."""
    if _is_off(guest):
        return True
    try:
        thaw_lost(guest.settings, guest.paused, TRY_SECONDS)
    except VssError as error:
        LOG.warning("%s: it is tried again", error.message)
        return False
    LOG.warning("the guest %s was seen to in place of its writer", guest.settings.name)
    return True


def _is_off(guest: Guarded) -> bool:
    try:
        return look(guest.settings, TRY_SECONDS).state == "off"
    except VssError as error:
        LOG.warning("%s", error.message)  # its agent may be reached where its host tells nothing
        return False


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    sys.exit(guard(thaw_all))
