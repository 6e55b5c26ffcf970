"""A description waits for a look at the storage, and nobody waits for that look but who asked."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shadowset.nbd_provider.control import ControlClient
from shadowset.nbd_provider.volume import Volume
from shadowset.vss import provider_protocol as m
from shadowset.vss.wire import FrameDecoder, encode


class Host:
    """A control connection without a loop; looks wait in ``looks`` until the test does them."""

    def __init__(self, volume: Volume) -> None:
        self.looks: list[tuple[Callable[[], Any], Callable[[object], None]]] = []
        server: Any = SimpleNamespace(submit_look=lambda *job: self.looks.append(job))
        self.sock, other = socket.socketpair()
        self.client = ControlClient(other, volume, server)
        self._decoder: FrameDecoder[m.FromProvider] = FrameDecoder(m.FromProvider)
        self.sock.setblocking(False)

    def send(self, *calls: m.ToProvider) -> None:
        self.sock.sendall(b"".join(map(encode, calls)))
        self.client.on_readable()

    def answers(self) -> list[Any]:
        try:
            return list(self._decoder.feed(self.sock.recv(1 << 20)))
        except BlockingIOError:
            return []

    def look(self) -> None:
        work, done = self.looks.pop(0)
        done(work())

    def close(self) -> None:
        self.client.close()
        self.sock.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    origin = tmp_path / "image"
    origin.write_bytes(bytes(1 << 20))
    volume = Volume("vol", str(origin), str(tmp_path / "storage"))
    host = Host(volume)
    yield host
    host.close()
    volume.close()


def test_other_calls_are_answered_meanwhile(host: Host) -> None:
    host.send(m.Describe(1), m.Hold(2, timeout_ms=5000))
    assert [answer.seq for answer in host.answers()] == [2] and not host.client.idle
    host.send(m.Release(3))
    assert [answer.seq for answer in host.answers()] == [3]
    host.look()
    [told] = host.answers()
    assert told.seq == 1 and told.value["storage_used"] > 0 and told.value["storage_available"] > 0
    assert not told.value["holding"], "as things are when it is answered"
    assert host.client.idle


def test_a_storage_that_cannot_be_asked_has_no_room(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.send(m.Describe(1))
    with monkeypatch.context() as patches:
        patches.setattr(os, "statvfs", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        host.look()
    [told] = host.answers()
    assert (told.value["storage_used"], told.value["storage_available"]) == (0, 0)


def test_a_client_that_has_gone_is_told_nothing(host: Host) -> None:
    host.send(m.Describe(1))
    host.client.close()
    host.look()
    assert host.client.idle and not host.looks
