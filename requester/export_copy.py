"""Writing a shadow copy, or what changed since an earlier one, into a file that another host imports."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.requester_protocol import SetRecord, SnapshotProperties
from shadowset.vss.transport import COPY, DATA, DOCUMENT, FORMAT, MAP, Transport, TransportMap

BLOCK = 1 << 20
GRAIN = 64 << 10
"""Pieces of zeros of this size are left out of a whole copy."""
OnBytes = Callable[[int], None]
Range = tuple[int, int]


def export_copy(
    copy: SnapshotProperties,
    made: SetRecord,
    path: str,
    document: str,
    since: str,
    changed: list[Range] | None,
    on_bytes: OnBytes,
) -> int:
    """Write the file, durably; the bytes of data in it. ``changed`` is what changed since the copy ``since``.

    Errors: VSS_E_OBJECT_ALREADY_EXISTS for a file that is there, VSS_E_NOT_SUPPORTED for a copy that is a directory,
    VSS_E_UNEXPECTED for a read or write that fails; the file is removed then.
    """
    if os.path.isdir(copy.device_object):
        sentence = f"shadow copy {copy.snapshot_id} is a directory of its provider, not a device; back up its files"
        raise VssError(Code.VSS_E_NOT_SUPPORTED, sentence)
    try:
        file = open(path, "xb")  # noqa: SIM115
    except FileExistsError:
        raise VssError(Code.VSS_E_OBJECT_ALREADY_EXISTS, f"{path} exists; name a new file") from None
    except OSError as error:
        raise VssError(Code.E_INVALIDARG, f"{path} cannot be made: {error.strerror}") from None
    try:
        with file, open(copy.device_object, "rb", buffering=0) as source:
            os.fchmod(file.fileno(), 0o600)
            head = Transport(FORMAT, copy, msgspec.structs.replace(made, snapshots=[]), since)
            ranges = (
                _whole(source.fileno(), copy.size, on_bytes)
                if changed is None
                else _changed(source.fileno(), changed, on_bytes)
            )
            size = _write(file, head, document, ranges)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        os.unlink(path)
        raise VssError(Code.VSS_E_UNEXPECTED, f"{path} could not be written: {error.strerror or error}") from None
    except BaseException:
        os.unlink(path)
        raise
    return size


def _whole(source: int, size: int, on_bytes: OnBytes) -> Iterator[tuple[int, bytes]]:
    """Everything but zeros."""
    for at in range(0, size, BLOCK):
        data = _read(source, at, min(BLOCK, size - at))
        on_bytes(len(data))
        for start in range(0, len(data), GRAIN):
            piece = data[start : start + GRAIN]
            if piece.count(0) != len(piece):
                yield at + start, piece


def _changed(source: int, changed: Iterable[Range], on_bytes: OnBytes) -> Iterator[tuple[int, bytes]]:
    for offset, length in changed:
        for at in range(offset, offset + length, BLOCK):
            data = _read(source, at, min(BLOCK, offset + length - at))
            on_bytes(len(data))
            yield at, data


def _read(source: int, offset: int, length: int) -> bytes:
    data = os.pread(source, length, offset)
    if len(data) != length:
        raise OSError(5, f"the copy ends at byte {offset + len(data)}")
    return data


def _write(file: BinaryIO, head: Transport, document: str, pieces: Iterator[tuple[int, bytes]]) -> int:
    """The archive; the data's length is put into its header afterwards, since it is not known before."""
    _member(file, COPY, msgspec.json.encode(head))
    if document:
        _member(file, DOCUMENT, document.encode())
    header = file.tell()
    file.write(bytes(tarfile.BLOCKSIZE))
    digest = hashlib.sha256()
    ranges: list[Range] = []
    size = 0
    for offset, data in pieces:
        file.write(data)
        digest.update(data)
        size += len(data)
        if ranges and sum(ranges[-1]) == offset:
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + len(data))
        else:
            ranges.append((offset, len(data)))
    _pad(file, size)
    end = file.tell()
    file.seek(header)
    file.write(_header(DATA, size))
    file.seek(end)
    _member(file, MAP, msgspec.json.encode(TransportMap(ranges, digest.hexdigest())))
    file.write(bytes(2 * tarfile.BLOCKSIZE))
    return size


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.GNU_FORMAT)


def _member(file: io.BufferedIOBase | BinaryIO, name: str, content: bytes) -> None:
    file.write(_header(name, len(content)))
    file.write(content)
    _pad(file, len(content))


def _pad(file: io.BufferedIOBase | BinaryIO, size: int) -> None:
    file.write(bytes(-size % tarfile.BLOCKSIZE))
