"""Reads that the module in C does are answered as those that take the ordinary way, and keep nobody waiting."""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import os
import random
import select
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset import nbd_provider
from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider import random_reads
from shadowset.nbd_provider.connection import Connection
from shadowset.nbd_provider.live_export import LiveDirectory
from shadowset.nbd_provider.random_reads import COMPILED, SECONDS, RandomReads, Result
from shadowset.nbd_provider.threads import Threads
from shadowset.nbd_provider.volume import Volume

pytestmark = pytest.mark.skipif(not COMPILED, reason="the module in C was not built: gcc or python3-dev missing")

CHUNK = 4096
SIZE = 64 << 20
STEP = 3 << 20
"""Further than what counts as reading on."""
TIMEOUT = 30


def read(cookie: int, offset: int, length: int = CHUNK, flags: int = 0, kind: int = p.CMD_READ) -> bytes:
    return p.REQUEST.pack(p.REQUEST_MAGIC, flags, kind, cookie, offset, length)


# ---- a client of a volume ----


class Client:
    """A connection, and what it was told."""

    def __init__(self, volume: Volume, threads: Threads, structured: bool, compiled: bool) -> None:
        self._socket, server = socket.socketpair()
        random_reads = threads.random_reads if compiled else None
        self.connection = Connection(server, LiveDirectory(volume), threads.submit, random_reads=random_reads)
        self.connection.flush()
        self._socket.setblocking(False)
        hello = b"\0\0\0\3"
        if structured:
            hello += p.OPTION.pack(p.OPTION_MAGIC, p.OPT_STRUCTURED_REPLY, 0)
        self.send(hello + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 3) + b"vol")
        self._socket.recv(1 << 16)
        self._structured = structured
        self._lengths: dict[int, int] = {}
        self._came = bytearray()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)
        self.connection.on_readable()

    def ask(self, *requests: tuple[int, int, int]) -> None:
        """Cookie, offset and length of reads."""
        self._lengths |= {cookie: length for cookie, _, length in requests}
        self.send(b"".join(read(*each) for each in requests))

    def answers(self) -> dict[int, bytes]:
        """The whole replies that have come, by cookie."""
        self.connection.flush()
        try:
            while data := self._socket.recv(1 << 20):
                self._came += data
                self.connection.flush()
        except BlockingIOError:
            pass
        found = {}
        while self._came:
            if self._structured:
                _, _, _, cookie, length = p.CHUNK.unpack_from(self._came)
                end = p.CHUNK.size + length
            else:
                _, error, cookie = p.SIMPLE_REPLY.unpack_from(self._came)
                end = p.SIMPLE_REPLY.size + (0 if error else self._lengths[cookie])
            if end > len(self._came):
                break
            found[cookie] = bytes(self._came[:end])
            del self._came[:end]
        return found

    def close(self) -> None:
        self.connection.close()
        self._socket.close()


class Host:
    """A volume on a disk, with the threads of its server and the part of the loop that they need."""

    def __init__(self, directory: Path) -> None:
        self.image = directory / "image"
        chance = random.Random(1)
        with open(self.image, "wb") as file:
            for at in range(0, SIZE, 1 << 20):
                file.seek(at)
                file.write(chance.randbytes(256 * 1024))
            file.truncate(SIZE)
            os.fsync(file.fileno())
        self.volume = Volume("vol", str(self.image), str(directory / "storage"), CHUNK)
        self.threads = Threads(2)
        self._clients: list[Client] = []

    def client(self, structured: bool = False, compiled: bool = True) -> Client:
        self._clients.append(Client(self.volume, self.threads, structured, compiled))
        return self._clients[-1]

    def turn(self) -> None:
        """One of the loop's, at whose end something has happened or a read has waited."""
        look = select.poll()
        look.register(self.threads.wake, select.POLLIN)
        patience = SECONDS if self.threads.random_reads.waiting else TIMEOUT
        if look.poll(patience * 1000):
            os.eventfd_read(self.threads.wake)
        self.threads.finish()

    def settle(self) -> None:
        while self.threads.busy:
            self.turn()

    def make_cold(self) -> None:
        with open(self.image, "rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        for each in self._clients:
            each.close()
        self.threads.stop()
        self.threads.close()
        self.volume.close()


@pytest.fixture
def host() -> Iterator[Host]:
    """On a disk, since a memory file system is never cold."""
    directory = Path(tempfile.mkdtemp(prefix="ss-disk-", dir="/var/tmp"))
    host = Host(directory)
    yield host
    host.close()
    shutil.rmtree(directory)


@pytest.mark.parametrize("structured", [False, True])
def test_they_are_like_those_that_take_the_ordinary_way(host: Host, structured: bool) -> None:
    clients = host.client(structured), host.client(structured, compiled=False)
    chance = random.Random(structured)
    done = 0
    for turn in range(12):
        requests = [
            (turn << 8 | each, chance.randrange(SIZE // 512) * 512, chance.choice((1, 512, *[CHUNK] * 9, 65535, 65536)))
            for each in range(chance.choice((1, 7, 40)))
        ]
        told: list[dict[int, bytes]] = []
        for client in clients:
            if turn % 3:
                host.make_cold()
            for start in range(0, len(requests), 4):
                client.ask(*requests[start : start + 4])
            done += host.threads.random_reads.under_way
            host.settle()
            told.append(client.answers())
        assert told[0] == told[1] and len(told[0]) == len(requests)
    assert done > 5, "the module does some of them"


def test_reads_and_writes_in_turn_are_all_done(host: Host) -> None:
    client, data = host.client(), b""
    places = [each * STEP for each in range(1, 20)]
    for at in places:
        request = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, at + 1, at + CHUNK, CHUNK) + b"n" * CHUNK
        data += read(at, at) + request + read(at + 2, at, kind=p.CMD_FLUSH)
    client._lengths = {at + more: CHUNK if not more else 0 for at in places for more in (0, 1, 2)}
    client.send(data)
    host.settle()
    answers = client.answers()
    assert len(answers) == 3 * len(places)
    content = host.image.read_bytes()
    for at in places:
        assert answers[at][16:] == content[at : at + CHUNK] and content[at + CHUNK : at + 2 * CHUNK] == b"n" * CHUNK


def test_a_client_that_reads_on_takes_the_ordinary_way(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read ahead for; and so does one that asks for large pieces, or with flags, or for what is not there."""
    begun: list[int] = []
    real = RandomReads.begin

    def begin(*all_: Any) -> random_reads.Begun:
        found = real(*all_)
        begun.append(found[0])
        return found

    monkeypatch.setattr(RandomReads, "begin", begin)
    client = host.client(True)
    client.ask((1, 10 << 20, CHUNK), (2, (10 << 20) + CHUNK, CHUNK), (3, 8 << 20, CHUNK))
    client.ask((4, 20 << 20, 65536), (5, SIZE, CHUNK), (6, SIZE - 1, 2))
    client.send(read(7, 30 << 20, flags=p.CMD_FLAG_DF) + read(8, 40 << 20, length=0))
    host.settle()
    assert set(client.answers()) == set(range(1, 9))
    assert sum(begun) == 1


def test_the_client_may_go_before_its_reads_arrive(host: Host) -> None:
    host.make_cold()
    gone, other = host.client(), host.client()
    requests = [(each, each * STEP, CHUNK) for each in range(1, 20)]
    gone.ask(*requests)
    gone.close()
    other.ask(*requests)
    host.settle()
    assert len(other.answers()) == len(requests)


# ---- a disk that does as a test says ----


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The module over slow_disk.h."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is missing")
    target = str(tmp_path_factory.mktemp("slow") / "_random_reads.so")
    source, header = Path(nbd_provider.__file__).with_name("random_reads.c"), Path(__file__).with_name("slow_disk.h")
    command = ["gcc", "-O1", "-shared", "-fPIC", "-DPy_LIMITED_API=0x030b0000", "-include", str(header), "-o", target]
    subprocess.run([*command, "-I", sysconfig.get_path("include"), str(source), "-lpthread"], check=True, timeout=300)
    return target


class Disk:
    """What slow_disk.h has."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)
        self.reset()

    def _set(self, kind: Any, name: str, value: int) -> None:
        kind.in_dll(self._library, name).value = value

    def reset(self) -> None:
        self.cold(True)
        self.stuck(-1)
        self.bad(-1)
        self.threads(1000)
        self._set(ctypes.c_int, "disk_started", 0)

    def cold(self, cold: bool) -> None:
        self._set(ctypes.c_int, "disk_is_cold", cold)

    def stuck(self, offset: int) -> None:
        """Reads of it do not end."""
        self._set(ctypes.c_longlong, "disk_stuck", offset)

    def bad(self, offset: int) -> None:
        """Reads of it fail."""
        self._set(ctypes.c_longlong, "disk_bad", offset)

    def threads(self, most: int) -> None:
        """The system gives no more of them."""
        self._set(ctypes.c_int, "disk_threads", most)


@pytest.fixture
def disk(built: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """To be named before ``host``, so that no thread waits for it at the end."""
    spec = importlib.util.spec_from_file_location("shadowset.nbd_provider._random_reads", built)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(random_reads, "_random_reads", module)
    made = Disk(built)
    yield made
    made.reset()


def far(*numbers: int) -> list[tuple[int, int, int]]:
    return [(number, number * STEP, CHUNK) for number in numbers]


@pytest.mark.parametrize("together", [True, False])
def test_a_slow_sector_keeps_nobody_waiting(disk: Disk, host: Host, together: bool) -> None:
    """Neither those that were asked for with it nor another client's."""
    one, other = host.client(), host.client()
    disk.stuck(STEP)
    try:
        for client, numbers in ((one, (1, 2, 3)), (other, (4, 5, 6, 7))):
            for part in (numbers,) if together else [(number,) for number in numbers]:
                client.ask(*far(*part))
        while host.threads.random_reads.under_way > 1:
            host.turn()
        assert set(one.answers()) == {2, 3} and set(other.answers()) == {4, 5, 6, 7}
    finally:
        disk.stuck(-1)
    host.settle()
    assert set(one.answers()) == {1}


def test_a_failing_read_answers_its_own_request_only(disk: Disk, host: Host) -> None:
    client, twin = host.client(True), host.client(True, compiled=False)
    disk.bad(2 * STEP)
    client.ask(*far(1, 2, 3))
    host.settle()
    answers = client.answers()
    twin.ask(*far(1, 3))
    host.settle()
    assert answers.pop(2).endswith(b"volume vol: read of 4096 bytes at byte 6291456 failed: Input/output error")
    assert answers == twin.answers()


def test_a_file_that_ends_early_is_an_error(host: Host) -> None:
    client = host.client()
    os.truncate(host.image, 2 * STEP + 100)
    client.ask(*far(1, 2, 3))
    host.settle()
    answers = client.answers()
    errors = {cookie: p.SIMPLE_REPLY.unpack_from(reply)[1] for cookie, reply in answers.items()}
    assert errors == {1: 0, 2: p.ERRORS[errno.EIO], 3: p.ERRORS[errno.EIO]}


@pytest.mark.parametrize("most", [0, 1, 3])
def test_fewer_threads_than_wished_do_all(disk: Disk, host: Host, most: int) -> None:
    """With none, Python's do."""
    disk.threads(most)
    client = host.client()
    client.ask(*far(*range(1, 21)))
    host.settle()
    assert set(client.answers()) == set(range(1, 21))


def test_a_stop_waits_for_reads_and_answers_them(disk: Disk, host: Host) -> None:
    client = host.client()
    disk.stuck(STEP)
    client.ask(*far(*range(1, 9)))
    timer = threading.Timer(0.3, disk.stuck, (-1,))
    timer.start()
    host.threads.stop()
    timer.join()
    assert set(client.answers()) == set(range(1, 9)) and not host.threads.busy


def test_the_client_of_a_stuck_read_may_go(disk: Disk, host: Host) -> None:
    client = host.client()
    disk.stuck(STEP)
    client.ask(*far(1, 2))
    export: Any = client.connection._transmission
    client.close()
    while host.threads.random_reads.under_way > 1:
        host.turn()
    assert not export.idle
    disk.stuck(-1)
    host.settle()
    assert export.idle


def test_a_child_does_not_wait_for_its_parents_threads(disk: Disk, host: Host) -> None:
    client = host.client()
    disk.stuck(STEP)
    client.ask(*far(1))
    child = os.fork()
    if not child:
        host.threads.random_reads._pool = None  # the last one that had it
        os._exit(7)
    status = os.waitpid(child, 0)[1]
    disk.stuck(-1)
    assert os.waitstatus_to_exitcode(status) == 7
    host.settle()
    assert set(client.answers()) == {1}


def test_what_waits_for_a_thread_is_done_before_threads_end(host: Host) -> None:
    """Whether they are at work, called, or idle at that moment."""
    wake, chance = os.eventfd(0, os.EFD_NONBLOCK), random.Random(3)
    fd = os.open(host.image, os.O_RDONLY)
    arrived: list[Result] = []

    class Owner:
        def arrived(self, results: list[Result], length: int) -> None:
            arrived.extend(results)

    for _ in range(8):
        pool, begun = RandomReads(wake), 0
        host.make_cold()
        for _ in range(20):
            places = [chance.randrange(SIZE // CHUNK) * CHUNK for _ in range(chance.choice((1, 5)))]
            requests = memoryview(b"".join(read(1, at) for at in places))
            begun += pool.begin(Owner(), fd, requests, SIZE, 2 * SIZE, 0, False)[3]
            pool.finish()
        pool.end()
        pool.finish()
        assert not pool.under_way and len(arrived) == begun
        arrived.clear()
    os.close(fd)
    os.close(wake)


def test_a_pool_that_is_forgotten_waits_for_its_threads(disk: Disk, host: Host) -> None:
    """They write into memory of Python's until then."""
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    pool = RandomReads(wake)
    fd = os.open(host.image, os.O_RDONLY)
    disk.stuck(STEP)
    got: list[Result] = []

    class Owner:
        def arrived(self, results: list[Result], length: int) -> None:
            got.extend(results)

    begun = pool.begin(Owner(), fd, memoryview(b"".join(read(*each) for each in far(1, 2, 3))), SIZE, 0, CHUNK, False)
    assert begun[0] == begun[3] == 3
    timer = threading.Timer(0.3, disk.stuck, (-1,))
    timer.start()
    del pool
    assert timer.finished.is_set()
    timer.join()
    assert os.eventfd_read(wake) and not got
    os.close(fd)
    os.close(wake)


def test_sixteen_threads_at_the_most(disk: Disk, host: Host) -> None:
    client = host.client()
    disk.stuck(STEP)
    client.ask(*((each, STEP if each % 2 else 2 * STEP + SIZE // 2, CHUNK) for each in range(1, 61)))
    assert ctypes.c_int.in_dll(disk._library, "disk_started").value <= 16
    until = 40
    while host.threads.random_reads.waiting and until:
        host.turn()
        until -= 1
    assert ctypes.c_int.in_dll(disk._library, "disk_started").value == 16
    disk.stuck(-1)
    host.settle()
    assert set(client.answers()) == set(range(1, 61))
