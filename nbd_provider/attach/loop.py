"""Loop devices through the kernel's own interface: made, checked and taken away by device name."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time

from shadowset.vss.codes import Code, VssError

LOOP_MAJOR = 7
_CONTROL = "/dev/loop-control"
_LOOP_CLR_FD = 0x4C01
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_SET_CAPACITY = 0x4C07
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
_BLKGETSIZE64 = 0x80081272
_BLKSSZGET = 0x1268

_FLAG_READ_ONLY = 1
_FLAG_PARTITIONS = 8
_FLAG_DIRECT_IO = 16

_INFO = struct.Struct("=5Q4I64s64s32s2Q")
_CONFIG_HEAD = struct.Struct("=II")
_CONFIG_TAIL = bytes(64)

_ATTEMPTS = 64
_WAIT_S = 10.0


def attach_loop(path: str, read_only: bool = False, direct_io: bool = True, block_size: int = 512) -> str:
    """The name of a new loop device on ``path`` with this logical sector size, checked to be as asked.

    Partitions on it become devices of their own, as on a disk.

    Errors: VssError naming ``path``; nothing is left attached.
    """
    try:
        backing = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    except OSError as error:
        raise VssError(
            Code.VSS_E_OBJECT_NOT_FOUND, f"cannot open {path} for a loop device: {error.strerror}"
        ) from error
    try:
        device = _configure_free(backing, path, read_only, direct_io, block_size)
        try:
            _check(device, path, os.fstat(backing).st_size, direct_io, block_size)
        except BaseException:
            detach_loop(device)
            raise
    finally:
        os.close(backing)
    return device


def detach_loop(device: str) -> None:
    """Takes the backing file from ``device`` and waits until it is gone; a device without one is left as it is.

    Errors: VssError with VSS_E_VOLUME_IN_USE while it is mounted or held, or does not let go in time.
    """
    try:
        fd = os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise VssError(Code.VSS_E_VOLUME_IN_USE, f"{device} is in use: unmount it first") from error
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"cannot open {device}: {error.strerror}") from error
    try:
        fcntl.ioctl(fd, _LOOP_CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise VssError(Code.VSS_E_VOLUME_IN_USE, f"cannot detach {device}: {error.strerror}") from error
    finally:
        os.close(fd)
    _wait_until_clear(device)


def resize_loop(device: str, size: int) -> None:
    """Lets ``device`` take in that its backing file has ``size`` bytes now. Errors: VssError."""
    try:
        _ask(device, _LOOP_SET_CAPACITY, 0)
    except OSError as error:
        raise VssError(Code.VSS_E_UNEXPECTED, f"cannot resize {device}: {error.strerror}") from error
    if device_size(device) != size // 512 * 512:
        message = f"{device} has {device_size(device)} bytes instead of {size}: look at the kernel's log"
        raise VssError(Code.VSS_E_UNEXPECTED, message)


def backing_file(device: str) -> str:
    """The path behind ``device`` as the kernel names it, or "" when it has none."""
    try:
        with open(f"/sys/block/{os.path.basename(device)}/loop/backing_file", encoding="utf-8") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def devices_on(path: str) -> list[str]:
    """All loop devices whose backing file has this path."""
    names = [name for name in os.listdir("/sys/block") if name.startswith("loop")]
    return [f"/dev/{name}" for name in names if backing_file(name) == path]


def backing_number(device: str) -> int:
    """The number of the file system behind ``device``, which tells it even when its mount is gone; 0 for none."""
    try:
        number: int = _INFO.unpack(_ask(device, _LOOP_GET_STATUS64, _INFO.size))[0]
    except OSError:
        return 0
    return number


def device_size(device: str) -> int:
    """Size of a block device in bytes."""
    return int.from_bytes(_ask(device, _BLKGETSIZE64, 8), "little")


def sector_size(device: str) -> int:
    """Logical sector size of a block device in bytes."""
    return int.from_bytes(_ask(device, _BLKSSZGET, 4), "little")


def _ask(device: str, request: int, length: int) -> bytes:
    fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(fd, request, bytes(length))
    finally:
        os.close(fd)


def _configure_free(backing: int, path: str, read_only: bool, direct_io: bool, block_size: int) -> str:
    """Others look for free devices too: whoever comes second gets EBUSY and asks again."""
    flags = _FLAG_PARTITIONS | (_FLAG_READ_ONLY if read_only else 0) | (_FLAG_DIRECT_IO if direct_io else 0)
    name = os.fsencode(path)[:63]
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
    config = _CONFIG_HEAD.pack(backing, block_size) + info + _CONFIG_TAIL
    for _ in range(_ATTEMPTS):
        device = _free_device(path)
        if _configure(device, path, config):
            return device
    raise VssError(Code.VSS_E_INSUFFICIENT_STORAGE, f"no loop device stays free long enough for {path}: try again")


def _free_device(path: str) -> str:
    try:
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        message = f"no loop device for {path}: cannot open {_CONTROL} ({error.strerror}); load the module loop"
        raise VssError(Code.VSS_E_NOT_SUPPORTED, message) from error
    try:
        return f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
    except OSError as error:
        raise VssError(Code.VSS_E_INSUFFICIENT_STORAGE, f"no free loop device for {path}: {error.strerror}") from error
    finally:
        os.close(control)


def _configure(device: str, path: str, config: bytes) -> bool:
    """False when the device was taken meanwhile, or its node is not there yet."""
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        time.sleep(0.05)
        return False
    try:
        fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise VssError(Code.VSS_E_UNEXPECTED, f"cannot put {path} under {device}: {error.strerror}") from error
    finally:
        os.close(fd)
    return True


def _check(device: str, path: str, size: int, direct_io: bool, block_size: int) -> None:
    flags = _INFO.unpack(_ask(device, _LOOP_GET_STATUS64, _INFO.size))[8]
    if direct_io and not flags & _FLAG_DIRECT_IO:
        raise VssError(Code.VSS_E_NOT_SUPPORTED, f"{path} does not allow direct I/O in sectors of {block_size} bytes")
    got = device_size(device), sector_size(device)
    if got != (size // 512 * 512, block_size) or got[0] % block_size:
        message = f"{device} has {got[0]} bytes in sectors of {got[1]}, but {path} was to give {size} in {block_size}"
        raise VssError(Code.VSS_E_UNEXPECTED, message)


def _wait_until_clear(device: str) -> None:
    """Someone who merely looks (udev) may delay the end, which comes with the last close."""
    deadline = time.monotonic() + _WAIT_S
    while backing_file(device):
        if time.monotonic() > deadline:
            message = f"{device} is still open elsewhere: it will detach when that process closes it"
            raise VssError(Code.VSS_E_VOLUME_IN_USE, message)
        time.sleep(0.01)
