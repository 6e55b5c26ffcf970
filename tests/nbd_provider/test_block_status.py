"""Maps of what is allocated and of what changed, as foreign clients see them, against a comparison of the bytes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shadowset.nbd_provider.store.changes import ChangeReader, ChangesLost, changed_runs
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss import provider_protocol as m
from shadowset.vss.codes import Code, VssError

CHUNK = 16 * 1024
BITMAP = "qemu:dirty-bitmap:"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def nbd_map(uri: str, context: str = "base:allocation") -> list[tuple[int, int, int]]:
    """(offset, length, flags) of the whole export, as nbdinfo prints it."""
    rows = json.loads(run("nbdinfo", f"--map={context}", "--json", uri))
    return [(row["offset"], row["length"], row["type"]) for row in rows]


def marked(rows: list[tuple[int, int, int]], size: int) -> set[int]:
    """Chunks in ranges with a flag; checks that the rows cover everything once."""
    place, chunks = 0, set()
    for offset, length, flags in rows:
        assert offset == place and length > 0
        place += length
        if flags:
            assert offset % CHUNK == 0
            chunks.update(range(offset // CHUNK, -(-place // CHUNK)))
    assert place == size
    return chunks


def differing(before: bytes, after: bytes) -> set[int]:
    return {at // CHUNK for at in range(0, len(before), CHUNK) if before[at : at + CHUNK] != after[at : at + CHUNK]}


def scribble(client: Any, chance: random.Random, size: int, count: int) -> None:
    """Writes of many sizes; some cross chunks."""
    for _ in range(count):
        length = chance.choice([512, 4096, 20000, 100000])
        client.pwrite(chance.randbytes(length), chance.randrange(size - length))


@pytest.fixture
def client(provider: Any, nbd_module: Any) -> Any:
    handle = nbd_module.NBD()
    handle.connect_uri(provider.uri)
    return handle


def test_map_of_allocation(provider: Any, client: Any, tools: Any) -> None:
    tools("nbdinfo", "qemu-img")
    client.pwrite(os.urandom(65536), 1 << 20)
    client.pwrite(os.urandom(65536), 12 << 20)
    copy = provider.control().snapshot()
    client.pwrite(os.urandom(65536), 8 << 20)
    client.pwrite(os.urandom(65536), 1 << 20)
    client.zero(65536, 12 << 20)
    client.flush()
    shadow = f"nbd+unix:///{copy}?socket={provider.export()}"
    hole, tail = 3, provider.size - (8 << 20) - 65536
    assert nbd_map(provider.uri) == [
        (0, 1 << 20, hole),
        (1 << 20, 65536, 0),
        ((1 << 20) + 65536, (7 << 20) - 65536, hole),
        (8 << 20, 65536, 0),
        ((8 << 20) + 65536, tail, hole),
    ]
    expected = provider.content(copy)
    for offset, length, flags in nbd_map(shadow):
        assert not flags or expected[offset : offset + length] == bytes(length)
    assert sum(length for _, length, flags in nbd_map(shadow) if not flags) == 3 * 65536
    rows = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", provider.uri))
    assert sum(row["length"] for row in rows if row["data"]) == 2 * 65536


@pytest.mark.vss(104)
def test_bitmaps_equal_a_comparison_of_the_images(provider: Any, client: Any, tools: Any, random_image: bytes) -> None:
    """Among many copies, some deleted, with writes before, between and after the cuts."""
    tools("nbdinfo")
    control, chance, copies = provider.control(), random.Random(1), []
    for _ in range(5):
        scribble(client, chance, provider.size, 20)
        copies.append(control.snapshot())
    scribble(client, chance, provider.size, 20)
    control.value(m.Delete, copy_id=copies.pop(2))
    time.sleep(0.3)
    client.flush()
    images = {copy: provider.content(copy) for copy in copies}
    now = Path(provider.origin).read_bytes()
    export = provider.export()
    for index, since in enumerate(copies):
        found = marked(nbd_map(provider.uri, BITMAP + since), provider.size)
        assert found == differing(images[since], now)
        for until in copies[index + 1 :]:
            found = marked(nbd_map(f"nbd+unix:///{until}?socket={export}", BITMAP + since), provider.size)
            assert found == differing(images[since], images[until])
            runs = changed_runs(provider.storage, UUID(since), UUID(until))
            assert {chunk for first, end in runs for chunk in range(first, end)} == found


def test_qemu_reads_the_bitmap(provider: Any, client: Any, tools: Any, random_image: bytes) -> None:
    tools("qemu-img")
    copy = provider.control().snapshot()
    client.pwrite(b"x" * 512, 5 * CHUNK)
    image = f"driver=nbd,export=vol,server.type=unix,server.path={provider.nbd},x-dirty-bitmap={BITMAP}{copy}"
    rows = json.loads(run("qemu-img", "map", "--output=json", "--image-opts", image))
    assert [(row["start"], row["length"]) for row in rows if not row["data"]] == [(5 * CHUNK, CHUNK)]


def test_incremental_backup_from_the_bitmap(
    provider: Any, client: Any, nbd_module: Any, tools: Any, random_image: bytes
) -> None:
    """The old image plus the chunks that are marked is the new one, also when the provider was killed in between."""
    chance = random.Random(2)
    scribble(client, chance, provider.size, 10)
    first = provider.control().snapshot(persistent=True)
    image = bytearray(provider.content(first))
    scribble(client, chance, provider.size, 10)
    provider.kill()
    provider.start()
    again = nbd_module.NBD()
    again.connect_uri(provider.uri)
    scribble(again, chance, provider.size, 10)
    second = provider.control().snapshot(persistent=True)
    scribble(again, chance, provider.size, 10)
    shadow = nbd_module.NBD()
    shadow.add_meta_context(BITMAP + first)
    shadow.connect_uri(f"nbd+unix:///{second}?socket={provider.export()}")
    copied = 0

    def take(context: str, offset: int, extents: list[int], error: int) -> int:
        nonlocal copied
        for length, flags in zip(extents[::2], extents[1::2], strict=True):
            if flags:
                image[offset : offset + length] = shadow.pread(length, offset)
                copied += length
            offset += length
        return 0

    changed: list[tuple[str, int, list[int], int]] = []
    shadow.block_status(provider.size, 0, lambda *row: changed.append(row) or 0)
    for row in changed:
        take(*row)
    assert bytes(image) == provider.content(second)
    assert 0 < copied < provider.size // 2


def test_contexts_come_and_go_with_their_copies(provider: Any, nbd_module: Any) -> None:
    control = provider.control()
    copies = [control.snapshot() for _ in range(3)]
    handle = nbd_module.NBD()
    handle.set_opt_mode(True)
    handle.connect_unix(provider.nbd)
    handle.set_export_name("vol")

    def listed(*queries: str) -> list[str]:
        names: list[str] = []
        handle.clear_meta_contexts()
        for query in queries:
            handle.add_meta_context(query)
        handle.opt_list_meta_context(lambda name: names.append(name) or 0)
        return names

    everything = ["base:allocation", *(BITMAP + copy for copy in copies)]
    assert listed() == everything
    assert listed("base:") == ["base:allocation"] and listed("qemu:") == listed(BITMAP) == everything[1:]
    assert listed(BITMAP + copies[1], "x-other:thing") == [everything[2]]
    control.value(m.Delete, copy_id=copies[0])
    assert listed() == [everything[0], *everything[2:]]
    handle.opt_abort()
    shadow = nbd_module.NBD()
    shadow.set_opt_mode(True)
    shadow.connect_unix(provider.export())
    shadow.set_export_name(copies[2])
    names: list[str] = []
    shadow.opt_list_meta_context(lambda name: names.append(name) or 0)
    assert names == ["base:allocation", BITMAP + copies[1]]
    shadow.opt_abort()


def test_a_deleted_copy_asks_for_a_full_backup(provider: Any, nbd_module: Any) -> None:
    control = provider.control()
    copy = control.snapshot()
    control.snapshot()
    handle = nbd_module.NBD()
    handle.add_meta_context(BITMAP + copy)
    handle.connect_uri(provider.uri)
    reader = ChangeReader(provider.storage, UUID(copy))
    handle.block_status(provider.size, 0, lambda *_: 0)
    control.value(m.Delete, copy_id=copy)
    with pytest.raises(nbd_module.Error):
        handle.block_status(provider.size, 0, lambda *_: 0)
    assert handle.pread(512, 0) == bytes(512)
    assert f"shadow copy {copy} no longer exists" in provider.log() and "make a full backup" in provider.log()
    with pytest.raises(ChangesLost, match="full backup"):
        list(reader.runs())
    reader.close()
    with pytest.raises(VssError, match="full backup") as caught:
        changed_runs(provider.storage, UUID(copy))
    assert caught.value.code == Code.VSS_E_OBJECT_NOT_FOUND


def test_changes_the_wrong_way_round(provider: Any) -> None:
    control = provider.control()
    first, second = UUID(control.snapshot()), UUID(control.snapshot())
    with pytest.raises(VssError, match="not later") as caught:
        changed_runs(provider.storage, second, first)
    assert caught.value.code == Code.E_INVALIDARG
    with pytest.raises(VssError):
        changed_runs(provider.storage, first, uuid4())
    assert changed_runs(provider.storage, first, second) == []


@pytest.mark.parametrize("size", [8 * CHUNK, 8 * CHUNK + 512])
def test_what_a_volume_grew_by_has_changed(workdir: str, size: int) -> None:
    path, storage = f"{workdir}/o", f"{workdir}/s"
    Path(path).write_bytes(os.urandom(size))
    fd = os.open(path, os.O_RDWR)
    store = ShadowStore(storage, fd, size)
    first, second, third = UUID(int=1), UUID(int=2), UUID(int=3)
    store.commit(first, UUID(int=9), 1, False)
    store.commit(second, UUID(int=9), 2, False)
    store.prepare_write([(7 * CHUNK, 1)])
    os.pwrite(fd, b"x", 7 * CHUNK)
    store.close()
    os.pwrite(fd, os.urandom(4 * CHUNK), size)
    grown = os.fstat(fd).st_size
    store = ShadowStore(storage, fd, grown)
    store.commit(third, UUID(int=9), 3, False)
    store.prepare_write([(CHUNK, 1), (10 * CHUNK, 1)])
    chunks = -(-grown // CHUNK)
    assert changed_runs(storage, first, second) == []
    assert changed_runs(storage, second, third) == changed_runs(storage, first, third) == [(7, chunks)]
    assert changed_runs(storage, first) == [(1, 2), (7, chunks)]
    assert changed_runs(storage, third) == [(1, 2), (10, 11)]
    assert changed_runs(storage, first, third, 9, 9) == [(9, 10)] and changed_runs(storage, first, third, 2, 6) == []
    store.close()
    os.close(fd)


def test_one_extent_when_one_is_asked_for(provider: Any, client: Any, nbd_module: Any) -> None:
    client.pwrite(b"x" * 4096, 1 << 20)
    handle = nbd_module.NBD()
    handle.add_meta_context("base:allocation")
    handle.connect_uri(provider.uri)
    rows: list[list[int]] = []
    handle.block_status(4 << 20, 0, lambda name, offset, extents, error: rows.append(extents) or 0)
    handle.block_status(
        4 << 20, 0, lambda name, offset, extents, error: rows.append(extents) or 0, nbd_module.CMD_FLAG_REQ_ONE
    )
    assert rows == [[1 << 20, 3, 4096, 0, (3 << 20) - 4096, 3], [1 << 20, 3]]


@pytest.fixture(params=["workdir", "memory"])
def sparse_place(request: pytest.FixtureRequest, workdir: str) -> Iterator[str]:
    """On the disk, and on a memory file system, where files may be larger."""
    if request.param == "workdir":
        yield workdir
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("needs a memory file system on /dev/shm")
    with tempfile.TemporaryDirectory(prefix="ss-", dir="/dev/shm") as directory:
        yield directory


def test_huge_sparse_volume(sparse_place: str, tools: Any, provider_class: Any, nbd_module: Any) -> None:
    """Neither the origin's holes nor the head's are walked: a 64 TiB volume has four thousand million chunks."""
    tools("nbdinfo")
    size = 64 << 40 if sparse_place.startswith("/dev/shm") else 4 << 40
    huge = provider_class(sparse_place, size)
    huge.start()
    try:
        client = nbd_module.NBD()
        client.connect_uri(huge.uri)
        copy = huge.control().snapshot()
        places = [0, size // 3 // CHUNK * CHUNK, size - CHUNK]
        for place in places:
            client.pwrite(b"x" * 512, place)
        client.shutdown()
        for context in (BITMAP + copy, "base:allocation"):
            rows = nbd_map(huge.uri, context)
            assert sum(length for _, length, _ in rows) == size
            inside = 1 if context.startswith(BITMAP) else 0
            assert [offset for offset, _, flags in rows if flags == inside] == places
    finally:
        huge.close()
