"""The modules in C against what Python says, with hostile and random arguments; a process of its own, as it may crash.

``python fuzz_compiled.py SEED TURNS [DIRECTORY]``: with the modules of that directory in place of the installed ones.
"""

from __future__ import annotations

import errno
import importlib.util
import mmap
import os
import random
import select
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from typing import Any
from uuid import UUID

if len(sys.argv) > 3:
    for name, file in (
        ("store._resident", "_resident"),
        ("_plain_writes", "_plain_writes"),
        ("_random_reads", "_random_reads"),
    ):
        spec = importlib.util.spec_from_file_location(f"shadowset.nbd_provider.{name}", f"{sys.argv[3]}/{file}.so")
        assert spec is not None and spec.loader is not None
        sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])

from shadowset.nbd_provider import plain_writes, random_reads
from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.replies import Replies
from shadowset.nbd_provider.store import layout, resident
from shadowset.nbd_provider.store.copy_files import last_bytes
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
SIZE = 60 * CHUNK - 512
PAGE_WORDS = mmap.PAGESIZE // 8
EDGES = (0, 1, 27, 28, 29, CHUNK, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
COPY = UUID(int=3)


def outcome(do: Callable[[], Any]) -> Any:
    """What it returns, or its error."""
    try:
        return do()
    except OSError as error:
        return error.errno
    except (ValueError, TypeError, OverflowError) as error:
        return type(error)


class Results(list[random_reads.Result]):
    """Of threads."""

    def arrived(self, results: list[random_reads.Result], _: int) -> None:
        """They are there."""
        self += results


class Fuzz:
    """A file, a storage with copies, and the chance that decides."""

    def __init__(self, directory: str, seed: int) -> None:
        self.chance = random.Random(seed)
        self.path = f"{directory}/file"
        with open(self.path, "wb") as file:
            file.write(self.chance.randbytes(SIZE))
        self.fd = os.open(self.path, os.O_RDWR)
        self.storage = f"{directory}/storage"
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK)
        for number in range(1, 6):
            self.store.commit(UUID(int=number), UUID(int=9), 1, False)
            for chunk in self.chance.sample(range(59), 20):
                self.store.prepare_write([(chunk * CHUNK, CHUNK)])
                os.pwrite(self.fd, self.chance.randbytes(CHUNK), chunk * CHUNK)
        self.files = CopyReader(self.storage, self.path, COPY)
        self.files.read(0, SIZE)
        self.window = mmap.mmap(self.fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ)
        self.scratch = os.open(f"{directory}/scratch", os.O_RDWR | os.O_CREAT)
        self.twin = os.open(f"{directory}/twin", os.O_RDWR | os.O_CREAT)
        self.unmapped = os.open(f"{directory}/unmapped", os.O_RDWR | os.O_CREAT)  # what is mapped stays in memory
        os.pwrite(self.unmapped, self.chance.randbytes(SIZE - 12 * CHUNK), 0)
        os.ftruncate(self.unmapped, SIZE)
        os.fdatasync(self.unmapped)
        self.random, self.results = random_reads.RandomReads(os.eventfd(0)), Results()
        self.filled = self.cold = 0

    def number(self, most: int) -> int:
        """Mostly one that is right."""
        return self.chance.randrange(most) if self.chance.random() < 0.8 else self.chance.choice(EDGES)

    # ---- random reads ----

    def reads(self) -> None:
        """Some of them of the page cache, the others of threads."""
        chance = self.chance
        if chance.random() < 0.5:
            os.posix_fadvise(self.unmapped, 0, 0, os.POSIX_FADV_DONTNEED)
        data = b"".join(self.read_request() for _ in range(chance.randrange(12)))
        data = data[: len(data) - chance.choice((0, 0, 0, 1, 27))]
        size, place = chance.choice((SIZE, SIZE, SIZE, 1, (1 << 63) - 512)), self.number(SIZE)
        near, holes = chance.choice((0, 1, 8 * CHUNK)), chance.random() < 0.5
        got = outcome(
            lambda: self.random.begin(self.results, self.unmapped, memoryview(data), size, place, near, holes)
        )
        if isinstance(got, type):
            assert got is OverflowError and place >= 1 << 64
            return
        self.cold += self.random.under_way
        while self.random.under_way:
            select.poll().poll(1)
            self.random.finish()
        found, replies = [], sorted(got[2] + self.results, key=repr)
        self.results.clear()
        for index in range(got[0]):
            at = index * p.REQUEST.size
            magic, flags, kind, cookie, offset, length = p.REQUEST.unpack_from(data, at)
            assert (magic, flags, kind) == (p.REQUEST_MAGIC, 0, p.CMD_READ) and 0 < length < 65536
            assert offset + length <= size and abs(offset - place) > near
            place = offset + length
            found.append(self.reply(cookie, offset, length, holes))
        assert place == got[1] and sorted(found, key=repr) == replies, (data, got)

    def reply(self, cookie: int, offset: int, length: int, structured: bool) -> random_reads.Result:
        content = os.pread(self.unmapped, length, offset) if offset < 1 << 40 else b""
        if len(content) < length:
            return cookie, offset, length, errno.EIO
        replies = Replies()
        replies.structured = structured
        replies.data(cookie, offset, content)
        return replies.rest()

    def read_request(self) -> bytes:
        chance = self.chance
        kind = p.CMD_READ if chance.random() < 0.98 else chance.randrange(1 << 16)
        flags = 0 if chance.random() < 0.98 else chance.randrange(1 << 16)
        length = chance.choice((1, 512, CHUNK, CHUNK, 9000, 65535)) if chance.random() < 0.98 else chance.choice(EDGES)
        offset = self.number(SIZE - 9000) & (1 << 64) - 1
        whole = p.REQUEST.pack(p.REQUEST_MAGIC, flags, kind, chance.getrandbits(64), offset, length & 0xFFFFFFFF)
        return whole if chance.random() < 0.99 else chance.randbytes(len(whole))

    # ---- plain writes ----

    def request(self, size: int) -> bytes:
        chance = self.chance
        data = chance.randbytes(chance.choice((0, 1, 9, 300, 2 * CHUNK)))
        kind = p.CMD_WRITE if chance.random() < 0.95 else chance.randrange(1 << 16)
        flags = 0 if chance.random() < 0.95 else chance.randrange(1 << 16)
        length = len(data) if chance.random() < 0.95 else chance.choice(EDGES) & 0xFFFFFFFF
        cookie, offset = chance.getrandbits(64), self.number(size) & (1 << 64) - 1
        whole = bytearray(p.REQUEST.pack(p.REQUEST_MAGIC, flags, kind, cookie, offset, length) + data)
        if chance.random() < 0.03:
            whole[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        return bytes(whole)

    def writes(self) -> None:
        chance = self.chance
        size = chance.choice((SIZE, SIZE, SIZE, 1, (1 << 63) - 512))
        data = b"".join(self.request(size) for _ in range(chance.randrange(8)))
        start, end = 0, len(data)
        if chance.random() < 0.3:
            start, end = chance.randrange(-1, end + 2), chance.randrange(-1, end + 2)
        most = chance.choice((0, 1, 3, 256))
        words = [chance.choice((0, 6, 7, 8, 1 << 63)) if chance.random() < 0.3 else 7 for _ in range(60)]
        if chance.random() < 0.1:
            words = words[: chance.randrange(60)]
        pages: dict[int, None] = {0: None} if chance.random() < 0.9 else {}
        view = memoryview(struct.pack(f"={len(words)}Q", *words)).cast("Q") if words else None
        kept = (view, 7, 12, pages) if view and chance.random() < 0.7 else ()
        found = outcome(lambda: plain_writes.find_writes(memoryview(data), start, end, size, most, *kept))
        if not 0 <= start <= end <= len(data):
            assert found is ValueError, (start, end, found)
            return
        known = self.find_twin(data, start, end, size, most, (words, pages) if kept else None)
        assert found == (known[-1][1] if known else start, len(known)), (found, known)
        self.do(data, start, [at for at, _ in known])

    @staticmethod
    def find_twin(data: bytes, at: int, end: int, size: int, most: int, kept: Any) -> list[tuple[int, int]]:
        """Begin and end of each."""
        found: list[tuple[int, int]] = []
        while len(found) < most and end - at >= p.REQUEST.size:
            magic, flags, kind, _, offset, length = p.REQUEST.unpack_from(data, at)
            stop = at + p.REQUEST.size + length
            if (magic, flags, kind) != (p.REQUEST_MAGIC, 0, p.CMD_WRITE) or not 0 < length <= p.MAXIMUM_PAYLOAD:
                break
            chunks = range(offset // CHUNK, (offset + length - 1) // CHUNK + 1)
            if stop > end or offset + length > size:
                break
            if kept and not all(c < len(kept[0]) and c // PAGE_WORDS in kept[1] and kept[0][c] >= 7 for c in chunks):
                break
            found.append((at, stop))
            at = stop
        return found

    def do(self, data: bytes, start: int, places: list[int]) -> None:
        """The writes, into a sparse file, as far as it can be."""
        replies, stop, count = bytearray(), start, 0
        os.ftruncate(self.scratch, 0)
        os.ftruncate(self.twin, 0)
        for at in places:
            _, _, _, cookie, offset, length = p.REQUEST.unpack_from(data, at)
            if offset > 1 << 40:
                break
            os.pwrite(self.twin, data[at + p.REQUEST.size :][:length], offset)
            replies += p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, 0, cookie)
            stop, count = at + p.REQUEST.size + length, count + 1
        assert plain_writes.do_writes(-1, memoryview(data), start, count) == (start, b"")
        assert plain_writes.do_writes(self.scratch, memoryview(data), start, count) == (stop, bytes(replies))
        for at in places[:count]:
            offset, length = p.REQUEST.unpack_from(data, at)[4:]
            assert os.pread(self.scratch, length, offset) == os.pread(self.twin, length, offset)

    # ---- reads by a descriptor and from mapped memory ----

    def cached(self) -> None:
        fd = self.fd if self.chance.random() < 0.95 else -1
        offset = self.chance.choice((self.number(SIZE), -2))
        length = self.chance.choice((0, 1, 512, CHUNK, SIZE))
        for _ in range(100):  # pages may leave the memory
            one, other = bytearray(length), bytearray(length)
            first = outcome(lambda one=one: resident.read_cached(fd, offset, memoryview(one)))  # type: ignore[misc]
            second = outcome(lambda other=other: resident.read_cached_twin(fd, offset, memoryview(other)))  # type: ignore[misc]
            if first == second:
                break
        assert first == second, (offset, length)
        assert one == other or first is False

    def mapped(self) -> None:
        offset, length = self.chance.choice((self.number(SIZE), -1)), self.chance.choice((0, 1, 512, CHUNK, SIZE))
        target = bytearray(length)
        ask = self.chance.random() < 0.5
        got = outcome(lambda: resident.copy_resident(target, self.window, offset, ask))
        if offset > (1 << 63) - 1:
            assert got is OverflowError
        elif not 0 <= offset <= SIZE - length:
            assert got is ValueError
        else:
            assert (got is False and ask) or (got is True and target == os.pread(self.fd, length, offset))

    def arrived(self) -> None:
        chance = self.chance
        ranges = [(self.number(SIZE), chance.choice((0, 1, 512, 9000))) for _ in range(chance.randrange(5))]
        room = sum(length for _, length in ranges) + chance.choice((0, 0, 0, -1, 5))
        target = bytearray(max(0, room))
        got = outcome(lambda: resident.read_arrived(self.fd, ranges, target, chance.random() < 0.3))
        if isinstance(got, type):
            wrong = any(at >= 1 << 63 for at, _ in ranges)
            assert wrong or not ranges or room < sum(length for _, length in ranges), (got, ranges, room)
            return
        at = 0
        for offset, length in ranges[: got[0]]:
            assert not length or target[at : at + length] == os.pread(self.fd, length, offset)
            at += length
        assert not got[1] or ranges[got[0]][0] + ranges[got[0]][1] > SIZE, (got, ranges)

    # ---- a copy, of a storage that is damaged at times ----

    def damage(self) -> tuple[str, int, bytes]:
        """Change a word of head or of a record; returns what was there."""
        if self.chance.random() < 0.5:
            path, at = f"{self.storage}/head", self.chance.randrange(60) * 8
        else:
            slot = self.chance.randrange(100)
            path, at = f"{self.storage}/{layout.segment_name(0)}", slot * layout.SLOT_RECORD_SIZE + 8
        with open(path, "r+b", buffering=0) as file:
            before = os.pread(file.fileno(), 8, at)
            number = self.chance.randrange(7) << layout.SLOT_BITS
            word = number | self.chance.choice((self.chance.randrange(120), 1 << 39, layout.SLOT_MASK))
            os.pwrite(file.fileno(), word.to_bytes(8, "little"), at)
        return path, at, before

    def copy(self) -> None:
        chance = self.chance
        undo = self.damage() if chance.random() < 0.4 else None
        files = self.files._files
        files._slots.look_again()
        offset = self.number(SIZE)
        length = chance.choice((0, 1, 511, CHUNK, 20_000, SIZE))
        if offset < SIZE and chance.random() < 0.9:
            length = min(length, SIZE - offset)
        one, other = bytearray(length), bytearray(length)
        place = list(files._place(offset, length, memoryview(one)) or ())
        if chance.random() < 0.5:
            place[5:7] = [self.window, offset if chance.random() < 0.95 else self.number(SIZE)]
            right = place[6] == offset
        else:
            place[5:7] = [None, offset]
            right = True
        got = outcome(lambda: resident.fill_copy(*place))
        if got is True and right:
            twin = outcome(lambda: files.fill(offset, memoryview(other), resident.read_cached_twin))
            assert twin is True and one == other, (offset, length, undo, twin)
        else:
            assert got in (True, None, False, ValueError, OverflowError), got
        if undo:
            with open(undo[0], "r+b", buffering=0) as file:
                os.pwrite(file.fileno(), undo[2], undo[1])
            files._slots.look_again()  # it keeps pages
        self.filled += got is True

    def sent(self) -> None:
        """To a socket that may be too small for it, or gone."""
        chance = self.chance
        lengths = [chance.choice((1, 512, 3000, CHUNK)) for _ in range(chance.randrange(70))]
        if lengths and chance.random() < 0.2:
            lengths[chance.randrange(len(lengths))] = chance.choice(EDGES)
        replies = [(chance.randbytes(chance.choice((0, 16, 28))), length) for length in lengths]
        offset, room = chance.randrange(SIZE), bytearray(chance.choice((1, 4000, 9000, 40_000, SIZE)))
        files = self.files._files
        base = files._place(offset, 0, memoryview(room))
        assert base is not None
        window = self.window if chance.random() < 0.5 else None
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, chance.choice((1, 100_000)))
            got = outcome(
                lambda: resident.send_copy(
                    ours.fileno() if chance.random() < 0.95 else -1,
                    replies,
                    chance.random() < 0.5,
                    (*base[:5], window, offset),
                )
            )
            ours.shutdown(socket.SHUT_WR)
            theirs.settimeout(10)
            if isinstance(got, type):
                assert got is ValueError
                return
            done, last, unsent, at = got
            data = memoryview(room)[at:]
            rest = b"".join(last_bytes(replies[done - last : done], data, unsent)) if unsent else b""
            parts = []
            while part := theirs.recv(1 << 20):
                parts.append(part)
        if offset + sum(lengths[:done]) <= SIZE:  # who calls it keeps to that; a slot has more than the last chunk
            assert self.stream(replies[:done], offset) == b"".join(parts) + rest

    def stream(self, replies: list[tuple[bytes, int]], offset: int) -> bytes:
        parts = []
        for header, length in replies:
            parts += [header, self.files.read(offset, length)]
            offset += length
        return b"".join(parts)


def main() -> None:
    """Errors: AssertionError, or a signal."""
    seed, turns = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="ss-fuzz-", dir="/var/tmp") as directory:  # a disk, for RWF_NOWAIT
        fuzz = Fuzz(directory, seed)
        for turn in range(turns):
            for do in (fuzz.reads, fuzz.writes, fuzz.cached, fuzz.mapped, fuzz.arrived, fuzz.copy, fuzz.sent):
                try:
                    do()
                except AssertionError:
                    print(f"seed {seed}, turn {turn}", file=sys.stderr)
                    raise
        assert fuzz.filled > turns / 20 and fuzz.cold, "they say something at times"


main()
