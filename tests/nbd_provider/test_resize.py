"""A volume that grows while it is served: clients, copies from before and after, readers that were there already."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shadowset.nbd_provider.store.changes import Run, changed_runs
from shadowset.nbd_provider.store.files import Words
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.vss import provider_protocol as m
from shadowset.vss.codes import Code

MIB = 1 << 20
OLD_SIZE = 16 * MIB - 1536
NEW_SIZE = 40 * MIB + 512


def client_of(nbd_module: Any, provider: Any) -> Any:
    client = nbd_module.NBD()
    client.add_meta_context("base:allocation")
    client.connect_uri(provider.uri)
    return client


def same(provider: Any, reader: CopyReader, expected: bytes) -> bool:
    fresh = CopyReader(provider.storage, provider.origin, reader.entry.copy_id)
    contents = [each.read(0, NEW_SIZE) for each in (reader, fresh)]
    fresh.close()
    return contents == [expected, expected]


@pytest.fixture
def odd_provider(workdir: str, provider_class: Any) -> Any:
    """Its last chunk is partial, so that growing changes a chunk that copies already know."""
    made = provider_class(workdir, OLD_SIZE)
    Path(made.origin).write_bytes(os.urandom(OLD_SIZE))
    made.start()
    yield made
    made.close()
    assert "Traceback" not in made.log()


def test_a_volume_grows_under_its_clients(odd_provider: Any, nbd_module: Any) -> None:
    provider, control = odd_provider, odd_provider.control()
    before = Path(provider.origin).read_bytes()
    copy = control.snapshot(persistent=True)
    reader = CopyReader(provider.storage, provider.origin, UUID(copy))
    client = client_of(nbd_module, provider)
    client.pwrite(b"a" * 4096, OLD_SIZE - 4096)
    os.truncate(provider.origin, NEW_SIZE)
    assert control.value(m.Describe)["size"] == OLD_SIZE
    assert control.value(m.Resize)["size"] == NEW_SIZE
    assert control.value(m.Resize)["size"] == NEW_SIZE

    late = client_of(nbd_module, provider)
    assert late.get_size() == NEW_SIZE and client.get_size() == OLD_SIZE
    late.pwrite(b"b" * MIB, OLD_SIZE)
    late.pwrite(b"c" * 512, NEW_SIZE - 512)
    assert same(provider, reader, before)
    now = before[:-4096] + b"a" * 4096 + b"b" * MIB + bytes(NEW_SIZE - OLD_SIZE - MIB - 512) + b"c" * 512
    assert Path(provider.origin).read_bytes() == now
    chunk = 16384
    assert changed_runs(provider.storage, UUID(copy))[-1] == Run(OLD_SIZE // chunk, -(-NEW_SIZE // chunk))

    second = control.snapshot()
    later = CopyReader(provider.storage, provider.origin, UUID(second))
    late.pwrite(os.urandom(3 * MIB), OLD_SIZE - MIB)
    assert later.size == NEW_SIZE and same(provider, later, now) and same(provider, reader, before)
    provider.kill()
    provider.start()
    assert same(provider, later, now) and same(provider, reader, before)
    assert provider.control().value(m.Describe)["size"] == NEW_SIZE
    reader.close()
    later.close()


def test_a_smaller_origin_is_refused(provider: Any, nbd_module: Any) -> None:
    control = provider.control()
    os.truncate(provider.origin, provider.size - MIB)
    answer = control.call(m.Resize)
    assert answer.code == Code.VSS_E_VOLUME_NOT_SUPPORTED and "shrank" in answer.message
    os.truncate(provider.origin, provider.size + 100)
    answer = control.call(m.Resize)
    assert answer.code == Code.VSS_E_VOLUME_NOT_SUPPORTED and "512" in answer.message
    os.truncate(provider.origin, provider.size)
    assert control.value(m.Resize)["size"] == provider.size
    control.value(m.Hold)
    os.truncate(provider.origin, provider.size + MIB)
    assert control.call(m.Resize).code == Code.VSS_E_BAD_STATE
    control.value(m.Release)
    assert client_of(nbd_module, provider).get_size() == provider.size


def test_words_that_were_gained_get_disk_space_of_their_own(tmp_path: Path) -> None:
    """They lie in the step for which it was taken when the file was shorter."""
    head = tmp_path / "head"
    head.write_bytes(b"")
    os.truncate(head, 100 * 8)
    words = Words(str(head), 100)
    words.reserve((0,))
    os.truncate(head, 8000 * 8)
    words.enlarge(8000)
    assert not words.reserved((7000,))
    words.reserve((7000,))
    words.close()
    assert head.stat().st_blocks * 512 >= 8000 * 8
