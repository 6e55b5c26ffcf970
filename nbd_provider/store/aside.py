"""A shadow storage that cannot be opened makes room for a new one, and stays as it is within that.

But for its ``head``, which is emptied: to those who still have it open it would say for ever that what a copy takes
from the origin is there. From now on it is an error to them; it could be made anew from the records.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Final

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.create import create_storage
from shadowset.nbd_provider.store.files import read_header, storage_error, sync_directory
from shadowset.nbd_provider.store.losses import LINK
from shadowset.nbd_provider.store.overlay import DIRECTORY
from shadowset.nbd_provider.store.place import locate, take_lock
from shadowset.vss.codes import VssError

FILES: Final = ("segments", "head", DIRECTORY, LINK, "table")
"""The table is the last: as long as it is there the storage is no new one."""


def set_aside(storage: str, size: int) -> str:
    """Make a new storage for a volume of ``size`` bytes; returns the directory, within it, of what was there.

    After a kill the same call goes on. Errors: VssError when it is in use, sound enough to be opened, or not there,
    OSError.
    """
    storage = locate(storage)
    there = [name for name in FILES if os.path.lexists(f"{storage}/{name}")]
    if not there and not _set_aside_before(storage):
        raise storage_error(storage, "nothing of it is there", "mount what belongs there")
    lock = take_lock(storage)
    try:
        _require_damaged(storage)
        place = f"{storage}/set-aside-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        os.makedirs(place, mode=0o700, exist_ok=True)
        if "head" in there:
            os.truncate(f"{storage}/head", 0)
        for name in there:
            os.rename(f"{storage}/{name}", f"{place}/{name}")
        sync_directory(place)
        sync_directory(storage)
        create_storage(storage, size, layout.DEFAULT_CHUNK_SIZE)
        return place
    finally:
        os.close(lock)


def _set_aside_before(storage: str) -> bool:
    with suppress(FileNotFoundError):
        return any(name.startswith("set-aside-") for name in os.listdir(storage))
    return False


def _require_damaged(storage: str) -> None:
    try:
        read_header(storage)
    except VssError:
        return
    message = "its table can be read, so its provider starts and serves the volume"
    raise storage_error(storage, message, "look at its log if it does not, or delete copies one by one")
