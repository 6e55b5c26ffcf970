"""Copying single files: contents, holes, attributes; and where paths lie."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.backup import copy
from shadowset.requester.backup.copy import TargetError
from shadowset.requester.backup.mounts import Place, VolumeMap
from shadowset.requester.backup.store import Target, element
from shadowset.vss.codes import VssError
from shadowset.vss.mountinfo import parse_mountinfo
from shadowset.vss.requester_protocol import VolumeInfo


def copy_file(source: Path, target: Path) -> tuple[int, str, int]:
    seen: list[int] = []
    with open(source, "rb") as reader, open(target, "xb") as writer:
        size, digest = copy.copy_contents(reader.fileno(), writer.fileno(), str(target), seen.append)
    return size, digest, sum(seen)


def holes(path: Path) -> list[tuple[int, int]]:
    with open(path, "rb") as file:
        return list(copy.data_ranges(file.fileno(), os.fstat(file.fileno()).st_size))


@pytest.mark.parametrize(
    ("size", "data"),
    [
        (0, []),
        (1, [(0, b"x")]),
        (8 << 20, []),
        (8 << 20, [(0, b"a" * 4096), (4 << 20, b"b" * 70000)]),
        ((8 << 20) + 5, [((8 << 20), b"tail.")]),
        (3 << 20, [(0, os.urandom(3 << 20))]),
    ],
)
def test_contents_and_holes_survive(tmp_path: Path, size: int, data: list[tuple[int, bytes]]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with open(source, "wb") as file:
        file.truncate(size)
        for offset, piece in data:
            file.seek(offset)
            file.write(piece)
    written, digest, seen = copy_file(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert (written, digest) == (size, hashlib.sha256(source.read_bytes()).hexdigest())
    assert seen == size, "the progress counts holes as well"
    assert holes(target) == holes(source)
    assert copy.digest_file(str(target), lambda count: None) == (size, digest)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100)
    monkeypatch.setattr(copy, "data_ranges", lambda descriptor, size: iter([(0, 200)]))
    with pytest.raises(OSError, match="shorter"):
        copy_file(source, tmp_path / "target")


def test_attributes_survive(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x")
    target.write_bytes(b"x")
    os.chmod(source, 0o4751)
    os.utime(source, ns=(1_000_000_000_123_456_789, 1_100_000_000_987_654_321))
    os.setxattr(source, "user.colour", b"\x00blue\xff")
    attributes = copy.read_attributes(str(source), os.lstat(source))
    with open(target, "rb") as file:
        copy.apply_attributes(file.fileno(), attributes, strict=True)
    status = os.stat(target)
    assert stat.S_IMODE(status.st_mode) == 0o4751
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_000_123_456_789, 1_100_000_000_987_654_321)
    assert os.getxattr(target, "user.colour") == b"\x00blue\xff"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_owners_survive_and_a_mode_with_set_user_id_with_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with open(path, "rb") as file:
        copy.apply_attributes(
            file.fileno(), copy.Attributes(mode=0o6755, uid=1234, gid=4321, mtime_ns=1, atime_ns=2), strict=True
        )
    status = os.stat(path)
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 4321, 0o6755)


def test_symbolic_links_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "link").symlink_to("secret")
    with pytest.raises(OSError, match="symbolic"):
        copy.open_source(str(tmp_path / "link"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_target_is_told_apart_from_an_unreadable_source(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no room to write /dev/full"), copy.writing("/dev/full"):
        descriptor = os.open("/dev/full", os.O_WRONLY)
        try:
            os.write(descriptor, b"x")
        finally:
            os.close(descriptor)


# ---- mounts ----


MOUNTINFO = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 8:2 / /srv rw shared:2 - xfs /dev/shadowset/data rw
31 30 0:40 / /srv/cache rw - tmpfs tmpfs rw
32 22 8:2 /sub/tree /mnt/part rw shared:2 - xfs /dev/shadowset/data rw
33 22 8:3 / /with\\040space rw - ext4 /dev/sdb rw
34 30 8:4 / /srv/wal rw - ext4 /dev/shadowset/wal rw
"""


def volume(name: str, *mount_points: str) -> VolumeInfo:
    return VolumeInfo(name, "", "", 0, 0, "online", "", "", list(mount_points), 0, 0, "", 0)


def test_mountinfo_is_read() -> None:
    mounts = parse_mountinfo(MOUNTINFO)
    assert (mounts[0].path, mounts[0].root, mounts[0].fs_type, mounts[0].source) == ("/", "/", "ext4", "/dev/sda1")
    assert mounts[3].root == "/sub/tree"
    assert mounts[4].path == "/with space"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/srv", Place("data", "")),
        ("/srv/a/b", Place("data", "a/b")),
        ("/srv/cache/x", None),
        ("/srv/wal/0001", Place("wal", "0001")),
        ("/mnt/part/x", Place("data", "sub/tree/x")),
        ("/srvx", None),
        ("/etc", None),
    ],
)
def test_a_path_is_found_on_its_volume(path: str, place: Place | None) -> None:
    volumes = VolumeMap([volume("data", "/srv", "/mnt/part"), volume("wal", "/srv/wal")], parse_mountinfo(MOUNTINFO))
    assert volumes.locate(path) == place


def test_mounts_below_a_path() -> None:
    volumes = VolumeMap([volume("data", "/srv")], parse_mountinfo(MOUNTINFO))
    assert volumes.nested("/srv") == ["/srv/cache", "/srv/wal"]
    assert volumes.nested("/srv/wal") == []


# ---- the target ----


def test_names_become_path_elements_without_ambiguity() -> None:
    names = ["a", "a/b", "a%2Fb", "..", ".", "", "ü", "x" * 300, "x" * 301, "a+b", "a\x1b[2J", "\udc80"]
    elements = [element(name) for name in names]
    assert len(set(elements)) == len(names)
    assert all("/" not in one and not one.startswith(".") and len(one) < 200 and one.isprintable() for one in elements)
    assert element("SQLite Writer") == "SQLite Writer"


def test_a_target_is_new_or_empty(tmp_path: Path) -> None:
    made = Target(str(tmp_path / "new"))
    assert stat.S_IMODE(os.stat(made.directory).st_mode) == 0o700
    made.discard()
    assert not os.path.exists(made.directory)
    (tmp_path / "there").mkdir()
    mine: Any = Target(str(tmp_path / "there"))
    (tmp_path / "there" / "files").mkdir()
    (tmp_path / "there" / "BackupComponents.xml").write_text("x")
    mine.discard()
    assert os.listdir(tmp_path / "there") == []
    (tmp_path / "there" / "x").write_text("x")
    for bad in ("there", "there/x", "none/new"):
        with pytest.raises(VssError, match=r"empty|no directory"):
            Target(str(tmp_path / bad))
    assert (tmp_path / "there" / "x").exists()
