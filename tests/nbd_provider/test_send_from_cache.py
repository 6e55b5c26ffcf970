"""Large live reads leave from the page cache: exact in every piece, and honest when the cache or the origin fails."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.nbd_provider import page_cache as page_cache_module
from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider import replies as replies_module
from shadowset.nbd_provider.connection import Connection
from shadowset.nbd_provider.copy_queue import at_once
from shadowset.nbd_provider.live_export import LiveDirectory, LiveExport
from shadowset.nbd_provider.page_cache import PageCache, fetch
from shadowset.nbd_provider.volume import Volume

SIZE = 8 << 20
STEP = 256 * 1024
PLACES = range(0, SIZE, STEP)
HELLO = 18
EXPORT_ANSWER = 10


class Host:
    """A connection without a loop: ``submitted`` is what threads would do."""

    def __init__(self, directory: str) -> None:
        self.content = os.urandom(SIZE)
        Path(f"{directory}/image").write_bytes(self.content)
        self.volume = Volume("vol", f"{directory}/image", f"{directory}/storage")
        self.submitted: list[tuple[Callable[[], Any], Callable[[object], None]]] = []
        self.client, server = socket.socketpair()
        self.client.settimeout(30)
        self.connection = Connection(server, LiveDirectory(self.volume), lambda *job: self.submitted.append(job))
        self.connection.flush()
        self.receive(HELLO)
        option = p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 3) + b"vol"
        self.send(b"\0\0\0\3" + option)
        self.receive(EXPORT_ANSWER)

    def send(self, data: bytes) -> None:
        self.client.sendall(data)
        self.connection.on_readable()

    def receive(self, count: int) -> bytes:
        parts = []
        while count:
            parts.append(self.client.recv(count))
            assert parts[-1], "the connection ended"
            count -= len(parts[-1])
        return b"".join(parts)

    def ask(self, *ranges: tuple[int, int]) -> None:
        """Reads; the cookie is the offset."""
        self.send(b"".join(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, start, start, n) for start, n in ranges))

    def run_threads(self) -> None:
        jobs, self.submitted = self.submitted, []
        for job in jobs:
            at_once(*job)

    def expect(self, start: int, length: int, step: int = 1 << 16) -> None:
        """One reply, taken in small steps, the server sending what has room in between."""
        wanted = p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, 0, start) + self.content[start : start + length]
        for place in range(0, len(wanted), step):
            piece = wanted[place : place + step]
            assert self.receive(len(piece)) == piece
            self.connection.flush()

    def close(self) -> None:
        self.client.close()
        self.connection.close()
        self.volume.close()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each sendfile took, on kernels that cannot be asked for the cache, too."""
    counts: list[int] = []
    real = os.sendfile

    def counting(*arguments: Any) -> int:
        counts.append(real(*arguments))
        return counts[-1]

    monkeypatch.setattr(PageCache, "_try", lambda _: True)
    monkeypatch.setattr(PageCache, "holds", lambda *_: True)
    monkeypatch.setattr(replies_module.os, "sendfile", counting)
    return counts


@pytest.fixture
def host(workdir: str, sent: list[int]) -> Iterator[Host]:
    made = Host(workdir)
    yield made
    made.close()


def test_a_slow_client_gets_every_byte(host: Host, sent: list[int]) -> None:
    host.ask(*((place, STEP) for place in PLACES))
    assert host.connection.wants_write
    for place in PLACES:
        host.expect(place, STEP)
    assert sum(sent) == SIZE and max(sent) <= STEP
    assert not host.connection.wants_write and not host.submitted


def test_small_and_odd_reads_between_large_ones(host: Host, sent: list[int]) -> None:
    ranges = [(1, 70_001), (5, 1), (100, STEP), (4096, 512), (8191, 3 << 20), (SIZE - 70_000, 70_000)]
    host.ask(*ranges)
    for start, length in ranges:
        host.expect(start, length)
    assert sum(sent) == sum(length for _, length in ranges if length >= 1 << 16)


def test_a_write_after_the_answer_is_not_in_it(host: Host) -> None:
    host.ask((0, STEP))
    host.expect(0, STEP)
    write = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 7, 0, STEP) + bytes(STEP)
    for place in range(0, len(write), 1 << 15):
        host.send(write[place : place + (1 << 15)])
    assert host.receive(16) == p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, 0, 7)
    host.content = bytes(STEP) + host.content[STEP:]
    host.ask((0, 2 * STEP))
    host.expect(0, 2 * STEP)


def test_what_leaves_the_cache_while_waiting_is_read_by_a_thread(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.ask(*((place, STEP) for place in PLACES))
    monkeypatch.setattr(PageCache, "holds", lambda *_: False)
    for place in PLACES:
        for _ in range(8):
            host.connection.flush()
            assert not (host.submitted and host.connection.wants_write)
            host.run_threads()
        host.expect(place, STEP, STEP + 16)
    assert not host.connection.wants_write


def wait_for_a_thread(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the front of the queue is to be read by a thread."""
    host.ask(*((place, STEP) for place in PLACES))
    monkeypatch.setattr(PageCache, "holds", lambda *_: False)
    while not host.submitted:
        host.client.recv(STEP)
        host.connection.flush()


@pytest.mark.parametrize("how", ["error", "end"])
def test_an_origin_that_fails_amid_a_reply_ends_the_connection(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    wait_for_a_thread(host, monkeypatch)
    if how == "error":
        host.submitted[0][1](OSError(errno.EIO, "Input/output error"))
    else:
        os.truncate(host.volume.origin.path, 0)
        host.run_threads()
    assert host.connection.closed
    assert "amid a reply" in caplog.text


def test_an_origin_that_ends_early_ends_the_connection(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    os.truncate(host.volume.origin.path, STEP // 2)
    host.ask((0, STEP))
    assert host.connection.closed
    assert f"the origin ends at byte {STEP // 2}" in caplog.text


def test_a_client_that_leaves_meanwhile(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_a_thread(host, monkeypatch)
    host.client.close()
    host.connection.close()
    host.run_threads()
    assert host.connection.closed and not host.submitted


def test_a_file_that_cannot_be_sent_is_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(replies_module.os, "sendfile", refuse)
    host.ask((4096, STEP))
    assert host.submitted
    host.run_threads()
    host.expect(4096, STEP)


def test_what_no_memory_has_is_fetched_by_a_thread_and_sent_by_the_loop(
    host: Host, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spied sendfile is also what fetches: each byte passes it twice, and no reading."""
    there: set[int] = set()
    monkeypatch.setattr(PageCache, "holds", lambda _, offset, __: offset in there)
    monkeypatch.setattr(LiveExport, "read_now", lambda *_: False)
    monkeypatch.setattr(LiveExport, "read", lambda *_: pytest.fail("it was copied"))
    host.ask((0, STEP), (3 * STEP, STEP))
    assert len(host.submitted) == 2 and not sent and not host.connection.wants_write
    there |= {0, 3 * STEP}
    host.run_threads()
    host.expect(0, STEP)
    host.expect(3 * STEP, STEP)
    assert sum(sent) == 4 * STEP and not host.submitted and host.connection.idle


def test_what_left_the_cache_before_it_was_sent_is_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PageCache, "holds", lambda *_: False)
    monkeypatch.setattr(LiveExport, "read_now", lambda *_: False)
    host.ask((STEP, STEP))
    host.run_threads()
    assert len(host.submitted) == 1 and not host.connection.wants_write, "not for ever"
    host.run_threads()
    host.expect(STEP, STEP)


def test_a_disk_that_fails_while_fetching_is_told_as_the_error_of_that_read(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(PageCache, "holds", lambda *_: False)
    monkeypatch.setattr(LiveExport, "read_now", lambda *_: False)
    monkeypatch.setattr(page_cache_module.os, "sendfile", fail)
    host.ask((STEP, STEP))
    host.run_threads()
    assert host.receive(16) == p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, p.ERRORS[errno.EIO], STEP)
    assert not host.connection.closed and host.connection.idle


def test_fetching_ends_where_the_file_ends_and_fills_the_cache(workdir: str) -> None:
    path = f"{workdir}/file"
    Path(path).write_bytes(b"\1" * SIZE)
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        fetch(fd, STEP, 2 * SIZE)
        target = bytearray(SIZE - STEP)
        assert os.preadv(fd, [target], STEP, os.RWF_NOWAIT) == len(target)
        assert target == b"\1" * len(target)
    finally:
        os.close(fd)


def test_only_a_plain_unix_socket_takes_files(workdir: str, sent: list[int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        image = f"{workdir}/image"
        Path(image).write_bytes(bytes(SIZE))
        volume = Volume("vol", image, f"{workdir}/storage")
        connection = Connection(accepted, LiveDirectory(volume), lambda *_: None)
        assert not connection._replies.sends_files
        connection.close()
        volume.close()


def test_the_cache_is_asked(workdir: str) -> None:
    path = f"{workdir}/file"
    Path(path).write_bytes(b"\1" * SIZE)
    fd = os.open(path, os.O_RDWR)
    try:
        cache = PageCache(fd, lambda offset, length: os.pread(fd, length, offset))
        if not cache.supported:
            pytest.skip("this kernel or file system cannot tell what is in the page cache")
        os.fsync(fd)
        os.pread(fd, SIZE, 0)
        assert cache.holds(0, SIZE) and cache.holds(4095, 2) and not cache.may_be_zero
        assert not cache.holds(SIZE - 4096, 8192)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # the whole file: a large folio goes as one
        assert not cache.holds(0, SIZE)
        os.pwrite(fd, bytes(STEP), 0)
        assert cache.holds(0, STEP) and cache.may_be_zero
    finally:
        os.close(fd)
