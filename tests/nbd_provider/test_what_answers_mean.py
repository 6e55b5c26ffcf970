"""What a client may believe: after FUA or a flush all is on the disk, held writes change nothing, copies stay exact."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from itertools import count, product
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.copy_queue import at_once
from shadowset.nbd_provider.live_export import LiveExport
from shadowset.nbd_provider.replies import Replies
from shadowset.nbd_provider.requests import RequestBuffer
from shadowset.nbd_provider.store.changes import changed_runs
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.transmission import Transmission
from shadowset.nbd_provider.volume import Volume

CHUNK = 4096
SIZE = 40 * CHUNK - 512
OWNER = object()
OTHER = bytes([1, *(byte % 255 + 1 for byte in range(1, 256))])
"""Another byte for each, none of them zero."""
CHANGES = (p.CMD_WRITE, p.CMD_TRIM, p.CMD_WRITE_ZEROES)
COPIES = (None, False, True)
"""No copy, an auto-release one, a persistent one."""


class Disk:
    """A volume on a disk that keeps what was synced only: ``durable``. Threads' work is done when asked for."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, size: int = SIZE) -> None:
        self.path = directory / "image"
        self.path.write_bytes(os.urandom(size).translate(OTHER))
        self.volume = Volume("vol", str(self.path), str(directory / "storage"), CHUNK)
        self.jobs: list[tuple[Callable[[], Any], Callable[[object], None]]] = []
        self.volume.copies.submit = self.submit
        self.durable = self.content
        self.failing = False
        real = os.fdatasync

        def sync(fd: int) -> None:
            if fd == self.volume.origin.fd:
                if self.failing:
                    raise OSError(errno.EIO, "a dying disk")
                self.durable = self.content
            real(fd)

        monkeypatch.setattr(os, "fdatasync", sync)

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()

    def submit(self, *job: Any) -> None:
        self.jobs.append(job)

    def do_jobs(self) -> None:
        while self.jobs:
            at_once(*self.jobs.pop(0))

    def cut(self, persistent: bool | None) -> UUID:
        copy = uuid4()
        if persistent is not None:
            self.volume.store.commit(copy, uuid4(), 1, persistent)
            self.volume.store.finish(copy)
        return copy

    def copy(self, copy: UUID) -> bytes:
        reader = CopyReader(self.volume.store.storage, str(self.path), copy)
        try:
            return reader.read(0, SIZE)
        finally:
            reader.close()

    def changed(self, copy: UUID) -> set[int]:
        runs = changed_runs(self.volume.store.storage, copy)
        return {chunk for run in runs for chunk in range(run.first, run.end)}


def nothing() -> None:
    """Whoever looks for answers does so by itself."""


class Client:
    """One connection."""

    def __init__(self, disk: Disk) -> None:
        self.replies, self._cookies, self._disk = Replies(), count(1), disk
        export: Any = LiveExport(disk.volume)
        self.transmission = Transmission(export, (), self.replies, disk.submit, nothing, nothing, nothing)
        disk.volume.gate.opened.append(self.transmission.release_held)

    def ask(self, kind: int, flags: int = 0, offset: int = CHUNK // 2, length: int = 9 * CHUNK) -> int:
        data = self._disk.content[offset : offset + length].translate(OTHER) if kind == p.CMD_WRITE else b""
        cookie, buffer = next(self._cookies), RequestBuffer()
        buffer.put(p.REQUEST.pack(p.REQUEST_MAGIC, flags, kind, cookie, offset, length) + data)
        self.transmission.do_plain(buffer)
        self.transmission.process(buffer.requests())
        return cookie

    def answers(self) -> dict[int, int]:
        """Errors by cookie of what was answered since the last look."""
        sent = bytearray()

        def sendmsg(pieces: Any) -> int:
            sent.extend(b"".join(pieces))
            return sum(map(len, pieces))

        self.replies.send(sendmsg)
        return {cookie: error for _, error, cookie in p.SIMPLE_REPLY.iter_unpack(sent)}


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(tmp_path, monkeypatch)
    yield made
    made.failing = False
    made.volume.close()


@pytest.mark.parametrize("persistent", COPIES)
@pytest.mark.parametrize("kind", CHANGES)
def test_what_was_forced_is_durable_when_it_is_answered(disk: Disk, kind: int, persistent: bool | None) -> None:
    disk.cut(persistent)
    client, before = Client(disk), disk.content
    cookie = client.ask(kind, p.CMD_FLAG_FUA)
    assert not client.answers(), "nothing was synced yet"
    disk.do_jobs()
    assert client.answers() == {cookie: 0}
    assert disk.durable == disk.content and (disk.content != before or (persistent is not None and kind == p.CMD_TRIM))


@pytest.mark.parametrize("persistent", COPIES)
def test_a_flush_covers_what_others_were_answered(disk: Disk, persistent: bool | None) -> None:
    disk.cut(persistent)
    one, other = Client(disk), Client(disk)
    cookie = one.ask(p.CMD_WRITE)
    disk.do_jobs()
    assert one.answers() == {cookie: 0} and disk.durable != disk.content
    cookie = other.ask(p.CMD_FLUSH, 0, 0, 0)
    assert not other.answers()
    disk.do_jobs()
    assert other.answers() == {cookie: 0} and disk.durable == disk.content


def test_a_clean_end_leaves_nothing_to_the_cache(disk: Disk) -> None:
    client = Client(disk)
    client.ask(p.CMD_WRITE)
    assert disk.durable != disk.content
    disk.volume.close()
    assert disk.durable == disk.content
    disk.volume = Volume("vol", str(disk.path), disk.volume.store.storage)


def test_old_data_that_is_in_memory_in_part_is_read_whole(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for without waiting, the kernel gives what it has."""
    client, copy, before = Client(disk), disk.cut(False), disk.content
    client.ask(p.CMD_WRITE, 0, 20 * CHUNK, 1)  # room for slots is taken now
    disk.do_jobs()
    real, short = os.preadv, []

    def preadv(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if fd == disk.volume.origin.fd and flags & os.RWF_NOWAIT:
            short.append(offset)
            buffers = [buffers[0][: len(buffers[0]) // 2]]
        return real(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", preadv)
    client.ask(p.CMD_WRITE)
    disk.do_jobs()
    assert short and len(client.answers()) == 2
    assert disk.copy(copy) == before


@pytest.mark.parametrize("kind", [*CHANGES, p.CMD_FLUSH])
def test_what_could_not_be_synced_is_an_error(disk: Disk, kind: int) -> None:
    client, disk.failing = Client(disk), True
    length = 0 if kind == p.CMD_FLUSH else CHUNK
    cookie = client.ask(kind, 0 if kind == p.CMD_FLUSH else p.CMD_FLAG_FUA, 0, length)
    disk.do_jobs()
    assert client.answers() == {cookie: p.ERRORS[errno.EIO]}


@pytest.mark.parametrize("flags", [0, p.CMD_FLAG_FUA])
@pytest.mark.parametrize("kind", CHANGES)
def test_nothing_changes_while_writes_are_held(disk: Disk, kind: int, flags: int) -> None:
    client, before = Client(disk), disk.content
    disk.volume.hold(OWNER, 10_000)
    cookie = client.ask(kind, flags)
    flush = client.ask(p.CMD_FLUSH, 0, 0, 0)
    disk.do_jobs()
    assert client.answers() == {flush: 0} and disk.content == before
    released = disk.volume.release(OWNER)
    disk.do_jobs()
    assert client.answers() == {cookie: 0} and disk.content != before and released.waited == 1


def test_more_than_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path, monkeypatch, p.MAXIMUM_PAYLOAD + CHUNK)
    client = Client(disk)
    cookie = client.ask(p.CMD_READ, 0, 0, p.MAXIMUM_PAYLOAD + 1)
    disk.do_jobs()
    assert client.answers() == {cookie: p.ERRORS[errno.EINVAL]}
    disk.volume.close()


EDGES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1)
RANGES = [
    (start, end) for start, end in product(EDGES, (*EDGES, 3 * CHUNK - 1, 3 * CHUNK, 3 * CHUNK + 1)) if start < end
]
RANGES += [(SIZE - back, SIZE) for back in (1, 511, 512, CHUNK - 513, CHUNK - 512, CHUNK - 511, 2 * CHUNK - 512)]


@pytest.mark.parametrize("kept", ["nothing", "all but the first", "all but the last"])
@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_from_and_to_any_edge_of_a_chunk_reaches_no_copy(disk: Disk, kind: int, kept: str) -> None:
    """Where old content of other chunks of the range is kept already, and where not."""
    client = Client(disk)
    disk.cut(False)  # it stays, or each of the others would begin with a fresh storage
    for start, end in RANGES:
        copy, before = disk.cut(False), disk.content
        chunks = list(range(start // CHUNK, (end - 1) // CHUNK + 1))
        for chunk in {"nothing": [], "all but the first": chunks[1:], "all but the last": chunks[:-1]}[kept]:
            client.ask(p.CMD_WRITE, 0, chunk * CHUNK, min(100, SIZE - chunk * CHUNK))
        disk.do_jobs()
        outside = disk.content[:start], disk.content[end:]
        cookie = client.ask(kind, 0, start, end - start)
        disk.do_jobs()
        assert client.answers()[cookie] == 0
        now = disk.content
        assert kind == p.CMD_TRIM or now[start:end] != before[start:end]
        assert (now[:start], now[end:]) == outside, (start, end)
        assert disk.copy(copy) == before, (start, end)
        different = {at // CHUNK for at in range(0, SIZE, CHUNK) if now[at : at + CHUNK] != before[at : at + CHUNK]}
        assert different <= disk.changed(copy), (start, end)
        disk.volume.store.delete(copy)
        client.ask(p.CMD_WRITE, 0, 0, SIZE)
        disk.do_jobs()
        client.answers()
