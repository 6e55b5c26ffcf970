"""A read-only loop device that clears itself when its last user lets go, from its first moment on.

So whoever dies at whatever instant, nothing is left behind: before the mount the descriptor holds it, then the mount.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time

from shadowset.vss.codes import Code, VssError

LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82
READ_ONLY, AUTO_CLEAR = 1, 4
INFO = struct.Struct("=5Q4I64s64s32s2Q")
TRIES = 64


def open_loop(path: str, sector_size: int) -> tuple[int, str]:
    """A descriptor that keeps the device, and its name. Errors: VssError."""
    try:
        backing = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _failed(path, error) from None
    info = INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, READ_ONLY | AUTO_CLEAR, os.fsencode(path)[:63], b"", b"", 0, 0)
    config = struct.pack("=II", backing, sector_size) + info + bytes(64)
    try:
        for _ in range(TRIES):
            device = _free_device()
            descriptor = _configure(device, config)
            if descriptor >= 0:
                return descriptor, device
    except OSError as error:
        raise _failed(path, error) from None
    finally:
        os.close(backing)
    raise VssError(Code.VSS_E_INSUFFICIENT_STORAGE, f"no loop device stays free long enough for {path}; try again")


def _failed(path: str, error: OSError) -> VssError:
    return VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, f"there is no loop device for {path}: {error.strerror}")


def _free_device() -> str:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        return f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
    finally:
        os.close(control)


def _configure(device: str, config: bytes) -> int:
    """-1 when the device was taken meanwhile, or its node is not there yet."""
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        time.sleep(0.05)
        return -1
    try:
        fcntl.ioctl(descriptor, LOOP_CONFIGURE, config)
    except OSError as error:
        os.close(descriptor)
        if error.errno == errno.EBUSY:
            return -1
        raise
    return descriptor
