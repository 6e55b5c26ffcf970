"""A client that asks again before it has taken its answers is let go on before what it asked is taken."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.connection import Connection
from shadowset.nbd_provider.live_export import LiveDirectory
from shadowset.nbd_provider.volume import Volume

SIZE = 1 << 20
WRITE = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 1, 512, 4) + b"word"
READ = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, 2, 0, 100_000)
REPLY = p.SIMPLE_REPLY.size


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    origin = tmp_path / "image"
    origin.write_bytes(bytes(SIZE))
    volume = Volume("vol", str(origin), str(tmp_path / "storage"))
    yield volume
    volume.close()


def over_tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


class Client:
    def __init__(self, volume: Volume, pair: tuple[socket.socket, socket.socket]) -> None:
        self.sock, server = pair
        self.sock.settimeout(60)
        self.connection = Connection(server, LiveDirectory(volume), lambda work, done: done(work()))
        self.connection.flush()
        self.take(18)
        self.send(b"\0\0\0\3" + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 3) + b"vol")
        self.take(10)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)
        self.connection.sock.setblocking(True)  # what was sent over TCP may be under way
        self.connection.sock.recv(1, socket.MSG_PEEK)
        self.connection.sock.setblocking(False)
        self.connection.on_readable()

    def take(self, length: int) -> None:
        assert len(self.sock.recv(length, socket.MSG_WAITALL)) == length

    def close(self) -> None:
        self.sock.close()
        self.connection.close()


@pytest.fixture
def yields(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    monkeypatch.setattr(os, "sched_yield", lambda: found.append(1))
    return found


def test_only_while_answers_are_left_to_take(volume: Volume, yields: list[int]) -> None:
    client = Client(volume, socket.socketpair())
    for _ in range(3):
        client.send(WRITE)
        client.take(REPLY)
    assert not yields, "one request at a time is answered at once"
    client.send(READ)
    client.send(WRITE)
    assert len(yields) == 1
    client.take(REPLY + 50_000)
    client.send(WRITE)
    assert len(yields) == 2, "half an answer"
    client.take(50_000 + 2 * REPLY)
    client.send(WRITE)
    client.take(REPLY)
    assert len(yields) == 2
    client.close()


def test_not_for_those_on_other_machines(volume: Volume, yields: list[int]) -> None:
    client = Client(volume, over_tcp())
    for _ in range(3):
        client.send(WRITE)
    client.take(3 * REPLY)
    assert not yields
    client.close()


def test_what_comes_meanwhile_is_taken_too(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(volume, socket.socketpair())
    received: list[int] = []
    real = client.connection._receive

    def receive(target: Any) -> int:
        received.append(real(target))
        return received[-1]

    client.connection._receive = receive
    monkeypatch.setattr(os, "sched_yield", lambda: client.sock.sendall(4 * WRITE))
    client.send(WRITE)
    client.send(WRITE)
    assert received == [len(WRITE), 5 * len(WRITE)]
    client.take(6 * REPLY)
    client.close()
