"""The thin layer between mfusepy and the tree, so that either can be exchanged."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar

from shadowset.fuse_mount.tree import DeviceTree

os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")

import mfusepy

F = TypeVar("F", bound=Callable[..., Any])


def reports_errors(method: F) -> F:
    """Turn OSError into what mfusepy sends to the kernel."""

    @wraps(method)
    def wrapped(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except OSError as error:
            raise mfusepy.FuseOSError(error.errno or errno.EIO) from error

    return wrapped  # type: ignore[return-value]


class DeviceOperations(mfusepy.Operations):  # type: ignore[misc]
    """FUSE operations of the device tree; all that would change something is refused by the read-only mount."""

    use_ns = True

    def __init__(self, tree: DeviceTree, group: int) -> None:
        self._tree = tree
        self._group = group

    @reports_errors
    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """stat(2)."""
        found = self._tree.attributes(path)
        return {
            "st_mode": found.mode,
            "st_size": found.size,
            "st_nlink": found.links,
            "st_uid": 0,
            "st_gid": self._group,
            "st_blocks": found.size // 512,
            "st_atime": found.time_ns,
            "st_mtime": found.time_ns,
            "st_ctime": found.time_ns,
        }

    @reports_errors
    def readdir(self, path: str, fh: int) -> Iterable[str]:
        """Names."""
        return [".", "..", *self._tree.names()]

    @reports_errors
    def open(self, path: str, flags: int) -> int:
        """A handle."""
        return self._tree.open(path, flags)

    @reports_errors
    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Bytes."""
        return self._tree.read(fh, offset, size)

    @reports_errors
    def release(self, path: str, fh: int) -> int:
        """Close."""
        self._tree.release(fh)
        return 0

    @reports_errors
    def listxattr(self, path: str) -> Iterable[str]:
        """Names of extended attributes."""
        return list(self._tree.xattrs(path))

    @reports_errors
    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        """One extended attribute."""
        try:
            return self._tree.xattrs(path)[name]
        except KeyError:
            raise OSError(errno.ENODATA, name) from None


def detach_stale(mountpoint: str) -> None:
    """Unmount what a killed server left at the mount point. Errors: OSError."""
    try:
        os.listdir(mountpoint)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        libc = ctypes.CDLL(None, use_errno=True)
        mnt_detach = 2
        if libc.umount2(os.fsencode(mountpoint), mnt_detach):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), mountpoint) from None


def serve(tree: DeviceTree, mountpoint: str, group: int) -> None:
    """Mount the tree and serve it until it is unmounted or the process is told to end. Errors: RuntimeError."""
    mfusepy.FUSE(
        DeviceOperations(tree, group),
        mountpoint,
        foreground=True,
        ro=True,
        nosuid=True,
        nodev=True,
        allow_other=os.geteuid() == 0,
        default_permissions=True,
        fsname="shadowset",
        subtype="shadowset",
    )
