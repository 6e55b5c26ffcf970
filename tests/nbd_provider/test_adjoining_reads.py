"""Reads of a copy that go on where the one before ends are done as one, and answered one by one."""

from __future__ import annotations

import errno
import random
from collections.abc import Sequence
from typing import Any

import pytest

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.reads import MOST_TOGETHER
from shadowset.nbd_provider.replies import Replies
from shadowset.nbd_provider.requests import Request, adjoining_reads
from shadowset.nbd_provider.transmission import Transmission

SIZE = 1 << 20
NOTHING = memoryview(b"")


def read(cookie: int, offset: int, length: int, flags: int = 0, kind: int = p.CMD_READ) -> Request:
    return Request(kind, flags, cookie, offset, length, NOTHING)


def cookies(batch: list[Request], most: int = 100) -> list[list[int]]:
    return [[request.cookie for request in run] for run in adjoining_reads(batch, most)]


def test_which_reads_adjoin() -> None:
    assert cookies([]) == []
    assert cookies([read(1, 0, 10), read(2, 10, 10), read(3, 20, 80)]) == [[1, 2, 3]]
    assert cookies([read(1, 0, 10), read(2, 11, 10), read(3, 21, 10)]) == [[1], [2, 3]], "a gap"
    assert cookies([read(1, 0, 60), read(2, 60, 40), read(3, 100, 1)]) == [[1, 2], [3]], "too much"
    assert cookies([read(1, 0, 500), read(2, 500, 10), read(3, 510, 10)]) == [[1], [2, 3]]
    assert cookies([read(1, 0, 10), read(2, 10, 10, p.CMD_FLAG_DF)]) == [[1], [2]], "another form of reply"
    assert cookies([read(1, 10, 10), read(2, 0, 10)]) == [[1], [2]], "backwards"
    assert cookies([read(1, 0, 0), read(2, 0, 0)]) == [[1], [2]], "nothing is read"
    assert cookies([read(1, 0, 0), read(2, 0, 10), read(3, 10, 10)]) == [[1], [2, 3]], "nothing is read"
    others = [read(1, 0, 10), read(2, 10, 10, kind=p.CMD_CACHE), read(3, 20, 10), read(4, 30, 1, kind=p.CMD_DISC)]
    assert cookies(others) == [[1], [2], [3], [4]]


class Export:
    """Read-only random bytes that are in memory, but for those that are ``cold`` or ``bad``."""

    name = description = "memory"
    size = SIZE
    flags = p.FLAG_READ_ONLY
    gate = in_place = page_cache = None
    sender: Any = None

    def __init__(self) -> None:
        self.content = random.Random(1).randbytes(SIZE)
        self.cold = self.bad = -1
        self.reads: list[tuple[int, int]] = []

    def read_now(self, offset: int, target: memoryview) -> bool:
        self.reads.append((offset, len(target)))
        if offset <= self.bad < offset + len(target):
            raise OSError(errno.EIO, "bad sector")
        target[:] = self.content[offset : offset + len(target)]
        return not offset <= self.cold < offset + len(target)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]

    def prefetch(self, offset: int, length: int) -> None:
        pass

    def close(self) -> None:
        pass


def answers(export: Export, batch: list[Request], socket: int = -1) -> dict[int, bytes | int]:
    """What each request got: its bytes, or an error number."""
    replies, jobs, sent = Replies(), [], bytearray()
    replies.socket = socket
    disk: Any = export
    transmission = Transmission(
        disk, (), replies, lambda *job: jobs.append(job), lambda: None, pytest.fail, lambda: None
    )
    transmission.process(batch)
    for work, done in jobs:
        done(work())

    def send(pieces: Sequence[Any]) -> int:
        for piece in pieces:
            sent.extend(piece)
        return sum(map(len, pieces))

    replies.send(send)
    got: dict[int, bytes | int] = {}
    lengths, at = {request.cookie: request.length for request in batch}, 0
    while at < len(sent):
        _, error, cookie = p.SIMPLE_REPLY.unpack_from(sent, at)
        at += p.SIMPLE_REPLY.size
        count = 0 if error else lengths[cookie]
        assert cookie not in got
        got[cookie] = error or bytes(sent[at : at + count])
        at += count
    return got


def expected(export: Export, batch: list[Request]) -> dict[int, bytes | int]:
    return {each.cookie: export.content[each.offset : each.offset + each.length] for each in batch}


def test_one_read_for_all() -> None:
    export = Export()
    batch = [read(number, 5000 + number * 4096, 4096) for number in range(1, 9)]
    assert answers(export, batch) == expected(export, batch)
    assert export.reads == [(9096, 8 * 4096)]


def test_random_batches() -> None:
    chance = random.Random(3)
    for _ in range(30):
        export, batch, offset = Export(), [], 0
        for number in range(1, 20):
            length = chance.choice((512, 4096, 100_000, MOST_TOGETHER))
            offset = offset if chance.random() < 0.8 else chance.randrange(SIZE)
            if offset + length <= SIZE:
                batch.append(read(number, offset, length))
                offset += length
        assert answers(export, batch) == expected(export, batch)


class Streaming(Export):
    """One that is large, and could send by itself."""

    size = 8 << 30
    sends = True

    def __init__(self) -> None:
        super().__init__()
        self.sender = self


def test_a_read_over_the_limit_is_refused_before_memory_is_taken_for_it() -> None:
    for length in (p.MAXIMUM_PAYLOAD + 1, (1 << 32) - 1):
        assert answers(Streaming(), [read(1, 0, length)], 1) == {1: p.ERRORS[errno.EINVAL]}


def test_what_is_not_in_memory_is_read_for_itself() -> None:
    export = Export()
    export.cold = 5000
    batch = [read(number, number * 4096, 4096) for number in range(4)]
    assert answers(export, batch) == expected(export, batch)
    assert export.reads[:5] == [(0, 4 * 4096), (0, 4096), (4096, 4096), (8192, 4096), (12288, 4096)]


def test_an_error_is_told_to_the_read_that_meets_it() -> None:
    export = Export()
    export.bad = 5000
    batch = [read(number, number * 4096, 4096) for number in range(4)]
    assert answers(export, batch) == expected(export, batch) | {1: p.ERRORS[errno.EIO]}


def test_a_run_that_goes_beyond_the_end() -> None:
    export = Export()
    batch = [read(1, SIZE - 8192, 4096), read(2, SIZE - 4096, 4096), read(3, SIZE, 4096)]
    assert answers(export, batch) == expected(export, batch) | {3: p.ERRORS[errno.EINVAL]}


def test_a_run_with_a_flag_that_is_not_allowed() -> None:
    export = Export()
    batch = [read(number, number * 4096, 4096, p.CMD_FLAG_DF) for number in (1, 2)]
    assert answers(export, batch) == dict.fromkeys((1, 2), p.ERRORS[errno.EINVAL])
    assert not export.reads
