"""Requests under way, against a server in memory that answers when and in which order it likes."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowset.nbd_provider import protocol
from shadowset.nbd_provider.attach import client
from shadowset.nbd_provider.attach.pipeline import Pipeline, Request

SIZE = 1 << 16
MAGIC = 0x67446698


class MemoryServer:
    """Takes requests at once, carries them out at once, and answers later."""

    def __init__(self, disk: bytearray) -> None:
        self.disk = disk
        self.seen: list[tuple[int, int, int, int]] = []
        self.unanswered: list[bytes] = []
        self._buffer = b""
        self._sock: socket.socket | None = None

    def connect(self) -> socket.socket:
        self.kill()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._sock = ours
        return theirs

    def kill(self) -> None:
        self.unanswered.clear()
        self._buffer = b""
        if self._sock is not None:
            self._sock.close()

    def work(self) -> None:
        assert self._sock is not None
        with contextlib.suppress(BlockingIOError):
            while part := self._sock.recv(1 << 20):
                self._buffer += part
        while len(self._buffer) >= 28:
            _magic, flags, command, cookie, offset, length = struct.unpack_from(">IHHQQI", self._buffer)
            end = 28 + (length if command == protocol.CMD_WRITE else 0)
            if len(self._buffer) < end:
                return
            self._carry_out(command, flags, cookie, offset, length, self._buffer[28:end])
            self._buffer = self._buffer[end:]

    def _carry_out(self, command: int, flags: int, cookie: int, offset: int, length: int, data: bytes) -> None:
        self.seen.append((command, flags, offset, length))
        answer = struct.pack(">IIQ", MAGIC, 0, cookie)
        if command == protocol.CMD_READ:
            answer += self.disk[offset : offset + length]
        elif command == protocol.CMD_WRITE:
            self.disk[offset : offset + length] = data
        elif command == protocol.CMD_WRITE_ZEROES and offset + length <= len(self.disk):
            self.disk[offset : offset + length] = bytes(length)
        self.unanswered.append(answer)

    def answer(self, source: random.Random, count: int) -> None:
        assert self._sock is not None
        for _ in range(min(count, len(self.unanswered))):
            self.send(self.unanswered.pop(source.randrange(len(self.unanswered))))

    def send(self, data: bytes) -> None:
        assert self._sock is not None
        self._sock.sendall(data)


class Client:
    """A pipeline and what came out of it, by the requests' unique numbers."""

    def __init__(self, server: MemoryServer) -> None:
        self.results: dict[int, tuple[int, bytes]] = {}
        self.server = server
        self.pipeline = Pipeline(self._done)
        self.pipeline.attach(server.connect())

    def _done(self, request: Request, error: int, data: memoryview | None) -> None:
        assert request.unique not in self.results, "answered twice"
        self.results[request.unique] = (error, bytes(data or b""))

    def exchange(self, source: random.Random, answers: int = 1000) -> None:
        self.pipeline.send()
        self.server.work()
        self.server.answer(source, answers)
        self.pipeline.receive()

    def lose(self) -> None:
        self.server.kill()
        with pytest.raises(OSError):
            self.pipeline.receive()
            self.pipeline.receive()
        self.pipeline.lose()


@pytest.fixture
def made() -> Client:
    return Client(MemoryServer(bytearray(SIZE)))


SOURCE = random.Random(1)


def write(unique: int, offset: int, data: bytes) -> Request:
    return Request(unique, protocol.CMD_WRITE, offset, len(data), data=memoryview(data))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(["write", "read", "zero", "exchange", "kill"]), max_size=60))
def test_whatever_is_killed_every_request_is_answered_once_and_right(seed: int, steps: list[str]) -> None:
    """Blocks under way are left alone, as a block device does; the model changes when a request is made."""
    source = random.Random(seed)
    made = Client(MemoryServer(bytearray(SIZE)))
    model = bytearray(SIZE)
    expected: dict[int, bytes] = {}
    blocks: dict[int, int] = {}

    def submit(step: str) -> None:
        busy = {block for unique, block in blocks.items() if unique not in made.results}
        block = source.choice([number for number in range(SIZE // 512) if number not in busy])
        unique = len(expected) + 1
        blocks[unique], offset = block, block * 512
        expected[unique] = bytes(model[offset : offset + 512]) if step == "read" else b""
        if step == "write":
            model[offset : offset + 512] = source.randbytes(512)
            made.pipeline.submit(write(unique, offset, bytes(model[offset : offset + 512])))
            return
        if step == "zero":
            model[offset : offset + 512] = bytes(512)
        command = protocol.CMD_READ if step == "read" else protocol.CMD_WRITE_ZEROES
        made.pipeline.submit(Request(unique, command, offset, 512))

    for step in steps:
        if step == "exchange":
            made.exchange(source, source.randrange(4))
        elif step == "kill":
            made.pipeline.send()
            made.server.work()
            made.server.answer(source, source.randrange(3))
            made.lose()
            made.pipeline.attach(made.server.connect())
        else:
            submit(step)
    for _ in range(3):
        made.exchange(source)
    assert made.results == {unique: (0, data) for unique, data in expected.items()}
    assert made.server.disk == model and not made.pipeline.pending
    made.server.kill()
    made.pipeline.lose()


def test_requests_made_while_disconnected_go_out_with_the_next_connection(made: Client) -> None:
    made.lose()
    made.pipeline.submit(write(1, 0, b"abc"))
    made.pipeline.send()
    assert not made.results
    made.pipeline.attach(made.server.connect())
    made.exchange(SOURCE)
    assert made.results == {1: (0, b"")} and made.server.disk[:3] == b"abc"


def test_a_server_that_shuts_down_keeps_its_requests_for_the_next(made: Client) -> None:
    made.pipeline.submit(write(1, 0, b"abc"))
    made.pipeline.send()
    made.server.send(struct.pack(">IIQ", MAGIC, protocol.ESHUTDOWN, 1))
    with pytest.raises(ConnectionAbortedError):
        made.pipeline.receive()
    made.pipeline.lose()
    assert len(made.pipeline.pending) == 1 and not made.results


@pytest.mark.parametrize(
    ("number", "expected"), [(28, errno.ENOSPC), (1, errno.EPERM), (12345, errno.EIO), (95, errno.EOPNOTSUPP)]
)
def test_errors_are_translated_and_reads_with_errors_have_no_data(made: Client, number: int, expected: int) -> None:
    made.pipeline.submit(Request(1, protocol.CMD_READ, 0, 512))
    made.pipeline.submit(Request(2, protocol.CMD_READ, 0, 512))
    made.server.send(struct.pack(">IIQ", MAGIC, number, 1) + struct.pack(">IIQ", MAGIC, 0, 2) + b"y" * 512)
    made.pipeline.receive()
    assert made.results == {1: (expected, b""), 2: (0, b"y" * 512)}


@pytest.mark.parametrize("nonsense", [struct.pack(">IIQ", MAGIC, 0, 99), struct.pack(">IIQ", 0x668E33EF, 0, 1)])
def test_nonsense_ends_the_connection(made: Client, nonsense: bytes) -> None:
    made.pipeline.submit(Request(1, protocol.CMD_READ, 0, 512))
    made.server.send(nonsense)
    with pytest.raises(client.NbdError):
        made.pipeline.receive()


def test_an_answer_may_come_byte_by_byte(made: Client) -> None:
    made.pipeline.submit(Request(1, protocol.CMD_READ, 0, 512))
    for byte in struct.pack(">IIQ", MAGIC, 0, 1) + b"z" * 512:
        assert not made.results
        made.server.send(bytes([byte]))
        made.pipeline.receive()
    assert made.results == {1: (0, b"z" * 512)}


def test_long_ranges_go_in_pieces_that_nbd_can_say(made: Client) -> None:
    length = 9 << 30
    made.pipeline.submit(Request(1, protocol.CMD_WRITE_ZEROES, SIZE, length))
    while not made.results:
        made.exchange(SOURCE)
    assert sum(piece[3] for piece in made.server.seen) == length
    at = SIZE
    for _command, _flags, offset, piece in made.server.seen:
        assert offset == at and 0 < piece < 1 << 32
        at += piece
    assert made.results == {1: (0, b"")}


def test_all_fail_when_given_up(made: Client) -> None:
    made.pipeline.submit(write(1, 0, b"abc"))
    made.pipeline.submit(Request(2, protocol.CMD_FLUSH))
    made.pipeline.lose()
    made.pipeline.fail_all(errno.EIO)
    assert made.results == {1: (errno.EIO, b""), 2: (errno.EIO, b"")} and not made.pipeline.pending
