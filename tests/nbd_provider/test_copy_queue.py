"""Copy-out beside the loop: what goes on meanwhile; what a cut, a client, a deletion, a stop or an error does to it."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.connection import Connection
from shadowset.nbd_provider.live_export import LiveDirectory
from shadowset.nbd_provider.server import Server
from shadowset.nbd_provider.service import connect_gate
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.volume import Volume

CHUNK = 4096
SIZE = 12 << 20
WAIT = 60
REPLY = struct.Struct(">IIQ")
OWNER = object()


class Host:
    """A connection without a loop: a job waits in ``jobs`` until the test does it, here or in a thread."""

    def __init__(self, directory: str) -> None:
        self.origin, self.storage = f"{directory}/image", f"{directory}/storage"
        Path(self.origin).write_bytes(os.urandom(SIZE))
        self.volume = Volume("vol", self.origin, self.storage, CHUNK)
        self.jobs: list[tuple[Callable[[], Any], Callable[[object], None]]] = []
        self.client, server = socket.socketpair()
        self.client.settimeout(WAIT)
        self.volume.copies.submit = lambda *job: self.jobs.append(job)
        self.connection = Connection(server, LiveDirectory(self.volume), self.volume.copies.submit)
        self.volume.gate.opened.append(self.connection.release_held)
        self.connection.flush()
        greet(self.client, self.send)

    def send(self, data: bytes) -> None:
        self.client.sendall(data)
        self.connection.on_readable()

    def do_job(self) -> None:
        work, done = self.jobs.pop(0)
        done(outcome(work))

    def do_jobs(self) -> None:
        while self.jobs:
            self.do_job()

    def answers(self) -> dict[int, int]:
        """Errors by cookie of all answers that have come."""
        self.client.setblocking(False)
        try:
            data = self.client.recv(1 << 20)
        except BlockingIOError:
            data = b""
        self.client.settimeout(WAIT)
        return {cookie: error for _, error, cookie in REPLY.iter_unpack(data)}

    def cut(self, persistent: bool = True) -> UUID:
        copy = uuid4()
        self.volume.store.commit(copy, uuid4(), 1, persistent)
        self.volume.store.finish(copy)
        return copy

    def content(self) -> bytes:
        return Path(self.origin).read_bytes()

    def copy_content(self, copy: UUID) -> bytes:
        reader = CopyReader(self.storage, self.origin, copy)
        try:
            return reader.read(0, SIZE)
        finally:
            reader.close()

    def close(self) -> None:
        self.connection.close()
        self.do_jobs()
        self.client.close()
        self.volume.close()


class Blocked:
    """Old data reaches the storage only after ``go``; ``arrived`` tells that a thread is there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arrived, self.go = threading.Event(), threading.Event()
        real = os.pwritev

        def wait(*arguments: Any) -> int:
            self.arrived.set()
            assert self.go.wait(WAIT)
            return real(*arguments)

        monkeypatch.setattr(os, "pwritev", wait)


def outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        return error


def greet(client: socket.socket, send: Callable[[bytes], None]) -> None:
    receive(client, 18)
    send(b"\0\0\0\3" + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 3) + b"vol")
    receive(client, 10)


def receive(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = client.recv(count - len(data))
        assert more, "the connection ended"
        data += more
    return data


def write(cookie: int, chunk: int, count: int = 1) -> bytes:
    length = count * CHUNK
    return p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, cookie, chunk * CHUNK, length) + b"n" * length


def command(kind: int, cookie: int, chunk: int, count: int) -> bytes:
    return p.REQUEST.pack(p.REQUEST_MAGIC, 0, kind, cookie, chunk * CHUNK, count * CHUNK)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    logging.disable(logging.CRITICAL)
    made = Host(str(tmp_path))
    yield made
    made.close()
    logging.disable(logging.NOTSET)


def test_reads_and_other_writes_go_on_while_a_copy_out_waits(host: Host) -> None:
    copy, before = host.cut(), host.content()
    host.send(write(1, 5))
    host.do_jobs()
    assert host.answers() == {1: 0}
    host.send(write(2, 7) + write(3, 5) + command(p.CMD_READ, 4, 7, 1))
    data = receive(host.client, 2 * REPLY.size + CHUNK)
    assert REPLY.unpack(data[: REPLY.size])[1:] == (0, 3)
    assert REPLY.unpack(data[REPLY.size : 2 * REPLY.size])[1:] == (0, 4)
    assert data[2 * REPLY.size :] == before[7 * CHUNK : 8 * CHUNK] == host.content()[7 * CHUNK : 8 * CHUNK]
    host.do_jobs()
    assert host.answers() == {2: 0} and host.content()[7 * CHUNK : 8 * CHUNK] == b"n" * CHUNK
    assert host.copy_content(copy) == before


def test_writes_that_come_during_a_sync_share_the_next(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, before = host.cut(), host.content()
    syncs: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (syncs.append(fd), real(fd))[1])
    host.send(write(1, 0))
    for cookie in range(2, 9):
        host.send(write(cookie, cookie * 3))
    assert len(host.jobs) == 1
    host.do_job()
    assert host.answers() == {1: 0} and len(host.jobs) == 1 and len(syncs) == 1
    host.do_job()
    assert host.answers() == dict.fromkeys(range(2, 9), 0) and not host.jobs and len(syncs) == 2
    assert host.copy_content(copy) == before


def grow(host: Host) -> None:
    """The storage has space ahead then."""
    host.send(write(99, 0))
    host.do_jobs()
    assert host.answers() == {99: 0}


def test_a_copy_out_that_is_cheap_needs_no_thread(host: Host) -> None:
    copy, before = host.cut(persistent=False), host.content()
    host.send(write(1, 1))
    assert len(host.jobs) == 1, "the storage has to grow"
    host.do_jobs()
    assert host.answers() == {1: 0}
    host.send(write(2, 3))
    assert not host.jobs and host.answers() == {2: 0}
    assert host.copy_content(copy) == before


def test_answers_do_not_wait_for_the_copy_outs_of_other_writes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, before = host.cut(persistent=False), host.content()
    grow(host)
    answered: list[dict[int, int]] = []
    real = os.pwritev

    def look(*arguments: Any) -> int:
        answered.append(host.answers())
        return real(*arguments)

    monkeypatch.setattr(os, "pwritev", look)
    host.send(b"".join(write(cookie, cookie) for cookie in range(1, 7)) + write(10, 0))
    assert answered == [{10: 0}, {1: 0, 2: 0, 3: 0, 4: 0}] and host.answers() == {5: 0, 6: 0}
    assert host.copy_content(copy) == before and host.content()[: 7 * CHUNK] == b"n" * 7 * CHUNK


def test_a_client_that_goes_amid_its_writes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, before = host.cut(persistent=False), host.content()
    grow(host)
    monkeypatch.setattr(os, "pwritev", lambda *_: pytest.fail("nobody waits for it"))
    host.client.shutdown(socket.SHUT_RD)
    host.send(write(1, 0) + write(2, 5))
    assert host.connection.closed and not host.jobs
    assert host.content()[5 * CHUNK :] == before[5 * CHUNK :] and host.copy_content(copy)[CHUNK:] == before[CHUNK:]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EOPNOTSUPP])
def test_old_data_in_no_memory_is_for_a_thread(host: Host, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where the file system cannot be asked, the loop reads it without asking."""
    copy, before = host.cut(persistent=False), host.content()
    grow(host)
    real, asked = os.preadv, []

    def cold(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            asked.append(offset)
            raise OSError(number, "injected")
        return real(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", cold)
    for cookie in (1, 2):
        host.send(write(cookie, 4 * cookie))
    assert len(host.jobs) == (1 if number == errno.EAGAIN else 0)
    host.do_jobs()
    assert host.answers() == {1: 0, 2: 0} and host.copy_content(copy) == before
    assert len(asked) == 1, "the queue is busy, or it is known that asking is of no use"


def test_a_storage_that_was_slow_gets_a_thread_for_a_while(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, before = host.cut(persistent=False), host.content()
    grow(host)
    now, real = [1000.0], os.pwritev
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def slow(*arguments: Any) -> int:
        now[0] += 0.5
        return real(*arguments)

    with monkeypatch.context() as patches:
        patches.setattr(os, "pwritev", slow)
        host.send(write(1, 3))
        assert not host.jobs and host.answers() == {1: 0}, "nothing tells beforehand that it is slow"
        host.send(write(2, 5))
        assert len(host.jobs) == 1 and not host.answers()
    host.do_jobs()
    assert host.answers() == {2: 0}
    now[0] += 60
    host.send(write(3, 7))
    assert not host.jobs and host.answers() == {3: 0}
    assert host.copy_content(copy) == before


def test_the_loop_itself_loses_no_copy_for_room(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving back space goes through the whole storage, which is for a thread."""
    copy = host.cut(persistent=False)
    grow(host)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "injected")

    monkeypatch.setattr(os, "pwritev", full)
    host.send(write(1, 3))
    assert len(host.jobs) == 1 and not host.volume.store.table.find(copy).cause
    host.do_jobs()
    assert host.answers() == {1: 0}
    assert [each.lost for each in host.volume.describe(None).copies] == [True]


def test_a_gate_that_closes_meanwhile_holds_the_write(host: Host) -> None:
    first, before = host.cut(), host.content()
    host.send(write(1, 2))
    host.volume.hold(OWNER, 10_000)
    host.do_jobs()
    assert not host.answers() and host.content() == before
    second = str(uuid4())
    host.volume.commit(OWNER, second, str(uuid4()), 1, True)
    assert host.volume.release(OWNER).waited == 1
    assert not host.answers() and host.content() == before, "its old data is to be kept for the new copy first"
    host.do_jobs()
    assert host.answers() == {1: 0} and host.content() != before
    assert host.copy_content(first) == before == host.copy_content(UUID(second))


def test_a_cut_does_not_wait_for_a_copy_out(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    first, before = host.cut(), host.content()
    host.send(write(1, 2, 3))
    blocked = Blocked(monkeypatch)
    work, done = host.jobs.pop()
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(outcome(work)))
    thread.start()
    assert blocked.arrived.wait(WAIT)
    host.volume.hold(OWNER, 10_000)
    second = str(uuid4())
    host.volume.commit(OWNER, second, str(uuid4()), 1, True)
    host.volume.release(OWNER)
    host.send(command(p.CMD_READ, 9, 2, 1))
    assert receive(host.client, REPLY.size + CHUNK)[REPLY.size :] == before[2 * CHUNK : 3 * CHUNK]
    blocked.go.set()
    thread.join(WAIT)
    done(results[0])
    assert host.content() == before
    host.do_jobs()
    assert host.answers() == {1: 0} and host.content() != before
    assert host.copy_content(first) == before == host.copy_content(UUID(second))


@pytest.mark.parametrize("closed_before", ["work", "answer"])
def test_a_client_that_goes_meanwhile_has_written_nothing(host: Host, closed_before: str) -> None:
    copy, before = host.cut(), host.content()
    host.send(write(1, 4))
    work, done = host.jobs.pop()
    if closed_before == "work":
        host.connection.close()
    result = outcome(work)
    host.connection.close()
    done(result)
    assert host.content() == before == host.copy_content(copy)


def test_a_disconnect_waits_for_the_write(host: Host) -> None:
    host.cut()
    host.send(write(1, 4) + command(p.CMD_DISC, 2, 0, 0))
    assert not host.connection.closed
    host.do_jobs()
    assert host.connection.closed and host.answers() == {1: 0}
    assert host.content()[4 * CHUNK : 5 * CHUNK] == b"n" * CHUNK


def test_the_copy_is_deleted_before_its_copy_out(host: Host) -> None:
    copy = host.cut()
    host.send(write(1, 4))
    host.volume.store.delete(copy)
    host.do_jobs()
    assert host.answers() == {1: 0} and host.content()[4 * CHUNK : 5 * CHUNK] == b"n" * CHUNK


def test_a_deletion_during_a_copy_out_waits_for_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deletion is of the last copy, so that all slots go; a copy made after it must be right."""
    copy = host.cut()
    host.send(write(1, 4))
    blocked = Blocked(monkeypatch)
    work, done = host.jobs.pop()
    results: list[Any] = []
    copying = threading.Thread(target=lambda: results.append(outcome(work)))
    copying.start()
    assert blocked.arrived.wait(WAIT)
    deleting = threading.Thread(target=host.volume.store.delete, args=(copy,))
    deleting.start()
    assert host.volume.store.table.find(copy), "nothing of the deletion is done before the copy-out ends"
    blocked.go.set()
    copying.join(WAIT)
    deleting.join(WAIT)
    done(results[0])
    host.do_jobs()
    assert host.answers() == {1: 0} and not host.volume.store.table.entries
    later, before = host.cut(), host.content()
    host.send(write(2, 3, 3))
    host.do_jobs()
    assert host.answers() == {2: 0} and host.copy_content(later) == before


@pytest.mark.parametrize("policy", ["delete-oldest", "refuse-new", "protect-copies"])
def test_old_data_that_cannot_be_kept(host: Host, monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    host.volume.configure(None, policy, None)
    copy = host.cut()
    host.send(write(1, 1))
    host.do_jobs()
    assert host.answers() == {1: 0}
    before = host.content()

    def full(*_: Any) -> int:
        raise OSError(errno.EIO, "injected")

    with monkeypatch.context() as patches:
        patches.setattr(os, "pwritev", full)
        host.send(write(2, 4) + write(3, 1) + write(4, 9))
        host.do_jobs()
    answers = host.answers()
    if policy == "protect-copies":
        assert answers == {2: p.ERRORS[errno.EIO], 3: 0, 4: p.ERRORS[errno.EIO]}
        assert host.content() == before and not host.volume.describe(None).copies[0].lost
        host.send(write(5, 4))
        host.do_jobs()
        assert host.answers() == {5: 0}, "there is room again"
    else:
        assert answers == {2: 0, 3: 0, 4: 0}
        [told] = host.volume.describe(None).copies
        assert told.copy_id == str(copy) and told.lost
        assert [event.event for event in host.volume.events(0).events] == ["copy-lost"]


def test_an_error_nobody_thought_of_fails_the_writes_only(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.cut()
    before = host.content()
    with monkeypatch.context() as patches:
        patches.setattr(os, "pwritev", lambda *_: 1 // 0)
        host.send(write(1, 4) + write(2, 9))
        host.do_jobs()
    assert host.answers() == dict.fromkeys((1, 2), p.ERRORS[errno.EIO]) and host.content() == before
    host.send(write(3, 4))
    host.do_jobs()
    assert host.answers() == {3: 0}


def test_a_client_whose_write_can_never_be_answered_is_disconnected(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.cut()
    host.send(write(1, 4))
    monkeypatch.setattr(host.volume.store, "unkept", lambda _: 1 // 0)
    host.do_jobs()
    assert host.connection.closed and host.client.recv(1) == b""


def test_zeroing_waits_step_by_step(host: Host) -> None:
    copy, before = host.cut(), host.content()
    count = SIZE // CHUNK - 7
    host.send(command(p.CMD_WRITE_ZEROES, 1, 3, count))
    host.do_job()
    assert not host.answers() and host.jobs
    host.volume.hold(OWNER, 10_000)
    host.do_jobs()
    assert not host.answers()
    second, half = str(uuid4()), host.content()
    host.volume.commit(OWNER, second, str(uuid4()), 1, True)
    host.volume.release(OWNER)
    host.do_jobs()
    assert host.answers() == {1: 0}
    assert host.content() == before[: 3 * CHUNK] + bytes(count * CHUNK) + before[(3 + count) * CHUNK :]
    assert host.copy_content(copy) == before and host.copy_content(UUID(second)) == half


def test_a_stop_finishes_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(tmp_path / "image").write_bytes(os.urandom(SIZE))
    volume = Volume("vol", f"{tmp_path}/image", f"{tmp_path}/storage", CHUNK)
    volume.store.commit(uuid4(), uuid4(), 1, True)
    server = Server(LiveDirectory(volume))
    connect_gate(server, volume)
    listener, address = socket.socket(socket.AF_UNIX), f"\0ss-{uuid4()}"
    listener.bind(address)
    listener.listen()
    listener.setblocking(False)
    server.serve_nbd(listener, keep=True)
    loop = threading.Thread(target=server.run)
    blocked = Blocked(monkeypatch)
    loop.start()
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(WAIT)
    client.connect(address)
    greet(client, client.sendall)
    length = CHUNK
    head = p.REQUEST.pack(p.REQUEST_MAGIC, p.CMD_FLAG_FUA, p.CMD_WRITE, 1, 0, length)
    client.sendall(head + b"n" * length)
    assert blocked.arrived.wait(WAIT)
    client.sendall(command(p.CMD_READ, 2, 0, 1))
    assert REPLY.unpack(receive(client, REPLY.size + CHUNK)[: REPLY.size])[1:] == (0, 2)
    server.stop()
    blocked.go.set()
    assert REPLY.unpack(receive(client, REPLY.size))[1:] == (0, 1)
    assert client.recv(1) == b""
    loop.join(WAIT)
    assert not loop.is_alive() and Path(tmp_path / "image").read_bytes()[:CHUNK] == b"n" * CHUNK
    client.close()
    volume.close()
