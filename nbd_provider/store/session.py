"""The session that a storage is written in: one boot of the kernel and one mount of its file system."""

from __future__ import annotations

import os
from contextlib import suppress
from uuid import UUID

from shadowset.nbd_provider.store.digests import sha1


def boot_id() -> UUID:
    """Identity of the running boot of the kernel."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return UUID(file.read().strip())


def session_id(path: str) -> UUID:
    """Identity of the boot and of the file system that is mounted at ``path``, or above it.

    Under another one, what was written without a sync may be gone: a file system that failed and was mounted again is
    as after a power loss. Where the kernel does not tell mounts of one disk apart, it is the boot alone.
    """
    while not os.path.exists(path):
        path = os.path.dirname(path)
    device = os.stat(path).st_dev
    name = os.path.basename(os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
    for kind in ("ext4", "xfs", "f2fs"):
        with suppress(OSError):  # the number is never given twice: each mount makes the directory anew
            number = os.stat(f"/sys/fs/{kind}/{name}").st_ino
            return UUID(bytes=sha1(boot_id().bytes + str(number).encode()).digest()[:16], version=5)
    return boot_id()
