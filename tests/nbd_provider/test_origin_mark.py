"""An origin that was changed while no provider had it costs its copies; one that was not costs nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shadowset.nbd_provider.origin import Origin
from shadowset.nbd_provider.origin_mark import changed_since, take_mark
from shadowset.nbd_provider.store.check import check_storage
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.rows import list_copies
from shadowset.nbd_provider.store.settings import MarkKind, OriginMark
from shadowset.nbd_provider.volume import Volume
from shadowset.vss import provider_protocol as m
from shadowset.vss.codes import VssError


def write_inside(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(5 << 20)
        file.write(b"changed")


def replace(path: str) -> None:
    content = Path(path).read_bytes()
    os.unlink(path)
    Path(path).write_bytes(content)


def write_and_set_the_time_back(path: str) -> None:
    before = os.stat(path)
    with open(path, "r+b") as file:
        file.write(b"changed")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [write_inside, replace, write_and_set_the_time_back])
def test_a_changed_image_loses_its_copies(provider: Any, random_image: bytes, change: Callable[[str], None]) -> None:
    copy = provider.control().snapshot(persistent=True)
    assert provider.stop() == 0
    time.sleep(0.02)
    change(provider.origin)
    provider.start()
    control = provider.control()
    [info] = control.value(m.Describe)["copies"]
    assert (info["copy_id"], info["lost"], info["cause"]) == (copy, True, "origin-changed")
    [event] = control.value(m.ListEvents)["events"]
    assert event["cause"] == "origin-changed" and "changed while no provider had it" in event["message"]
    after = control.snapshot()
    assert provider.stop() == 0
    provider.start()
    assert {each["copy_id"]: each["lost"] for each in provider.control().value(m.Describe)["copies"]} == {
        copy: True,
        after: False,
    }


@pytest.mark.parametrize("kill", [False, True])
def test_an_unchanged_image_keeps_them(provider: Any, nbd_module: Any, random_image: bytes, kill: bool) -> None:
    provider.control().snapshot()
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    client.pwrite(bytes(1 << 20), 0)
    if kill:
        provider.kill()
    else:
        assert provider.stop() == 0
    os.chmod(provider.origin, 0o600)
    Path(provider.origin).read_bytes()
    provider.start()
    assert [copy["lost"] for copy in provider.control().value(m.Describe)["copies"]] == [False]


def test_marks_of_a_block_device(workdir: str) -> None:
    path = f"{workdir}/image"
    Path(path).write_bytes(os.urandom(1 << 20))
    origin = Origin(path)
    digest = take_mark(origin).digest
    origin.is_block = True
    mark = take_mark(origin)
    assert (mark.kind, mark.digest) == (MarkKind.BLOCK, digest) and changed_since(mark, origin) == ""
    counted = OriginMark(mark.kind, mark.size, boot_id=mark.boot_id, digest=digest, written=mark.written + 1)
    assert "counted writes" in changed_since(counted, origin)
    other_boot = OriginMark(mark.kind, mark.size, boot_id=uuid4(), digest=digest, written=mark.written + 1)
    assert changed_since(other_boot, origin) == ""
    os.pwrite(origin.fd, b"x", 1024)
    assert "sampled places" in changed_since(other_boot, origin)
    origin.close()


def test_an_image_that_grew_keeps_its_copies_at_their_size(provider: Any, nbd_module: Any, random_image: bytes) -> None:
    size = len(random_image)
    old = provider.control().snapshot(persistent=True)
    assert provider.stop() == 0
    os.truncate(provider.origin, size + (3 << 20) + 512)
    provider.start()
    control = provider.control()
    assert control.value(m.Describe)["size"] == size + (3 << 20) + 512
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    client.pwrite(b"x" * (4 << 20), size - (1 << 20))
    new = control.snapshot()
    client.pwrite(bytes(4 << 20), size - (1 << 20))
    for copy, content in (
        (old, random_image),
        (new, random_image[: size - (1 << 20)] + b"x" * (4 << 20) + bytes(512)),
    ):
        reader = CopyReader(provider.storage, provider.origin, UUID(copy))
        assert reader.size == len(content) and reader.read(0, reader.size + 9) == content
        reader.close()
    assert provider.stop() == 0
    assert check_storage(provider.storage, provider.origin).sound


def test_a_larger_other_image_is_refused_and_costs_no_copy(provider: Any, random_image: bytes) -> None:
    provider.control().snapshot(persistent=True)
    assert provider.stop() == 0
    os.truncate(provider.origin, len(random_image) + (1 << 20))
    with open(provider.origin, "r+b") as file:
        file.write(b"changed")
    with pytest.raises(VssError, match="not that volume grown: sampled places"):
        Volume("vol", provider.origin, provider.storage)
    assert len(list_copies(provider.storage)) == 1


def test_a_write_where_nobody_samples_is_told_by_the_time(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, 64 << 20)
    os.utime(path, ns=(1, 1))
    origin = Origin(str(path))
    mark = take_mark(origin)
    assert not changed_since(mark, origin)
    os.pwrite(origin.fd, b"elsewhere", (1 << 20) - 8192)
    assert take_mark(origin).digest == mark.digest and "modification time" in changed_since(mark, origin)
    origin.close()
