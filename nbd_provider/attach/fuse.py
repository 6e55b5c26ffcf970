"""The kernel's FUSE protocol, as much of it as one file in one directory needs, and the mount itself.

We read ``/dev/fuse`` ourselves: FUSE hands out requests and takes answers in any order, as NBD does, so one thread can
keep all of them under way. A library that calls a function for each request would need a thread for each.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

from shadowset.vss.codes import Code, VssError

LOOKUP = 1
FORGET = 2
GETATTR = 3
SETATTR = 4
OPEN = 14
READ = 15
WRITE = 16
STATFS = 17
RELEASE = 18
FSYNC = 20
INIT = 26
OPENDIR = 27
READDIR = 28
RELEASEDIR = 29
INTERRUPT = 36
DESTROY = 38
BATCH_FORGET = 42
FALLOCATE = 43

IN_HEADER = struct.Struct("=IIQQIIIHH")
READ_IN = struct.Struct("=QQI")
WRITE_IN = struct.Struct("=QQIIQII")
FALLOCATE_IN = struct.Struct("=QQQI")
_SETATTR_IN = struct.Struct("=IIQQ")
OUT_HEADER = struct.Struct("=IiQ")
WRITE_OUT = struct.Struct("=II")
_INIT_IN = struct.Struct("=IIII")
_INIT_OUT = struct.Struct("=IIIIHHIIHHIIH22x")
_ATTR = struct.Struct("=6Q10I")
_ENTRY_OUT = struct.Struct("=4Q2I")
_ATTR_OUT = struct.Struct("=QII")
_OPEN_OUT = struct.Struct("=QII")
_STATFS_OUT = struct.Struct("=5Q4I24x")
_DIRENT = struct.Struct("=QQII")

FALLOC_PUNCH_HOLE = 2
FALLOC_ZERO_RANGE = 16

BIGGEST_TRANSFER = 1 << 20
_BACKGROUND = 128
_MINOR_NEEDED = 28
_MINOR_SPOKEN = 31

_INIT_ASYNC_READ = 1 << 0
_INIT_BIG_WRITES = 1 << 5
_INIT_ASYNC_DIO = 1 << 15
_INIT_MAX_PAGES = 1 << 22
_WANTED = _INIT_ASYNC_READ | _INIT_BIG_WRITES | _INIT_ASYNC_DIO | _INIT_MAX_PAGES

_MINOR_OF_RESEND = 40
_INIT_EXTENDED = 1 << 30
_INIT2_HAS_RESEND = 1 << 7
_NOTIFY_RESEND = 7

_OPEN_DIRECT_IO = 1 << 0
_OPEN_PARALLEL_DIRECT_WRITES = 1 << 6

_FATTR_SIZE = 1 << 3

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MNT_FORCE, _MNT_DETACH = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


def init_reply(body: bytes) -> bytes:
    """The answer to INIT: big requests, many of them at once.

    Errors: VssError when the kernel's FUSE is older than Linux 4.20.
    """
    major, minor, readahead, offered = _INIT_IN.unpack_from(body)
    if major != 7 or minor < _MINOR_NEEDED:
        raise VssError(Code.VSS_E_NOT_SUPPORTED, f"this kernel's FUSE {major}.{minor} is too old: Linux 4.20 is needed")
    pages = BIGGEST_TRANSFER // os.sysconf("SC_PAGESIZE")
    head = (7, min(minor, _MINOR_SPOKEN), readahead, offered & _WANTED)
    return _INIT_OUT.pack(*head, _BACKGROUND, _BACKGROUND * 3 // 4, BIGGEST_TRANSFER, 1, pages, 0, 0, 0, 0)


def offers_resend(body: bytes) -> bool:
    """Whether INIT tells of a kernel that hands out again what a dead process has not answered."""
    _major, minor, _readahead, offered = _INIT_IN.unpack_from(body)
    if minor < _MINOR_OF_RESEND or not offered & _INIT_EXTENDED or len(body) < _INIT_IN.size + 4:
        return False
    return bool(int.from_bytes(body[_INIT_IN.size : _INIT_IN.size + 4], sys.byteorder) & _INIT2_HAS_RESEND)


def resend(fd: int) -> None:
    """Let the kernel hand out again all that was taken from ``fd`` and not answered. Errors: OSError."""
    os.write(fd, OUT_HEADER.pack(OUT_HEADER.size, _NOTIFY_RESEND, 0))


def attributes(inode: int, mode: int, size: int, block: int) -> bytes:
    """A ``fuse_attr``; the disk belongs to root and never changes its times."""
    return _ATTR.pack(inode, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, block, 0)


def entry_reply(inode: int, attr: bytes, valid_s: int) -> bytes:
    """The answer to LOOKUP."""
    return _ENTRY_OUT.pack(inode, 0, valid_s, valid_s, 0, 0) + attr


def attr_reply(attr: bytes, valid_s: int) -> bytes:
    """The answer to GETATTR."""
    return _ATTR_OUT.pack(valid_s, 0, 0) + attr


def wanted_size(body: bytes | memoryview) -> int | None:
    """The size that a SETATTR asks for, in bytes; None when it is about something else."""
    valid, _padding, _handle, size = _SETATTR_IN.unpack_from(body)
    return int(size) if valid & _FATTR_SIZE else None


def open_reply(direct: bool) -> bytes:
    """The answer to OPEN and OPENDIR; ``direct`` keeps the page cache out and lets writes overlap."""
    return _OPEN_OUT.pack(0, _OPEN_DIRECT_IO | _OPEN_PARALLEL_DIRECT_WRITES if direct else 0, 0)


def statfs_reply(size: int, block: int) -> bytes:
    """The answer to STATFS; ``block`` becomes the loop device's discard granularity."""
    return _STATFS_OUT.pack(size // block, 0, 0, 1, 0, block, 255, block, 0)


def directory(entries: list[tuple[int, int, str]], offset: int, room: int) -> bytes:
    """The answer to READDIR: ``(inode, mode, name)`` from entry ``offset`` on, as many as fit."""
    out = b""
    for index, (inode, mode, name) in enumerate(entries[offset:], offset + 1):
        encoded = name.encode()
        record = _DIRENT.pack(inode, index, len(encoded), mode >> 12) + encoded
        record += bytes(-len(record) % 8)
        if len(out) + len(record) > room:
            break
        out += record
    return out


def mount(path: str) -> int:
    """Mounts at ``path``, visible to root only, and returns the descriptor that carries the requests.

    Errors: VssError.
    """
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        message = f"cannot open /dev/fuse ({error.strerror}): load the module fuse"
        raise VssError(Code.VSS_E_NOT_SUPPORTED, message) from error
    data = f"fd={fd},rootmode=40000,user_id=0,group_id=0,max_read={BIGGEST_TRANSFER}"
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    if _libc.mount(b"shadowset", os.fsencode(path), b"fuse.shadowset", ctypes.c_ulong(flags), data.encode()) != 0:
        os.close(fd)
        reason = os.strerror(ctypes.get_errno())
        raise VssError(Code.VSS_E_UNEXPECTED, f"cannot mount FUSE at {path}: {reason}")
    return fd


def abort(path: str) -> None:
    """Fails all requests under way at the mount at ``path``, and all later ones; the mount stays."""
    _libc.umount2(os.fsencode(path), _MNT_FORCE)


def unmount(path: str) -> bool:
    """Takes the mount away, even while it is in use. False when there is none."""
    return bool(_libc.umount2(os.fsencode(path), _MNT_DETACH) == 0)
