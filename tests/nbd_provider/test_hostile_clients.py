"""Malformed options, requests and frames: the culprit is sent away, the other clients are unharmed."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.connection import Connection
from shadowset.vss import provider_protocol as m

GO = struct.pack(">I", 3) + b"vol" + struct.pack(">H", 0)


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.settimeout(10)
    return sock


def read_all(sock: socket.socket) -> bytes:
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionError:
        pass
    return data


def exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece
        data += piece
    return data


def option(number: int, body: bytes = b"", magic: int = p.OPTION_MAGIC) -> bytes:
    return p.OPTION.pack(magic, number, len(body)) + body


@pytest.fixture
def witness(provider: Any, nbd_module: Any) -> Iterator[Any]:
    """A client that must notice nothing."""
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    client.pwrite(b"w" * 4096, 0)
    yield client
    assert client.pread(4096, 0) == b"w" * 4096
    client.pwrite(b"v" * 512, 4096)
    client.shutdown()


OPTIONS = {
    "wrong magic": p.CLIENT_FLAGS.pack(3) + option(p.OPT_LIST, magic=1),
    "unknown client flags": p.CLIENT_FLAGS.pack(0xFFFF),
    "huge option": p.CLIENT_FLAGS.pack(3) + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_GO, 0xFFFFFFFF),
    "unknown export by name": p.CLIENT_FLAGS.pack(3) + option(p.OPT_EXPORT_NAME, b"nonesuch"),
    "export name that is no text": p.CLIENT_FLAGS.pack(3) + option(p.OPT_EXPORT_NAME, b"\xff\xfe"),
}


@pytest.mark.parametrize("what", OPTIONS)
def test_bad_negotiation_ends_the_connection(provider: Any, witness: Any, what: str) -> None:
    sock = connect(provider.nbd)
    sock.sendall(OPTIONS[what])
    assert read_all(sock)[:8] == b"NBDMAGIC"
    sock.close()


ANSWERED = {
    "unknown option": (option(77, b"x"), p.REP_ERR_UNSUP),
    "STARTTLS without TLS": (option(p.OPT_STARTTLS), p.REP_ERR_UNSUP),
    "list with data": (option(p.OPT_LIST, b"x"), p.REP_ERR_INVALID),
    "go without data": (option(p.OPT_GO), p.REP_ERR_INVALID),
    "go with a name longer than its data": (option(p.OPT_GO, struct.pack(">I", 99) + b"ab"), p.REP_ERR_INVALID),
    "go with rubbish behind": (option(p.OPT_GO, GO + b"zz"), p.REP_ERR_INVALID),
    "info about an unknown export": (option(p.OPT_INFO, struct.pack(">I", 1) + b"q\0\0"), p.REP_ERR_UNKNOWN),
}


@pytest.mark.parametrize("what", ANSWERED)
def test_bad_options_are_answered_and_negotiation_goes_on(provider: Any, witness: Any, what: str) -> None:
    request, expected = ANSWERED[what]
    sock = connect(provider.nbd)
    exactly(sock, p.GREETING.size)
    sock.sendall(p.CLIENT_FLAGS.pack(3) + request)
    _, _, kind, length = p.OPTION_REPLY.unpack(exactly(sock, p.OPTION_REPLY.size))
    assert kind == expected
    exactly(sock, length)
    sock.sendall(option(p.OPT_ABORT))
    assert p.OPTION_REPLY.unpack(exactly(sock, p.OPTION_REPLY.size))[2] == p.REP_ACK
    assert read_all(sock) == b""
    sock.close()


def transmission(path: str) -> socket.socket:
    sock = connect(path)
    exactly(sock, p.GREETING.size)
    sock.sendall(p.CLIENT_FLAGS.pack(3) + option(p.OPT_EXPORT_NAME, b"vol"))
    exactly(sock, p.EXPORT_INFO.size)
    return sock


def test_negotiation_byte_by_byte(provider: Any, witness: Any) -> None:
    sock = connect(provider.nbd)
    for byte in p.CLIENT_FLAGS.pack(3) + option(p.OPT_EXPORT_NAME, b"vol"):
        sock.sendall(bytes([byte]))
    sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, 7, 0, 16))
    exactly(sock, p.GREETING.size + p.EXPORT_INFO.size)
    assert p.SIMPLE_REPLY.unpack(exactly(sock, p.SIMPLE_REPLY.size)) == (p.SIMPLE_REPLY_MAGIC, 0, 7)
    assert exactly(sock, 16) == b"w" * 16
    sock.close()


@pytest.mark.parametrize(
    ("kind", "flags", "offset", "length", "error"),
    [
        (99, 0, 0, 0, 22),
        (p.CMD_READ, 0x8000, 0, 512, 22),
        (p.CMD_READ, 0, 1 << 63, 512, 22),
        (p.CMD_READ, 0, 0, 0xFFFFFFFF, 22),
        (p.CMD_READ, 0, 0, 0, 22),
        (p.CMD_TRIM, 0, (1 << 64) - 1, 0xFFFFFFFF, 22),
        (p.CMD_WRITE_ZEROES, 0, 0, 0xFFFFFFFF, 28),
    ],
)
def test_bad_requests_get_an_error(
    provider: Any, witness: Any, kind: int, flags: int, offset: int, length: int, error: int
) -> None:
    sock = transmission(provider.nbd)
    sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, flags, kind, 1234, offset, length))
    assert p.SIMPLE_REPLY.unpack(exactly(sock, p.SIMPLE_REPLY.size)) == (p.SIMPLE_REPLY_MAGIC, error, 1234)
    sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, 5, 0, 4))
    assert exactly(sock, p.SIMPLE_REPLY.size + 4)[-4:] == b"wwww"
    sock.close()


def test_what_is_no_request_ends_the_connection(provider: Any, witness: Any) -> None:
    for rubbish in (b"\0" * 28, p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 1, 0, 0xFFFFFFFF)):
        sock = transmission(provider.nbd)
        sock.sendall(rubbish)
        assert read_all(sock) == b""
        sock.close()


def test_clients_that_vanish_or_do_not_read(provider: Any, witness: Any) -> None:
    lazy = transmission(provider.nbd)
    lazy.setblocking(False)
    request = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, 1, 0, 1 << 20)
    try:
        for _ in range(10000):
            lazy.send(request * 16)
    except BlockingIOError:
        pass
    half = transmission(provider.nbd)
    half.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 1, 0, 65536) + b"x" * 1000)
    half.close()
    assert witness.pread(512, 0) == b"w" * 512
    lazy.close()


def test_many_options_at_once_are_all_answered(provider: Any, witness: Any) -> None:
    sock = connect(provider.nbd)
    exactly(sock, p.GREETING.size)
    sock.sendall(p.CLIENT_FLAGS.pack(3) + option(77) * 501 + option(p.OPT_ABORT))
    answers = read_all(sock)
    kinds = []
    while answers:
        _, _, kind, length = p.OPTION_REPLY.unpack_from(answers)
        answers = answers[p.OPTION_REPLY.size + length :]
        kinds.append(kind)
    assert kinds == [p.REP_ERR_UNSUP] * 501 + [p.REP_ACK]


class Lists:
    """A directory whose list is long; ``asked`` says how often it was wanted."""

    asked = 0

    def names(self) -> list[str]:
        self.asked += 1
        return ["x" * 1000] * 100

    def find(self, name: str) -> None:
        return None


def test_who_asks_for_lists_without_taking_them_gets_few_and_others_their_turn() -> None:
    lists, jobs = Lists(), list[Any]()
    client, server = socket.socketpair()
    connection = Connection(server, lists, lambda work, done: jobs.append(done))
    client.sendall(p.CLIENT_FLAGS.pack(3) + option(p.OPT_LIST) * 100)
    connection.on_readable()
    assert lists.asked < 10 and jobs
    while jobs:
        jobs.pop()(None)
        assert not connection.wants_read
    assert lists.asked < 60
    client.setblocking(False)
    while lists.asked < 100 or connection.wants_write or jobs:
        with contextlib.suppress(BlockingIOError):
            client.recv(1 << 20)
        connection.flush()
        while jobs:
            jobs.pop()(None)
    assert connection.wants_read and not connection.closed
    connection.close()
    client.close()


def test_a_client_that_asks_about_each_of_many_copies(workdir: str, provider_class: Any, nbd_module: Any) -> None:
    """It has two descriptors for each; the usual limit would keep others out, and old data from being kept."""

    class Limited(provider_class):  # type: ignore[misc]
        def _spawn(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
            with open(f"{self.directory}/log", "ab") as log:
                command = ["prlimit", "--nofile=64:", sys.executable, "-m", module]
                return subprocess.Popen([*command, *arguments], stderr=log)

    provider = Limited(workdir)
    provider.start()
    server = provider.export()
    try:
        control = provider.control()
        copies = [control.snapshot() for _ in range(40)]
        for where in (provider.nbd, server):
            client = nbd_module.NBD()
            for copy in copies[:-1]:
                client.add_meta_context(f"{p.CONTEXT_DIRTY}{copy}")
            client.connect_unix(where)
            told = []
            client.block_status(65536, 0, lambda name, *_, told=told: told.append(name))
            assert len(told) == len(copies) - 1
            connect(where).close()
            client.shutdown()
    finally:
        provider.close()


SMALL_ANSWERS = {
    "plain writes": p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 7, 8192, 1) + b"x",
    "trims": p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_TRIM, 7, 8192, 512),
    "unknown commands": p.REQUEST.pack(p.REQUEST_MAGIC, 0, 99, 7, 0, 0),
}


@pytest.mark.parametrize("what", SMALL_ANSWERS)
def test_who_takes_no_answers_gets_no_more_done(provider: Any, witness: Any, what: str) -> None:
    """However small the answers are: they would fill the memory. All are there when the client takes them at last."""
    most = 24 << 20
    sock = transmission(provider.nbd)
    sock.setblocking(False)
    ready = select.poll()
    ready.register(sock, select.POLLOUT)
    request = SMALL_ANSWERS[what]
    sent = 0
    while sent < most and ready.poll(2000):
        sent += sock.send((request * 2000)[sent % len(request) :])
    assert sent < most
    sock.settimeout(10)
    count = sent // len(request) * p.SIMPLE_REPLY.size
    assert len(exactly(sock, count)) == count
    sock.close()


def test_random_bytes_never_stop_the_server(provider: Any, witness: Any) -> None:
    chance = random.Random(7)
    prefix = p.CLIENT_FLAGS.pack(3)
    for _ in range(300):
        sock = connect(provider.nbd)
        try:
            body = chance.randbytes(chance.randrange(80))
            if chance.random() < 0.5:
                body = prefix + p.OPTION.pack(p.OPTION_MAGIC, chance.randrange(12), len(body)) + body
            sock.sendall(body)
        except OSError:
            pass
        sock.close()
    assert provider.process.poll() is None


@pytest.mark.parametrize("frame", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\2\x81\xa1", b"\0\0\0\1\x90"])
def test_malformed_control_frames(provider: Any, witness: Any, frame: bytes) -> None:
    other = provider.control()
    sock = connect(provider.control_socket)
    sock.sendall(frame)
    answer = read_all(sock)
    sock.close()
    assert b"failed" in answer and b"E_INVALIDARG" in answer
    assert other.value(m.Describe)["name"] == "vol"
    other.close()
