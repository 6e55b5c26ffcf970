"""Copying one file with everything that belongs to it: contents, holes, owner, mode, times, extended attributes.

The digest is computed from the bytes as they pass, so a file is read once. Contents go through descriptors opened
without following symbolic links. Failures to write are told apart from failures to read: a file that cannot be read
fails its component, a target that cannot be written fails the whole job.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.ranges import Range

BLOCK = 1024 * 1024
_ZEROS = bytes(BLOCK)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_HERE = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSPC, errno.E2BIG)

OnBytes = Callable[[int], None]


class TargetError(VssError):
    """Nothing more can be written where the files go."""


class Attributes(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What belongs to a file besides its contents; times in Unix nanoseconds, extended attributes in base64."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int
    xattrs: dict[str, str] = {}


def target_error(path: str, error: OSError) -> TargetError:
    """The sentence for a write that failed."""
    if error.errno in _FULL:
        return TargetError(
            Code.VSS_E_INSUFFICIENT_STORAGE,
            f"there is no room to write {path}: {error.strerror}; free space there or choose another place",
        )
    return TargetError(Code.VSS_E_UNEXPECTED, f"{path} cannot be written: {error.strerror}; see to it and start again")


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn every OSError inside into a TargetError about ``path``."""
    try:
        yield
    except OSError as error:
        raise target_error(path, error) from error


def read_attributes(path: str | int, status: os.stat_result) -> Attributes:
    """The attributes of a file given by descriptor, or by path for what must not be opened (symbolic links)."""
    return Attributes(
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        atime_ns=status.st_atime_ns,
        xattrs=_read_xattrs(path),
    )


def _read_xattrs(path: str | int) -> dict[str, str]:
    follow = isinstance(path, int)
    try:
        names = os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    values = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            values[name] = base64.b64encode(os.getxattr(path, name, follow_symlinks=follow)).decode()
    return values


def apply_attributes(target: int | str, attributes: Attributes, strict: bool) -> None:
    """Give a file its attributes: by descriptor, or by path to a symbolic link, which has no mode and takes no links.

    Not ``strict`` (a backup target, whose manifest records all of it as well) forgives what the file system or this
    user cannot do. Strict still leaves owners alone when this user is not root, as tar does.
    Errors: OSError.
    """
    link = isinstance(target, str)
    if os.geteuid() == 0 or not strict:
        _forgive(strict, partial(os.chown, target, attributes.uid, attributes.gid, follow_symlinks=not link))
    for name, value in attributes.xattrs.items():
        _forgive(strict, partial(os.setxattr, target, name, base64.b64decode(value), follow_symlinks=not link))
    if not link:
        # After the owner and the attributes: chown clears set-user-ID bits.
        _forgive(strict, partial(os.chmod, target, attributes.mode))
    times = (attributes.atime_ns, attributes.mtime_ns)
    _forgive(strict, partial(os.utime, target, ns=times, follow_symlinks=not link))


def _forgive(strict: bool, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        if strict or error.errno not in _NOT_HERE:
            raise


def open_source(path: str) -> int:
    """A descriptor for reading a regular file or directory that is not a symbolic link, leaving its times alone."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)


class Fresh:
    """How contents get into a new file; ``kept`` counts the bytes that were there already."""

    kept = 0

    def write(self, target: int, data: memoryview, position: int) -> None:
        """These bytes, there. Errors: OSError."""
        _write_all(target, data, position)

    def hole(self, target: int, start: int, end: int) -> None:
        """Nothing there, which a new file has anyway. Errors: OSError."""


FRESH = Fresh()


def copy_contents(
    source: int, target: int, target_path: str, on_bytes: OnBytes, into: Fresh = FRESH
) -> tuple[int, str]:
    """Copy all bytes between descriptors, holes as holes; returns size and SHA-256 in hexadecimal.

    ``on_bytes`` hears of the bytes done, holes included. Errors: OSError from reading, TargetError from writing.
    """
    size = os.fstat(source).st_size
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK))
    with writing(target_path):
        os.ftruncate(target, size)
    done = 0
    for start, end in data_ranges(source, size):
        _hash_hole(digest, start - done, on_bytes)
        with writing(target_path):
            into.hole(target, done, start)
        position = start
        while position < end:
            count = _read_some(source, buffer[: min(BLOCK, end - position)], position)
            digest.update(buffer[:count])
            with writing(target_path):
                into.write(target, buffer[:count], position)
            position += count
            on_bytes(count)
        done = end
    _hash_hole(digest, size - done, on_bytes)
    with writing(target_path):
        into.hole(target, done, size)
    return size, digest.hexdigest()


def copy_ranges(
    source: int, target: int, ranges: Sequence[Range], target_path: str, on_bytes: OnBytes, into: Fresh = FRESH
) -> tuple[int, str]:
    """Copy only these ranges, one behind the other; returns bytes and SHA-256. Errors: as ``copy_contents``."""
    digest = hashlib.sha256()
    done = 0
    for each in ranges:
        transfer(source, each.offset, target, done, each.length, target_path, digest, on_bytes, into)
        done += each.length
    with writing(target_path):
        os.ftruncate(target, done)
    return done, digest.hexdigest()


def transfer(
    source: int,
    position: int,
    target: int,
    target_position: int,
    length: int,
    target_path: str,
    digest: hashlib._Hash,
    on_bytes: OnBytes,
    into: Fresh = FRESH,
) -> None:
    """Copy ``length`` bytes between two places, into the digest too. Errors: as ``copy_contents``."""
    buffer = memoryview(bytearray(min(BLOCK, length)))
    end = position + length
    while position < end:
        count = _read_some(source, buffer[: min(BLOCK, end - position)], position)
        digest.update(buffer[:count])
        with writing(target_path):
            into.write(target, buffer[:count], target_position)
        position += count
        target_position += count
        on_bytes(count)


def digest_ranges(source: int, ranges: Sequence[Range]) -> str:
    """SHA-256 of these ranges, one behind the other. Errors: OSError."""
    digest = hashlib.sha256()
    for each in ranges:
        position = each.offset
        while position < each.end:
            data = os.pread(source, min(BLOCK, each.end - position), position)
            if not data:
                raise OSError(errno.ESTALE, "the file is shorter than it should be")
            digest.update(data)
            position += len(data)
    return digest.hexdigest()


def data_ranges(source: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of each stretch of a file that is not a hole."""
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
            end = os.lseek(source, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
            start, end = position, size
        if start >= size:
            return
        yield start, min(end, size)
        position = end


def digest_file(path: str, on_bytes: OnBytes) -> tuple[int, str]:
    """Size and SHA-256 of a regular file, read from the disk and not from the page cache where that is possible."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        digest = hashlib.sha256()
        size = 0
        buffer = memoryview(bytearray(BLOCK))
        while count := os.preadv(descriptor, [buffer], size):
            digest.update(buffer[:count])
            size += count
            on_bytes(count)
        return size, digest.hexdigest()
    finally:
        os.close(descriptor)


def sync_file_system(path: str) -> None:
    """Bring everything on the file system of ``path`` to the disk. Errors: TargetError for what could not be."""
    with writing(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        finally:
            os.close(descriptor)


def _hash_hole(digest: hashlib._Hash, length: int, on_bytes: OnBytes) -> None:
    while length > 0:
        count = min(length, BLOCK)
        digest.update(memoryview(_ZEROS)[:count])
        on_bytes(count)
        length -= count


def _read_some(source: int, buffer: memoryview, position: int) -> int:
    count = os.preadv(source, [buffer], position)
    if count == 0:
        raise OSError(errno.ESTALE, "the file became shorter while it was read")
    return count


def _write_all(target: int, data: memoryview, position: int) -> None:
    while data:
        count = os.pwrite(target, data, position)
        data = data[count:]
        position += count
