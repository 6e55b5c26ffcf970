"""Writes that the module in C does are answered, and leave origin and copies, as those that take the ordinary way."""

from __future__ import annotations

import errno
import os
import random
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shadowset.nbd_provider import plain_writes
from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.connection import Connection
from shadowset.nbd_provider.live_export import LiveDirectory
from shadowset.nbd_provider.plain_writes import COMPILED, MOST_WRITES
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.volume import Volume

pytestmark = pytest.mark.skipif(not COMPILED, reason="the module in C was not built: gcc or python3-dev missing")

CHUNK = 4096
SIZE = 600 * CHUNK - 512
"""Its words lie on two pages."""
SHIFT = CHUNK.bit_length() - 1
PAGE_WORDS = os.sysconf("SC_PAGESIZE") // 8
PIECE = 64 * 1024
"""A socket holds as much."""
REPLY = struct.Struct(">IIQ")


class Served:
    """A volume and a client of it, without a loop: what a thread would do is done when ``send`` has taken all."""

    def __init__(self, directory: Path, content: bytes) -> None:
        self.origin, self.storage = f"{directory}/image", f"{directory}/storage"
        directory.mkdir()
        Path(self.origin).write_bytes(content)
        self.volume = Volume("vol", self.origin, self.storage, CHUNK)
        jobs: list[tuple[Callable[[], Any], Callable[[object], None]]] = []
        self.jobs = jobs
        self.volume.copies.submit = lambda *job: jobs.append(job)
        self.client, server = socket.socketpair()
        self.connection = Connection(server, LiveDirectory(self.volume), self.volume.copies.submit)
        self.volume.gate.opened.append(self.connection.release_held)
        self.connection.flush()
        self.client.setblocking(False)
        self.send(b"\0\0\0\3" + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, 3) + b"vol")
        self.client.recv(1 << 16)

    def send(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            self.client.sendall(data[start : start + PIECE])
            self.connection.on_readable()
            self.do_jobs()

    def do_jobs(self) -> None:
        while self.jobs:
            work, done = self.jobs.pop(0)
            done(work())

    def answers(self) -> dict[int, int]:
        """Errors by cookie of all answers that have come; none of them brings data."""
        try:
            return {cookie: error for _, error, cookie in REPLY.iter_unpack(self.client.recv(1 << 20))}
        except BlockingIOError:
            return {}

    def cut(self, persistent: bool = False) -> UUID:
        copy = uuid4()
        self.volume.store.commit(copy, uuid4(), 1, persistent)
        self.volume.store.finish(copy)
        return copy

    def copy(self, copy: UUID) -> bytes:
        reader = CopyReader(self.storage, self.origin, copy)
        try:
            return reader.read(0, SIZE)
        finally:
            reader.close()

    def close(self) -> None:
        self.connection.close()
        self.client.close()
        self.volume.close()


@pytest.fixture
def content() -> bytes:
    return random.Random(1).randbytes(SIZE)


@pytest.fixture
def pair(tmp_path: Path, content: bytes) -> Iterator[tuple[Served, Served]]:
    both = Served(tmp_path / "one", content), Served(tmp_path / "other", content)
    yield both
    for each in both:
        each.close()


@pytest.fixture
def served(pair: tuple[Served, Served]) -> Served:
    return pair[0]


def write(cookie: int, offset: int, data: bytes, flags: int = 0) -> bytes:
    return p.REQUEST.pack(p.REQUEST_MAGIC, flags, p.CMD_WRITE, cookie, offset, len(data)) + data


def other(chance: random.Random, cookie: int) -> bytes:
    """A request without data in its answer that is no plain write, right or wrong."""
    kind = chance.choice([p.CMD_FLUSH, p.CMD_TRIM, p.CMD_WRITE_ZEROES, p.CMD_CACHE, 77])
    flags = chance.choice([0, 0, p.CMD_FLAG_FUA, 0x4000])
    offset = chance.randrange(SIZE + CHUNK)
    return p.REQUEST.pack(p.REQUEST_MAGIC, flags, kind, cookie, offset, chance.randrange(3 * CHUNK))


def requests(chance: random.Random, first: int, count: int) -> bytes:
    """Mostly plain writes, some of them over each other, beyond the end or of nothing."""
    found = []
    for cookie in range(first, first + count):
        if chance.random() < 0.08:
            found.append(other(chance, cookie))
            continue
        length = chance.choice([CHUNK, CHUNK, 512, 3 * CHUNK + 100, chance.randrange(2000)])
        offset = chance.choice([*[chance.randrange(30)] * 5, chance.randrange(600)]) * CHUNK + chance.choice([0, 0, 77])
        flags = p.CMD_FLAG_FUA if chance.random() < 0.05 else 0
        found.append(write(cookie, offset, chance.randbytes(length), flags))
    return b"".join(found)


@pytest.mark.parametrize("seed", range(4))
def test_they_are_like_those_that_take_the_ordinary_way(
    pair: tuple[Served, Served], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The same bytes, cut into the same pieces, to both; then all that can be seen of both is compared."""
    chance = random.Random(seed)
    copies: list[tuple[UUID, UUID]] = []
    done: list[int] = []
    real = plain_writes.do_writes
    monkeypatch.setattr(plain_writes, "do_writes", lambda *all_: done.append(all_[3]) or real(*all_))
    for turn in range(16):
        if turn % 5 == 2:
            persistent = chance.random() < 0.3
            copies.append((pair[0].cut(persistent), pair[1].cut(persistent)))
        count = chance.choice([1, 20, 60])
        data = requests(chance, turn * 1000, count)
        told: list[dict[int, int]] = [{}, {}]
        while data:
            length = chance.choice([len(data), 1 + chance.randrange(len(data))])
            for served, compiled, answers in zip(pair, (True, False), told, strict=True):
                monkeypatch.setattr(plain_writes, "COMPILED", compiled)
                served.send(data[:length])
                answers.update(served.answers())
            data = data[length:]
        assert told[0] == told[1] and len(told[0]) == count
        assert Path(pair[0].origin).read_bytes() == Path(pair[1].origin).read_bytes()
        for one, two in copies:
            assert pair[0].copy(one) == pair[1].copy(two)
    assert sum(done) > 30, "the module does some of them"


def test_a_write_that_fails_or_is_short_is_told_and_those_around_it_are_done(served: Served, content: bytes) -> None:
    """The file may be written only up to a place within the third write: it is short, then there is an error."""
    places = [10, 11, 399, 500, 12, 501, 13]
    data = b"".join(write(each, each * CHUNK, bytes([each % 251]) * CHUNK) for each in places)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (399 * CHUNK + 1000, before[1]))
    try:
        served.send(data)
        answers = served.answers()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    full = p.wire_error(errno.EFBIG)
    assert answers == {10: 0, 11: 0, 399: full, 500: full, 12: 0, 501: full, 13: 0}
    now = Path(served.origin).read_bytes()
    for each in places:
        start = each * CHUNK
        written = {399: 1000, 500: 0, 501: 0}.get(each, CHUNK)
        expected = bytes([each % 251]) * written + content[start + written : start + CHUNK]
        assert now[start : start + CHUNK] == expected


def test_a_closed_gate_holds_them(served: Served, content: bytes) -> None:
    owner = object()
    served.volume.hold(owner, 5000)
    served.send(write(1, 0, b"n" * CHUNK))
    assert not served.answers() and Path(served.origin).read_bytes() == content
    copy = uuid4()
    served.volume.commit(owner, str(copy), str(uuid4()), 1, False)
    served.volume.release(owner)
    served.do_jobs()
    assert served.answers() == {1: 0}
    assert served.copy(copy) == content


def test_after_a_cut_the_old_content_is_kept_once_more(served: Served, content: bytes) -> None:
    first = served.cut()
    served.send(write(1, 0, b"1" * CHUNK) + write(2, 0, b"2" * CHUNK))
    second = served.cut()
    served.send(write(3, CHUNK, b"3" * CHUNK) + write(4, 0, b"4" * CHUNK))
    assert served.answers() == dict.fromkeys((1, 2, 3, 4), 0)
    assert served.copy(first) == content
    assert served.copy(second) == b"2" * CHUNK + content[CHUNK:]


def test_more_than_are_done_at_a_time_are_all_done(served: Served) -> None:
    count = 2 * MOST_WRITES + 1
    data = b"".join(write(each, each * 64, each.to_bytes(2, "big") * 32) for each in range(count))
    assert len(data) < PIECE, "they come together"
    served.send(data)
    assert served.answers() == dict.fromkeys(range(count), 0)
    now = Path(served.origin).read_bytes()
    assert all(now[each * 64 : each * 64 + 64] == each.to_bytes(2, "big") * 32 for each in range(count))


# ---- which they are ----

LIMIT = 7


def found(data: bytes, size: int = SIZE, most: int = 9, words: list[int] | None = None, pages: Any = None) -> int:
    """How many are found at the front of the bytes."""
    buffer = memoryview(data)
    if words is None:
        at, count = plain_writes.find_writes(buffer, 0, len(data), size, most)
    else:
        view = memoryview(b"".join(struct.pack("=Q", word) for word in words)).cast("Q")
        at, count = plain_writes.find_writes(buffer, 0, len(data), size, most, view, LIMIT, SHIFT, pages)
    assert at >= count * (p.REQUEST.size + 1) and (at > 0) == (count > 0)
    return count


PLAIN = write(1, CHUNK, b"n" * CHUNK)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (write(2, 0, b"n", p.CMD_FLAG_FUA), "a flag"),
        (p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_TRIM, 2, 0, 512), "another command"),
        (p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, 2, 0, 512), "another command"),
        (p.REQUEST.pack(p.SIMPLE_REPLY_MAGIC, 0, p.CMD_WRITE, 2, 0, 1) + b"n", "no request"),
        (write(2, 0, b""), "of nothing"),
        (write(2, SIZE, b"n"), "beyond the end"),
        (write(2, SIZE - 1, b"nn"), "across the end"),
        (write(2, (1 << 64) - 1, b"nn"), "across the end of all numbers"),
        (PLAIN[:-1], "not all there"),
        (PLAIN[: p.REQUEST.size - 1], "not all there"),
    ],
)
def test_what_ends_a_run(request_: bytes, why: str) -> None:
    assert found(PLAIN + PLAIN + request_ + (b"" if "all there" in why else PLAIN)) == 2, why
    assert found(PLAIN * 12) == 9 and found(PLAIN * 3) == 3 and found(b"") == 0
    assert found(write(1, SIZE - 2, b"nn")) == 1, "it reaches just to the end"


def test_a_write_may_be_as_large_as_the_protocol_allows() -> None:
    most = p.MAXIMUM_PAYLOAD
    assert found(write(1, 0, bytes(most)), 2 * most) == 1
    assert found(write(1, 0, bytes(most + 1)), 2 * most) == 0


def test_only_what_is_kept_for_the_newest_copy() -> None:
    two = write(1, 0, b"n" * 2 * CHUNK)
    pages = {0: None}
    for words, expected in (([7, 7], 1), ([8, 1 << 63], 1), ([6, 7], 0), ([7, 6], 0), ([0, 0], 0), ([7], 0), ([], 0)):
        assert found(two, words=words, pages=pages) == expected, words
    assert found(PLAIN, words=[0, 7, 0], pages=pages) == 1
    assert found(PLAIN, words=[0, 7, 0], pages={}) == 0, "nobody knows whether the word can be read"


def test_each_page_of_words_is_asked_for() -> None:
    words = [LIMIT] * 2 * PAGE_WORDS
    across = write(1, (PAGE_WORDS - 1) * CHUNK, b"n" * 2 * CHUNK)
    size = 2 * PAGE_WORDS * CHUNK
    for pages, expected in (({0: None, 1: None}, 1), ({0: None}, 0), ({1: None}, 0)):
        assert found(across, size, words=words, pages=pages) == expected
        assert found(write(1, PAGE_WORDS * CHUNK, b"n"), size, words=words, pages=pages) == (1 in pages)


def test_wrong_arguments_are_refused() -> None:
    buffer = memoryview(PLAIN)
    for start, end in ((-1, 5), (5, 4), (0, len(PLAIN) + 1)):
        with pytest.raises(ValueError, match="not in the buffer"):
            plain_writes.find_writes(buffer, start, end, SIZE, 1)
    for start, count in ((-1, 1), (len(PLAIN) + 1, 1), (0, -1), (0, 1 << 40)):
        with pytest.raises(ValueError, match="not in the buffer"):
            plain_writes.do_writes(0, buffer, start, count)
    words: Any = memoryview(bytes(8))
    with pytest.raises(TypeError, match="dict"):
        plain_writes.find_writes(buffer, 0, len(PLAIN), SIZE, 1, words, 1, SHIFT, None)
    assert plain_writes.do_writes(-1, buffer, 0, 1) == (0, b""), "what fails is left to others"
