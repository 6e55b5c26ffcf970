"""Malformed options and requests of the structured kind, and clients that ask for more than they take."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.nbd_provider import protocol as p

GO = struct.pack(">I", 3) + b"vol" + struct.pack(">H", 0)
INVALID, UNKNOWN, ACK = p.REP_ERR_INVALID, p.REP_ERR_UNKNOWN, p.REP_ACK


class Raw:
    """A client that may say what it likes."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(path)
        self.exactly(p.GREETING.size)
        self.sock.sendall(p.CLIENT_FLAGS.pack(3))

    def exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            assert piece, "the server closed the connection"
            data += piece
        return bytes(data)

    def option(self, number: int, body: bytes = b"") -> tuple[int, list[bytes]]:
        """Kind of the last reply and the contents of all."""
        self.sock.sendall(p.OPTION.pack(p.OPTION_MAGIC, number, len(body)) + body)
        contents = []
        while True:
            magic, replied, kind, length = p.OPTION_REPLY.unpack(self.exactly(p.OPTION_REPLY.size))
            assert (magic, replied) == (p.OPTION_REPLY_MAGIC, number)
            contents.append(self.exactly(length))
            if kind == ACK or kind & 1 << 31:
                return kind, contents

    def begin(self, *contexts: str, of: str = "vol") -> None:
        assert self.option(p.OPT_STRUCTURED_REPLY)[0] == ACK
        if contexts:
            assert self.option(p.OPT_SET_META_CONTEXT, queries(of, *contexts))[0] == ACK
        assert self.option(p.OPT_GO, GO)[0] == ACK

    def request(self, kind: int, flags: int, offset: int, length: int, cookie: int = 9) -> None:
        self.sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, flags, kind, cookie, offset, length))

    def chunk(self) -> tuple[int, int, bytes]:
        """Flags, kind and payload of one chunk."""
        magic, flags, kind, cookie, length = p.CHUNK.unpack(self.exactly(p.CHUNK.size))
        assert (magic, cookie) == (p.STRUCTURED_REPLY_MAGIC, 9)
        return flags, kind, self.exactly(length)

    def error(self) -> tuple[int, str]:
        flags, kind, payload = self.chunk()
        assert (flags, kind) == (p.REPLY_FLAG_DONE, p.REPLY_ERROR)
        number, length = p.CHUNK_ERROR.unpack_from(payload)
        assert len(payload) == p.CHUNK_ERROR.size + length
        return number, payload[p.CHUNK_ERROR.size :].decode()


def queries(name: str, *texts: str) -> bytes:
    encoded = [text.encode() for text in texts]
    body = struct.pack(">I", len(name)) + name.encode() + struct.pack(">I", len(encoded))
    return body + b"".join(struct.pack(">I", len(text)) + text for text in encoded)


@pytest.fixture
def raw(provider: Any, nbd_module: Any) -> Iterator[Raw]:
    witness = nbd_module.NBD()
    witness.connect_uri(provider.uri)
    witness.pwrite(b"w" * 4096, 0)
    client = Raw(provider.nbd)
    yield client
    client.sock.close()
    assert witness.pread(4096, 0) == b"w" * 4096
    witness.shutdown()


BODIES = {
    "nothing": (b"", INVALID),
    "a name longer than the option": (struct.pack(">I", 0xFFFFFFFF) + b"vol", INVALID),
    "no number of queries": (struct.pack(">I", 3) + b"vol", INVALID),
    "fewer queries than promised": (struct.pack(">I", 3) + b"vol" + struct.pack(">I", 0xFFFFFFFF), INVALID),
    "a query longer than the option": (struct.pack(">I3sII", 3, b"vol", 1, 0xFFFFFFFF), INVALID),
    "a query that is no text": (struct.pack(">I3sII", 3, b"vol", 1, 2) + b"\xff\xfe", INVALID),
    "a query without a namespace": (queries("vol", "allocation"), INVALID),
    "a query over the limit": (queries("vol", "x:" + "y" * 5000), INVALID),
    "rubbish behind": (queries("vol", "base:") + b"z", INVALID),
    "an unknown export": (queries("nonesuch", "base:"), UNKNOWN),
    "a name that is no text": (struct.pack(">I2sI", 2, b"\xff\xfe", 0), UNKNOWN),
    "an unknown context": (queries("vol", "x-nothing:here"), ACK),
    "very many queries": (queries("vol", *["qemu:dirty-bitmap:"] * 2500), ACK),
}


@pytest.mark.parametrize("number", [p.OPT_LIST_META_CONTEXT, p.OPT_SET_META_CONTEXT])
@pytest.mark.parametrize("what", BODIES)
def test_queries(raw: Raw, number: int, what: str) -> None:
    body, expected = BODIES[what]
    assert raw.option(number, body)[0] == INVALID, "without structured replies"
    assert raw.option(p.OPT_STRUCTURED_REPLY, b"x")[0] == INVALID
    assert raw.option(p.OPT_STRUCTURED_REPLY)[0] == ACK
    assert raw.option(number, body)[0] == expected
    assert raw.option(p.OPT_LIST_META_CONTEXT, queries("vol"))[1][0][4:] == b"base:allocation"
    assert raw.option(p.OPT_ABORT)[0] == ACK


def test_contexts_of_another_name_count_for_nothing(raw: Raw) -> None:
    raw.begin("base:allocation", of="")
    raw.request(p.CMD_BLOCK_STATUS, 0, 0, 4096)
    number, sentence = raw.error()
    assert number == 22 and "select one" in sentence


def test_a_later_choice_replaces_the_earlier_one(raw: Raw) -> None:
    assert raw.option(p.OPT_STRUCTURED_REPLY)[0] == ACK
    assert len(raw.option(p.OPT_SET_META_CONTEXT, queries("vol", "base:allocation"))[1]) == 2
    assert raw.option(p.OPT_SET_META_CONTEXT, b"rubbish")[0] == INVALID
    assert raw.option(p.OPT_GO, GO)[0] == ACK
    raw.request(p.CMD_BLOCK_STATUS, 0, 0, 4096)
    assert raw.error()[0] == 22


BAD = {
    "an unknown command": (99, 0, 0, 512, 22, "does not know the command 99"),
    "an unknown flag": (p.CMD_READ, 0x8000, 0, 512, 22, "flags 0x8000"),
    "one extent of a read": (p.CMD_READ, p.CMD_FLAG_REQ_ONE, 0, 512, 22, "flags"),
    "a fast trim": (p.CMD_TRIM, p.CMD_FLAG_FAST_ZERO, 0, 512, 22, "flags"),
    "whole block status": (p.CMD_BLOCK_STATUS, p.CMD_FLAG_DF, 0, 512, 22, "flags"),
    "a read beyond the end": (p.CMD_READ, 0, 1 << 63, 512, 22, "beyond the end at byte 16777216"),
    "block status beyond the end": (p.CMD_BLOCK_STATUS, 0, 0, 0xFFFFFFFF, 22, "beyond the end"),
    "cache beyond the end": (p.CMD_CACHE, 0, 16 << 20, 1, 22, "beyond the end"),
    "zeroes beyond the end": (p.CMD_WRITE_ZEROES, 0, 0, 0xFFFFFFFF, 28, "beyond the end"),
    "block status of nothing": (p.CMD_BLOCK_STATUS, 0, 0, 0, 22, "no bytes"),
    "a read of nothing": (p.CMD_READ, 0, 0, 0, 22, "no bytes"),
}


@pytest.mark.parametrize("what", BAD)
def test_errors_have_a_sentence(raw: Raw, what: str) -> None:
    kind, flags, offset, length, expected, words = BAD[what]
    raw.begin("base:allocation")
    raw.request(kind, flags, offset, length)
    number, sentence = raw.error()
    assert number == expected and words in sentence
    raw.request(p.CMD_READ, 0, 0, 4)
    flags, kind, payload = raw.chunk()
    assert (flags, kind, payload) == (p.REPLY_FLAG_DONE, p.REPLY_OFFSET_DATA, bytes(8) + b"wwww")


def test_reads_too_large(provider: Any, nbd_module: Any) -> None:
    huge = p.MAXIMUM_PAYLOAD + 512
    with open(provider.origin, "rb") as file:
        assert len(file.read()) < huge
    client = Raw(provider.nbd)
    client.begin()
    for flags in (0, p.CMD_FLAG_DF):
        client.request(p.CMD_READ, flags, 0, huge)
        assert client.error()[0] == 22
    client.sock.close()


@pytest.mark.parametrize("length", [4096, 70_000])
def test_a_read_of_nothing_in_front_of_one_of_zeros(provider: Any, nbd_module: Any, length: int) -> None:
    """Of a copy, where what adjoins is done together."""
    live = nbd_module.NBD()
    live.connect_uri(provider.uri)
    live.pwrite(bytes(1 << 20), 0)
    provider.control().snapshot()
    client = Raw(provider.export())
    assert client.option(p.OPT_STRUCTURED_REPLY)[0] == ACK
    assert client.option(p.OPT_GO, bytes(6))[0] == ACK
    requests = [p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, 9, 0, count) for count in (0, length)]
    for _ in range(3):
        client.sock.sendall(b"".join(requests))
        answers = sorted(client.chunk()[1:] for _ in requests)
        zeros = (p.REPLY_OFFSET_DATA, bytes(8 + length))  # where the disk had to be waited for
        assert answers[0] in ((p.REPLY_OFFSET_HOLE, p.HOLE.pack(0, length)), zeros)
        assert answers[1][0] == p.REPLY_ERROR and answers[1][1].startswith(p.ERRORS[22].to_bytes(4, "big"))
    client.sock.close()


def test_whole_reads_need_structured_replies(raw: Raw) -> None:
    assert raw.option(p.OPT_GO, GO)[0] == ACK
    raw.request(p.CMD_READ, p.CMD_FLAG_DF, 0, 512)
    assert p.SIMPLE_REPLY.unpack(raw.exactly(p.SIMPLE_REPLY.size)) == (p.SIMPLE_REPLY_MAGIC, 22, 9)


def memory(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.parametrize(
    ("kind", "length"), [(p.CMD_READ, 1 << 20), (p.CMD_BLOCK_STATUS, 16 << 20), (p.CMD_READ, 16 << 20)]
)
def test_who_does_not_take_his_answers_costs_little(
    provider: Any, random_image: bytes, raw: Raw, kind: int, length: int
) -> None:
    """Neither their memory nor the others' time; and later everything is answered after all."""
    raw.begin("base:allocation")
    before = memory(provider.process.pid)
    raw.sock.setblocking(False)
    request = p.REQUEST.pack(p.REQUEST_MAGIC, 0, kind, 9, 0, length)
    sent = 0
    os.kill(provider.process.pid, signal.SIGSTOP)
    for wait in (0, 1):
        end = time.monotonic() + wait
        while sent < len(request) * 4000:
            try:
                place = sent % len(request)
                sent += raw.sock.send((request * 65)[place : place + 64 * len(request)])
            except BlockingIOError:
                if time.monotonic() >= end:
                    break
                time.sleep(0.01)
        os.kill(provider.process.pid, signal.SIGCONT)
    time.sleep(0.3)
    assert memory(provider.process.pid) - before < 200 << 20
    raw.sock.settimeout(20)
    count = min(sent // len(request), 300 if kind == p.CMD_BLOCK_STATUS or length <= 1 << 20 else 20)
    for _ in range(count):
        while not raw.chunk()[0] & p.REPLY_FLAG_DONE:
            pass
    assert count >= 20


def test_random_requests(provider: Any, raw: Raw) -> None:
    chance = random.Random(11)
    for _ in range(60):
        client = Raw(provider.nbd)
        client.begin("base:allocation")
        try:
            for _ in range(20):
                kind = chance.choice(
                    [p.CMD_READ, p.CMD_FLUSH, p.CMD_CACHE, p.CMD_BLOCK_STATUS, chance.randrange(65536)]
                )
                if kind in (p.CMD_WRITE, p.CMD_DISC, p.CMD_TRIM, p.CMD_WRITE_ZEROES):
                    continue
                offset = chance.choice([0, 4096, chance.randrange(1 << 64)])
                client.request(kind, chance.choice([0, chance.randrange(65536)]), offset, chance.randrange(1 << 20))
            if chance.random() < 0.3:
                client.sock.sendall(chance.randbytes(60))
        except OSError:
            pass
        client.sock.close()
    assert provider.process.poll() is None
