"""Layouts and answers of the FUSE side, without a kernel."""

from __future__ import annotations

import errno
import stat
import struct

import pytest

from shadowset.nbd_provider.attach import fuse
from shadowset.nbd_provider.attach.disk import DIRECTORY_INODE, FILE_INODE, Disk
from shadowset.nbd_provider.attach.usage import mounts
from shadowset.vss.codes import VssError

DISK = Disk(1 << 30, 512)


def answer(opcode: int, node: int = DIRECTORY_INODE, body: bytes = b"") -> bytes:
    return DISK.answer(opcode, node, memoryview(body))


@pytest.mark.parametrize(
    ("opcode", "body", "length"),
    [
        (fuse.INIT, struct.pack("=IIII48x", 7, 39, 131072, 0xFFFFFFFF), 64),
        (fuse.LOOKUP, b"disk\0", 128),
        (fuse.GETATTR, b"", 104),
        (fuse.OPEN, b"", 16),
        (fuse.STATFS, b"", 80),
        (fuse.RELEASE, b"", 0),
    ],
)
def test_answers_have_the_kernel_s_sizes(opcode: int, body: bytes, length: int) -> None:
    assert len(answer(opcode, body=body)) == length


def test_only_what_the_kernel_offers_is_wanted() -> None:
    offered = 1 << 5 | 1 << 22
    _major, minor, _readahead, flags = struct.unpack_from(
        "=IIII", answer(fuse.INIT, body=struct.pack("=IIII", 7, 31, 0, offered))
    )
    assert (minor, flags) == (31, offered)


@pytest.mark.parametrize("version", [(7, 27), (8, 0), (6, 40)])
def test_a_kernel_that_is_too_old_is_named(version: tuple[int, int]) -> None:
    with pytest.raises(VssError, match="too old"):
        answer(fuse.INIT, body=struct.pack("=IIII", *version, 0, 0))


def test_the_file_has_the_size_of_the_export() -> None:
    size = struct.unpack_from("=Q", answer(fuse.GETATTR, FILE_INODE), 24)[0]
    mode = struct.unpack_from("=I", answer(fuse.GETATTR, FILE_INODE), 16 + 60)[0]
    assert size == 1 << 30 and mode == stat.S_IFREG | 0o600


def set_size(disk: Disk, node: int, size: int, valid: int = 1 << 3) -> int:
    """The size in the answer to a SETATTR."""
    body = struct.pack("=IIQQ56x", valid, 0, 0, size)
    found: int = struct.unpack_from("=Q", disk.answer(fuse.SETATTR, node, memoryview(body)), 24)[0]
    return found


def test_the_file_grows_when_the_export_has_grown() -> None:
    asked: list[int] = []
    disk = Disk(8192, 512, lambda size: bool(asked.append(size)) or size == 16384)
    assert set_size(disk, FILE_INODE, 8192) == 8192 and set_size(disk, FILE_INODE, 1, valid=1) == 8192
    for size in (4096, 12288):
        with pytest.raises(PermissionError):
            set_size(disk, FILE_INODE, size)
    assert set_size(disk, FILE_INODE, 16384) == 16384 and disk.clamp(12288, 8192) == 4096
    assert asked == [12288, 16384]


def test_other_names_and_other_requests() -> None:
    with pytest.raises(OSError) as absent:
        answer(fuse.LOOKUP, body=b"other\0")
    with pytest.raises(OSError) as unserved:
        answer(9999)
    assert (absent.value.errno, unserved.value.errno) == (errno.ENOENT, errno.ENOSYS)


def test_the_directory_comes_whole_or_in_parts() -> None:
    whole = answer(fuse.READDIR, body=fuse.READ_IN.pack(0, 0, 4096))
    assert b"disk" in whole and len(whole) % 8 == 0
    first = answer(fuse.READDIR, body=fuse.READ_IN.pack(0, 0, 32))
    rest = answer(fuse.READDIR, body=fuse.READ_IN.pack(0, 1, 4096))
    assert first + rest == whole
    assert answer(fuse.READDIR, body=fuse.READ_IN.pack(0, 3, 4096)) == b""


@pytest.mark.parametrize(
    ("offset", "length", "there"), [(0, 512, 512), ((1 << 30) - 512, 4096, 512), (1 << 30, 1, 0), (1 << 40, 9, 0)]
)
def test_ranges_end_with_the_disk(offset: int, length: int, there: int) -> None:
    assert DISK.clamp(offset, length) == there


def test_mount_points_are_found_by_number_and_by_source() -> None:
    table = (
        "36 35 7:3 / /mnt/a\\040b rw,noatime shared:1 - ext4 /dev/loop3 rw\n"
        "37 35 0:45 / /mnt/btrfs rw - btrfs /dev/loop3 rw\n"
        "38 35 7:33 / /mnt/other rw - ext4 /dev/loop33 rw"
    )
    assert mounts(table, {"7:3"}, {"/dev/loop3"}) == ["/mnt/a b", "/mnt/btrfs"]
    assert mounts(table, {"7:4"}, {"/dev/loop4"}) == []
