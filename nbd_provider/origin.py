"""The origin of a volume: a block device or an image file that only this provider writes."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import Final

from shadowset.nbd_provider.store.reclaim import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from shadowset.vss.codes import Code, VssError

BLKGETSIZE64: Final = 0x80081272
SECTOR: Final = 512
FALLOC_FL_ZERO_RANGE: Final = 0x10
UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY)


def refuse(path: str, reason: object, step: str) -> VssError:
    """One sentence about an origin that cannot be served."""
    return VssError(Code.VSS_E_VOLUME_NOT_SUPPORTED, f"origin {path} {reason}; {step}")


def loop_devices_on(path: str) -> list[str]:
    """Loop devices whose backing file is ``path``.

    The kernel tells real paths. They are not looked at: one that lies on a file system that hangs would hang us, too.
    """
    found = []
    real = os.path.realpath(path)
    for name in sorted(os.listdir("/sys/block")):
        try:
            with open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8", errors="surrogateescape") as file:
                if file.read().rstrip("\n") == real:
                    found.append(f"/dev/{name}")
        except OSError:
            continue
    return found


def device_stack(path: str) -> set[tuple[int, int] | str]:
    """All that ``path`` lies on: device numbers of its block device and those below, and files under loop devices."""
    found: set[tuple[int, int] | str] = set()
    status = os.stat(path)
    todo = [status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev]
    while todo:
        number = todo.pop()
        key = (os.major(number), os.minor(number))
        if key in found:
            continue
        found.add(key)
        base = os.path.realpath(f"/sys/dev/block/{key[0]}:{key[1]}")
        below = [f"{base}/slaves/{name}" for name in _list(f"{base}/slaves")]
        if os.path.exists(f"{base}/partition"):
            below.append(os.path.dirname(base))
        for entry in below:
            major, minor = _read(f"{entry}/dev").split(":")
            todo.append(os.makedev(int(major), int(minor)))
        backing = _read(f"{base}/loop/backing_file")
        if backing and os.path.exists(backing):
            found.add(os.path.realpath(backing))
            todo.append(os.stat(backing).st_dev)
    return found


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


class Origin:
    """The opened origin; ``size`` in bytes, a multiple of 512.

    Errors: VSS_E_VOLUME_NOT_SUPPORTED for what cannot be served, VSS_E_VOLUME_IN_USE for what somebody else uses.
    """

    def __init__(self, path: str, held: int = -1) -> None:
        """``held`` is a descriptor of it that another process has opened in the same way; it is taken over."""
        self.path = path
        try:
            status = os.stat(path)
        except OSError as error:
            raise refuse(path, f"cannot be opened: {error.strerror}", "name a block device or an image file") from None
        self.is_block = stat.S_ISBLK(status.st_mode)
        if not self.is_block and not stat.S_ISREG(status.st_mode):
            raise refuse(path, "is neither a block device nor a regular file", "name one of these")
        if held >= 0 and not self._is_same(status, os.fstat(held)):
            raise refuse(path, "is not what the process before served", "stop that one first")
        self.fd = held if held >= 0 else self._open()
        try:
            self.size = self.measure()
        except BaseException:
            os.close(self.fd)
            raise

    def _is_same(self, one: os.stat_result, other: os.stat_result) -> bool:
        """By number, as a device's node may have been made anew."""
        return one.st_rdev == other.st_rdev if self.is_block else os.path.samestat(one, other)

    def _open(self) -> int:
        in_use = f"origin {self.path} is in use"
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if self.is_block else 0))
        except OSError as error:
            if error.errno == errno.EBUSY:
                message = f"{in_use} (mounted, or part of another device); unmount or release it first"
                raise VssError(Code.VSS_E_VOLUME_IN_USE, message) from None
            raise refuse(self.path, f"cannot be opened: {error.strerror}", "check its permissions") from None
        if not self.is_block:
            loops = loop_devices_on(self.path)
            if loops:
                os.close(fd)
                message = f"{in_use} by {', '.join(loops)}; detach that loop device first"
                raise VssError(Code.VSS_E_VOLUME_IN_USE, message)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            message = f"{in_use} by another process that has locked it; stop that one first"
            raise VssError(Code.VSS_E_VOLUME_IN_USE, message) from None
        return fd

    def measure(self) -> int:
        """Its size now, which ``size`` need not be. Errors: VSS_E_VOLUME_NOT_SUPPORTED when it cannot be served."""
        if self.is_block:
            (size,) = struct.unpack("Q", fcntl.ioctl(self.fd, BLKGETSIZE64, bytes(8)))
        else:
            size = os.fstat(self.fd).st_size
        if not size:
            raise refuse(self.path, "is empty", "give it a size first")
        if size % SECTOR:
            raise refuse(self.path, f"has {size} bytes, no multiple of {SECTOR}", "pad it to whole sectors")
        return int(size)

    def trim(self, offset: int, length: int) -> None:
        """Tell the origin that the range is not needed; does nothing where the origin cannot. Errors: OSError."""
        try:
            fallocate(self.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise

    def zero(self, offset: int, length: int, may_punch: bool) -> None:
        """Make the range read as zeros, with a hole where allowed. Errors: OSError."""
        modes = [FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE]
        if may_punch:
            modes.insert(0, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
        for mode in modes:
            try:
                fallocate(self.fd, mode, offset, length)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
            else:
                return
        block = bytes(1 << 20)
        while length:
            done = os.pwrite(self.fd, memoryview(block)[: min(length, len(block))], offset)
            offset, length = offset + done, length - done

    def close(self) -> None:
        """Close it; the lock goes with the descriptor."""
        os.close(self.fd)
