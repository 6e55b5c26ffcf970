"""Large reads of a copy in a row leave as they are read, and those that cannot are answered among them."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.connection import Connection
from shadowset.nbd_provider.copy_export import CopyDirectory
from shadowset.nbd_provider.copy_queue import at_once
from shadowset.nbd_provider.store import copy_files, resident
from shadowset.nbd_provider.store.rows import list_copies
from shadowset.nbd_provider.store.writer import ShadowStore

SIZE = 8 << 20
STEP = 256 * 1024
COPY = UUID(int=7)
HELLO, EXPORT_ANSWER = 18, 10

pytestmark = pytest.mark.skipif(
    not resident.COMPILED, reason="the module in C was not built: gcc or python3-dev missing"
)


class Host:
    """A copy, some chunks of which are in slots, and a connection to it without a loop."""

    def __init__(self, directory: str) -> None:
        self.content = os.urandom(SIZE - 2 * STEP) + bytes(STEP) + os.urandom(STEP)
        Path(f"{directory}/origin").write_bytes(self.content)
        self._fd = os.open(f"{directory}/origin", os.O_RDWR)
        self.store = ShadowStore(f"{directory}/storage", self._fd, SIZE)
        self.store.commit(COPY, COPY, 1, False)
        for offset in range(0, SIZE, 7 * 16384):
            self.store.prepare_write([(offset, 4096)])
            os.pwrite(self._fd, b"n" * 4096, offset)
        copies = CopyDirectory(self.store.storage, f"{directory}/origin", lambda: list_copies(self.store.storage))
        self.jobs: list[tuple[Callable[[], Any], Callable[[object], None]]] = []
        self.client, server = socket.socketpair()
        self.client.settimeout(30)
        self.connection = Connection(server, copies, lambda *job: self.jobs.append(job))
        self.connection.flush()
        self.receive(HELLO)
        self.send(b"\0\0\0\3" + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 0))
        self.receive(EXPORT_ANSWER)

    def send(self, data: bytes) -> None:
        self.client.sendall(data)
        self.connection.on_readable()

    def receive(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            data += self.client.recv(count - len(data))
        return bytes(data)

    def read(self, *ranges: tuple[int, int]) -> list[int | bytes]:
        """Ask for them at once; the client takes the answers, bytes or error numbers, while others are made."""
        got: dict[int, int | bytes] = {}

        def take() -> None:
            for _ in ranges:
                _, error, cookie = p.SIMPLE_REPLY.unpack(self.receive(p.SIMPLE_REPLY.size))
                got[cookie] = error or self.receive(ranges[cookie][1])

        client = threading.Thread(target=take)
        self.send(b"".join(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, n, *each) for n, each in enumerate(ranges)))
        client.start()
        while client.is_alive():
            while self.jobs:
                at_once(*self.jobs.pop())
            self.connection.flush()
            client.join(0.001)
        return [got[number] for number in range(len(ranges))]

    def right(self, *ranges: tuple[int, int]) -> bool:
        return self.read(*ranges) == [self.content[start : start + length] for start, length in ranges]

    def close(self) -> None:
        self.connection.close()
        self.client.close()
        self.store.close()
        os.close(self._fd)


@pytest.fixture
def host(workdir: str) -> Any:
    made = Host(workdir)
    yield made
    made.close()


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many replies each call has done."""
    counts: list[int] = []

    def send_copy(*arguments: Any) -> tuple[int, int, int]:
        result = real(*arguments)
        counts.append(result[0])
        return result

    real = resident.send_copy
    monkeypatch.setattr(copy_files.resident, "send_copy", send_copy)
    return counts


def test_reads_in_a_row(host: Host, streamed: list[int]) -> None:
    """More than the socket takes, with zeros among them; the first ones only open the segment."""
    for _ in range(3):
        assert host.right(*[(start, STEP) for start in range(0, SIZE, STEP)])
    assert sum(streamed) > 3


def test_reads_of_all_sizes_out_of_order(host: Host, streamed: list[int]) -> None:
    ranges = [(0, 1 << 20), (1 << 20, 100_000), ((1 << 20) + 100_000, 7), (SIZE - STEP, STEP), (5, 3 << 20), (9, 512)]
    for _ in range(3):
        assert host.right(*ranges)
    assert sum(streamed) > 3


def test_a_read_beyond_the_end_among_others(host: Host) -> None:
    assert host.right((0, STEP))
    good, bad = host.read((SIZE - STEP, STEP), (SIZE, STEP))
    assert good == host.content[-STEP:] and bad == p.ERRORS[errno.EINVAL]
    assert host.right((0, STEP), (STEP, STEP))


def test_a_copy_that_goes_meanwhile(host: Host, streamed: list[int]) -> None:
    for _ in range(2):
        assert host.right((0, STEP), (STEP, STEP))
    done = sum(streamed)
    host.store.delete(COPY)
    assert done and all(isinstance(answer, int) for answer in host.read((0, STEP), (STEP, STEP)))
    assert sum(streamed) == done
