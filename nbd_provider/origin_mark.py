"""Whether the origin was changed while no provider had it: what is noted at a clean end, and compared at the start.

Image file: any write moves its mtime, so another mtime or inode means a change. Where the mtime is the same it may have
been set back, and where the file grew its mtime says nothing; then the sampled places decide. Block device: under the
same boot the kernel's count of writes decides; after another boot, or where the kernel does not count, the sampled
places alone do. They catch what rewrites a superblock, a mount for writing or a restored image for instance, but not a
lone write somewhere else.
"""

from __future__ import annotations

import os
from typing import Final

from shadowset.nbd_provider.origin import Origin
from shadowset.nbd_provider.store.digests import sha256
from shadowset.nbd_provider.store.session import boot_id
from shadowset.nbd_provider.store.settings import MarkKind, OriginMark

EDGE: Final = 128 * 1024
PIECE: Final = 4096
PIECES: Final = 64


def take_mark(origin: Origin, size: int = 0) -> OriginMark:
    """How the origin, or its first ``size`` bytes, look now; all must have been flushed to it. Errors: OSError."""
    digest = sample(origin.fd, size or origin.size)
    if origin.is_block:
        return OriginMark(
            MarkKind.BLOCK, origin.size, boot_id=boot_id(), digest=digest, written=count_writes(origin.fd)
        )
    status = os.fstat(origin.fd)
    times = status.st_mtime_ns, status.st_ctime_ns
    return OriginMark(MarkKind.FILE, origin.size, *times, status.st_ino, boot_id(), digest)


def changed_since(mark: OriginMark, origin: Origin) -> str:
    """How the origin differs from its mark, or nothing when it does not. Errors: OSError."""
    if mark.kind is MarkKind.NONE:
        return ""
    now = take_mark(origin, min(mark.size, origin.size))
    if now.size < mark.size:
        return f"it shrank from {mark.size} to {now.size} bytes"
    if now.kind is not mark.kind:
        return "it is another kind of file now"
    if mark.kind is MarkKind.FILE:
        return _file_changed(mark, now)
    if mark.boot_id == now.boot_id and mark.written != now.written:
        return "the kernel has counted writes to it"
    return "" if mark.digest == now.digest else "sampled places of it have other content"


def _file_changed(mark: OriginMark, now: OriginMark) -> str:
    if mark.inode != now.inode:
        return "it is another file under the same name"
    if mark.mtime_ns != now.mtime_ns and mark.size == now.size:
        return "it was written to (its modification time is another)"
    return "" if mark.digest == now.digest else "sampled places of it have other content"


def sample(fd: int, size: int) -> bytes:
    """SHA-256 of both ends, where superblocks and labels lie, and of 64 places spread evenly between.

    Never of what lies beyond ``size``: the origin may have grown since.
    """
    value = sha256()
    places = [(0, EDGE), (max(0, size - EDGE), EDGE)]
    places += [(size * number // PIECES // PIECE * PIECE, PIECE) for number in range(PIECES)]
    for offset, length in places:
        value.update(os.pread(fd, min(length, size - offset), offset))
    return bytes(value.digest())


def count_writes(fd: int) -> int:
    """Writes and discards that the kernel has counted for the block device, 0 where it does not count."""
    number = os.fstat(fd).st_rdev
    try:
        with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat", encoding="ascii") as file:
            figures = [int(word) for word in file.read().split()]
    except OSError:
        return 0
    return sum(figures[place] for place in (4, 6, 11, 13) if place < len(figures))
