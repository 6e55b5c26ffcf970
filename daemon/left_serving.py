"""A provider process that outlived the catalogue that knew its volume: its live volume goes on, and is known again."""

from __future__ import annotations

import os
from os.path import realpath

from shadowset.daemon.control_link import ControlLink
from shadowset.vss.codes import Code, VssError
from shadowset.vss.paths import Paths


async def left_serving(paths: Paths, name: str, origin: str, storage: str, timeout_ms: int) -> bool:
    """Whether a provider of this name serves this origin with this storage already.

    Errors: VSS_E_OBJECT_ALREADY_EXISTS when it serves anything else, VssError when it does not answer.
    """
    try:
        link = await ControlLink.open(name, paths.control_socket(name), timeout_ms)
    except (OSError, TimeoutError):
        return False
    try:
        told = await link.describe()
    finally:
        await link.close()
    if (realpath(told.origin), realpath(told.storage)) == (realpath(origin), realpath(storage)):
        return True
    raise VssError(
        Code.VSS_E_OBJECT_ALREADY_EXISTS,
        f"process {told.pid} still serves volume {name} of {told.origin} with the shadow storage {told.storage}; "
        f"add it with these, or choose another name",
    )


def was_attached(paths: Paths, name: str) -> bool:
    """Whether its device was left as well."""
    return os.path.exists(f"{paths.volume(name)}/attach.json")
