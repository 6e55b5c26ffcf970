"""Negotiation against servers that are wrong in one thing each."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from shadowset.nbd_provider import protocol
from shadowset.nbd_provider.attach import client

HELLO = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)


def reply(kind: int, payload: bytes = b"", magic: int = 0x0003E889045565A9, option: int = 7) -> bytes:
    return struct.pack(">QIII", magic, option, kind, len(payload)) + payload


def export(size: int = 1 << 20, flags: int = 0x165) -> bytes:
    return reply(3, struct.pack(">HQH", 0, size, flags))


def blocks(minimum: int, maximum: int) -> bytes:
    return reply(3, struct.pack(">HIII", 3, minimum, 4096, maximum))


ACK = reply(1)


class FakeServer:
    """Sends a greeting and, when the client has spoken, an answer; then waits."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.heard = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()

    def play(self, *parts: bytes | None, delay: float = 0.0) -> None:
        """Sends the parts in turn; None waits for the client's word first."""
        threading.Thread(target=self._play, args=(parts, delay), daemon=True).start()

    def _play(self, parts: tuple[bytes | None, ...], delay: float) -> None:
        connection, _ = self._listener.accept()
        with connection:
            try:
                for part in parts:
                    if part is None:
                        self.heard += connection.recv(65536)
                    else:
                        time.sleep(delay)
                        connection.sendall(part)
                if parts[-1] != b"":
                    connection.recv(65536)
            except OSError:
                return

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    made = FakeServer(str(tmp_path_factory.mktemp("n") / "s"))
    yield made
    made.close()


def test_export_flags_and_block_sizes_are_understood(server: FakeServer) -> None:
    server.play(HELLO, None, export(5 << 40, 0x165), blocks(4096, 1 << 25), reply(3, b"\0\2name"), ACK)
    sock, about = client.connect(server.path, "größe", 5)
    sock.close()
    assert (about.size, about.sector_size, about.maximum_payload) == (5 << 40, 4096, 1 << 25)
    assert about.can(protocol.FLAG_CAN_MULTI_CONN) and not about.can(protocol.FLAG_READ_ONLY)
    name = "größe".encode()
    expected = struct.pack(">I", len(name)) + name + struct.pack(">HH", 1, 3)
    assert server.heard == struct.pack(">IQII", 3, 0x49484156454F5054, 7, len(expected)) + expected


def test_without_block_sizes_sectors_are_small(server: FakeServer) -> None:
    server.play(HELLO, None, export(), ACK)
    sock, about = client.connect(server.path, "", 5)
    sock.close()
    assert (about.sector_size, about.maximum_payload) == (512, 32 << 20)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "newstyle"),
        ((HELLO[:16] + b"\0\0",), "newstyle"),
        ((HELLO, None, reply(0x80000006)), "no export of that name"),
        ((HELLO, None, reply(0x80000005)), "TLS"),
        ((HELLO, None, reply(0x80000001)), "NBD_OPT_GO"),
        ((HELLO, None, reply(0x80000063)), "error 99"),
        ((HELLO, None, reply(17)), "unknown reply 17"),
        ((HELLO, None, reply(1, magic=1)), "no option reply"),
        ((HELLO, None, reply(1, option=6)), "no option reply"),
        ((HELLO, None, struct.pack(">QIII", 0x0003E889045565A9, 7, 3, 1 << 30)), "no option reply"),
        ((HELLO, None, ACK), "does not describe"),
        ((HELLO, None, reply(3, b"\0\0short"), ACK), "does not describe"),
        ((HELLO, None, export(), blocks(3, 1 << 20), ACK), "impossible block sizes"),
        ((HELLO, None, export(), blocks(4096, 512), ACK), "impossible block sizes"),
        ((HELLO, None, export()[:10], b""), "closed the connection"),
        ((HELLO[:5], b""), "closed the connection"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(server: FakeServer, parts: tuple[bytes | None, ...], said: str) -> None:
    server.play(*parts)
    with pytest.raises(client.NbdError, match=said) as refusal:
        client.connect(server.path, "vol", 5)
    assert server.path in refusal.value.message


def _silent(server: FakeServer) -> None:
    server.play(HELLO[:3])


def _slow(server: FakeServer) -> None:
    server.play(*[HELLO[at : at + 1] for at in range(18)], None, delay=0.2)


@pytest.mark.parametrize("behaviour", [_silent, _slow])
def test_the_deadline_is_for_the_whole_negotiation(server: FakeServer, behaviour: Callable[[FakeServer], None]) -> None:
    behaviour(server)
    started = time.monotonic()
    with pytest.raises(client.NbdError, match=r"did not answer within 0\.5 s"):
        client.connect(server.path, "vol", 0.5)
    assert time.monotonic() - started < 3.5  # all that is sent takes 3.6


def test_a_socket_that_nobody_serves(server: FakeServer) -> None:
    server.close()
    with pytest.raises(client.NbdError, match="start the provider"):
        client.connect(server.path, "vol", 1)


def test_only_simple_replies_are_replies() -> None:
    assert client.unpack_reply(memoryview(struct.pack(">IIQ", 0x67446698, 5, 77)), 0) == (5, 77)
    with pytest.raises(client.NbdError, match="0x668e33ef"):
        client.unpack_reply(memoryview(struct.pack(">IIQ", 0x668E33EF, 0, 77)), 0)
