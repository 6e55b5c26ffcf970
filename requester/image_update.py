"""Bringing an image of an older shadow copy up to a later one: only what changed is written.

An update that was interrupted leaves a mixture, which another run of the same update makes whole: it writes the same
ranges again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable

from shadowset.vss.codes import Code, VssError
from shadowset.vss.provider_protocol import ChangedRanges
from shadowset.vss.requester_protocol import VolumeInfo

BLOCK = 1 << 20

OnBytes = Callable[[int], None]


def check_image(image: str, sizes: tuple[int, int], volumes: Iterable[VolumeInfo]) -> None:
    """``sizes`` are those of both copies: the image has the earlier one's, or the later one's after an interruption.

    Errors: E_INVALIDARG, OSError.
    """
    status = os.stat(image)
    if not stat.S_ISREG(status.st_mode):
        raise VssError(Code.E_INVALIDARG, f"{image} is no regular file; bring image files up to date only")
    for volume in volumes:
        if os.path.exists(volume.origin) and os.path.samefile(image, volume.origin):
            raise VssError(Code.E_INVALIDARG, f"{image} is what volume {volume.name} is on; name a copy of it")
    if status.st_size not in sizes:
        raise VssError(
            Code.E_INVALIDARG,
            f"{image} has {status.st_size} bytes and the earlier copy {sizes[0]}; name an image of that copy",
        )


def update_image(image: str, device: str, delta: ChangedRanges, on_bytes: OnBytes) -> None:
    """Write what changed into the image, from the later copy's device object, and let it be durable.

    Errors: OSError before anything is written; VSS_E_UNEXPECTED for a read or write that fails, after which the image
    is a mixture of both copies.
    """
    with open(device, "rb", buffering=0) as source, open(image, "r+b", buffering=0) as target:
        try:
            _update(source.fileno(), target.fileno(), delta, on_bytes)
        except OSError as error:
            raise VssError(
                Code.VSS_E_UNEXPECTED,
                f"{image} is a mixture of both copies now: {error.strerror}; run the same command again, or make a "
                "new image",
            ) from error


def _update(source: int, target: int, delta: ChangedRanges, on_bytes: OnBytes) -> None:
    if os.fstat(target).st_size != delta.size:
        os.ftruncate(target, delta.size)
    for offset, length in delta.ranges:
        _copy(source, target, offset, length, on_bytes)
    os.fsync(target)


def _copy(source: int, target: int, offset: int, length: int, on_bytes: OnBytes) -> None:
    end = offset + length
    while offset < end:
        data = os.pread(source, min(BLOCK, end - offset), offset)
        if not data:
            raise OSError(5, f"the later copy ends at byte {offset}")
        view = memoryview(data)
        while view:
            written = os.pwrite(target, view, offset)
            view, offset = view[written:], offset + written
        on_bytes(len(data))
