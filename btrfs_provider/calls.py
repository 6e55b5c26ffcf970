"""System calls: btrfs's ioctls, mount(2) and umount2(2).

Through ctypes, which lets other threads run meanwhile; ``fcntl.ioctl`` does not for arguments as long as btrfs's, and a
snapshot can wait in the kernel for as long as its file system is frozen. Errors are OSError.
"""

from __future__ import annotations

import ctypes
import os
import struct
from uuid import UUID

SNAP_DESTROY = 0x5000940F
SNAP_CREATE_V2 = 0x50009417
SUBVOL_GETFLAGS = 0x80089419
SUBVOL_SETFLAGS = 0x4008941A
DEV_INFO = 0xD000941E
FS_INFO = 0x8400941F
GET_SUBVOL_INFO = 0x81F8943C
READ_ONLY = 2
ROOT_INODE = 256

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_NOATIME, MS_BIND = 1, 2, 4, 8, 32, 1024, 4096
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, path: str = "") -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def _ioctl(descriptor: int, number: int, argument: bytes) -> bytes:
    buffer = ctypes.create_string_buffer(argument, len(argument))
    _check(_libc.ioctl(descriptor, ctypes.c_ulong(number), buffer))
    return buffer.raw


def filesystem_id(descriptor: int) -> UUID:
    """The file system's UUID. Errors: ENOTTY when it is not btrfs."""
    return UUID(bytes=_ioctl(descriptor, FS_INFO, bytes(1024))[16:32])


def filesystem_devices(descriptor: int) -> list[str]:
    """Device nodes of the file system; one that is missing is left out."""
    highest, _ = struct.unpack_from("QQ", _ioctl(descriptor, FS_INFO, bytes(1024)))
    found = []
    for number in range(1, highest + 1):
        try:
            told = _ioctl(descriptor, DEV_INFO, struct.pack("Q", number) + bytes(4088))
        except OSError:
            continue
        found.append(os.fsdecode(told[3072:].split(b"\0", 1)[0]))
    return [path for path in found if path]


def created_at(descriptor: int) -> int:
    """The file system's generation in which this subvolume was made."""
    return int(struct.unpack_from("Q", _ioctl(descriptor, GET_SUBVOL_INFO, bytes(504)), 352)[0])


def snapshot(directory: int, name: str, source: int) -> None:
    """Make ``name`` in ``directory`` a read-only snapshot of the subvolume ``source``; durable when it returns."""
    fixed = struct.pack("qQQ32x", source, 0, READ_ONLY)
    _ioctl(directory, SNAP_CREATE_V2, fixed + os.fsencode(name).ljust(4040, b"\0"))


def destroy(directory: int, name: str) -> None:
    """Delete the subvolume ``name`` in ``directory``."""
    _ioctl(directory, SNAP_DESTROY, bytes(8) + os.fsencode(name).ljust(4088, b"\0"))


def set_read_only(descriptor: int, wanted: bool) -> None:
    """Let nobody write to a subvolume, or again somebody."""
    (flags,) = struct.unpack("Q", _ioctl(descriptor, SUBVOL_GETFLAGS, bytes(8)))
    flags = flags | READ_ONLY if wanted else flags & ~READ_ONLY
    _ioctl(descriptor, SUBVOL_SETFLAGS, struct.pack("Q", flags))


def write_out(descriptor: int) -> None:
    """syncfs(2)."""
    _check(_libc.syncfs(descriptor))


def mount_top(source: str, place: str, read_only: bool) -> None:
    """The top of a btrfs file system, whatever part of it is mounted elsewhere.

    ``read_only`` must be as it is mounted elsewhere: otherwise btrfs makes the whole file system writable.
    """
    flags = (MS_RDONLY if read_only else 0) | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME
    _check(_libc.mount(os.fsencode(source), os.fsencode(place), b"btrfs", ctypes.c_ulong(flags), b"subvolid=5"), place)


def bind_read_only(source: str, place: str) -> None:
    """Show a directory in a second place, read-only; nothing is left behind when that fails."""
    where = os.fsencode(place)
    _check(_libc.mount(os.fsencode(source), where, None, ctypes.c_ulong(MS_BIND), None), place)
    flags = ctypes.c_ulong(MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
    try:
        _check(_libc.mount(None, where, None, flags, None), place)
    except OSError:
        unmount(place)
        raise


def unmount(place: str) -> None:
    """Take a mount away; who still uses it can go on. Harmless when there is none."""
    if _libc.umount2(os.fsencode(place), MNT_DETACH) < 0:
        number = ctypes.get_errno()
        if number not in (2, 22):  # ENOENT, EINVAL: nothing is mounted there
            raise OSError(number, os.strerror(number), place)
