"""Writing parts of a file: into a copy that is staged beside it, read back from the disk before it takes its place."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat

from shadowset.requester.backup.copy import (
    Attributes,
    OnBytes,
    apply_attributes,
    copy_contents,
    digest_ranges,
    open_source,
    read_attributes,
    transfer,
    writing,
)
from shadowset.requester.restore.puts import Put
from shadowset.vss.codes import Code, VssError
from shadowset.vss.ranges import Range


def copy_aside(path: str, temporary: str) -> None:
    """A new file with contents and attributes of the one at ``path``, empty when there is none. Errors: TargetError."""
    with writing(temporary):
        target = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.path.lexists(path) and stat.S_ISREG(os.lstat(path).st_mode):
                source = open_source(path)
                try:
                    copy_contents(source, target, temporary, lambda count: None)
                    apply_attributes(target, read_attributes(source, os.fstat(source)), strict=False)
                finally:
                    os.close(source)
        finally:
            os.close(target)


def write_parts(source: int, temporary: str, put: Put, on_bytes: OnBytes) -> None:
    """Copy the spans of ``put`` and compare them with what the disk then gives back. Errors: OSError, TargetError."""
    digest = hashlib.sha256()
    with writing(temporary):
        target = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for span in put.spans:
            transfer(source, span.source, target, span.target, span.length, temporary, digest, on_bytes)
        with writing(temporary):
            if put.size is not None:
                os.ftruncate(target, put.size)
            os.fsync(target)
        with contextlib.suppress(OSError):
            os.posix_fadvise(target, 0, 0, os.POSIX_FADV_DONTNEED)
        written = [Range(span.target, span.length) for span in put.spans]
        if digest_ranges(target, written) != digest.hexdigest():
            raise VssError(
                Code.VSS_E_UNEXPECTED,
                f"{put.destination} reads back from the disk other than it was written; look at the disk",
            )
    finally:
        os.close(target)


def apply_to_file(path: str, attributes: Attributes, strict: bool) -> None:
    """Give a file its attributes. Errors: OSError."""
    target = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        apply_attributes(target, attributes, strict=strict)
        os.fsync(target)
    finally:
        os.close(target)
