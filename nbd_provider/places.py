"""Where a volume's shadow storage and the record of its losses may lie: never on the volume itself."""

from __future__ import annotations

import os

from shadowset.nbd_provider.origin import device_stack
from shadowset.nbd_provider.store.files import aside_step, storage_error
from shadowset.nbd_provider.store.place import INCOMING, locate
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths


def check_storage_place(origin: str, storage: str, what: str = "shadow storage") -> None:
    """Refuse a directory on the protected volume: writing to it would wait for itself.

    Errors: VSS_E_VOLUME_NOT_SUPPORTED.
    """
    place = storage
    while not os.path.exists(place):
        place = os.path.dirname(os.path.abspath(place))
    below = device_stack(place)
    status = os.stat(origin)
    if os.path.realpath(origin) in below or (os.major(status.st_rdev), os.minor(status.st_rdev)) in below:
        raise VssError(
            Code.VSS_E_VOLUME_NOT_SUPPORTED,
            f"{what} {storage} lies on the protected volume {origin} itself; choose a directory elsewhere",
        )


def require_storage(storage: str) -> None:
    """Refuse to go on without the storage that was: a new one would keep nothing of what its copies need.

    Errors: VSS_E_OBJECT_NOT_FOUND; VSS_E_UNEXPECTED when it has lost its table.
    """
    home = locate(storage)
    there = {name for name in ("table", "head", INCOMING) if os.path.exists(f"{home}/{name}")}
    if there == {"head"}:
        raise storage_error(home, "its table is missing", aside_step(home))
    if not there:
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND,
            f"shadow storage {home} is not there; mount the file system that it lies on, since the volume's shadow "
            "copies end with the first write that it does not see",
        )


def loss_places(origin: str, wanted: str | None) -> list[str]:
    """Directories for the record of losses, best first: the wanted one, or those of this installation.

    Errors: VSS_E_VOLUME_NOT_SUPPORTED and E_INVALIDARG when the wanted one cannot be used.
    """
    if wanted is None:
        return [place for place in Paths.from_environment(os.environ).losses if _allowed(origin, place)]
    check_storage_place(origin, wanted, "the record of losses in")
    try:
        os.makedirs(wanted, mode=0o700, exist_ok=True)
    except OSError as error:
        message = f"losses cannot be recorded in {wanted}: {error.strerror}; name another directory with --losses"
        raise VssError(Code.E_INVALIDARG, message) from None
    return [wanted]


def _allowed(origin: str, place: str) -> bool:
    try:
        check_storage_place(origin, place)
    except VssError:
        return False
    return True
