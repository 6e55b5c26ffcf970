"""Reads and replies of a copy by one call: the bytes that step by step give, or none where something is unusual."""

from __future__ import annotations

import os
import random
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest

from shadowset.nbd_provider.store import copy_files, resident
from shadowset.nbd_provider.store.reader import CopyLost, CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore

pytestmark = pytest.mark.skipif(
    not resident.COMPILED, reason="the module in C was not built: gcc or python3-dev missing"
)

CHUNK = 4096
SIZE = 200 * CHUNK - 512
SET = UUID(int=99)


class Volume:
    """Random bytes with copies 1 to 4, some chunks overwritten after each."""

    def __init__(self, directory: str) -> None:
        self.origin, self.storage = f"{directory}/origin", f"{directory}/storage"
        self.chance = random.Random(5)
        self.live = bytearray(self.chance.randbytes(SIZE))
        with open(self.origin, "wb") as file:
            file.write(self.live)
        self.fd = os.open(self.origin, os.O_RDWR)
        self.store = ShadowStore(self.storage, self.fd, SIZE, CHUNK)
        self.expected: dict[int, bytes] = {}
        for number in range(1, 5):
            self.store.commit(UUID(int=number), SET, 1, False)
            self.store.finish(UUID(int=number))
            self.expected[number] = bytes(self.live)
            for chunk in [*self.chance.sample(range(200), 25), *range(number * 40, number * 40 + 9)]:
                self.write(chunk)

    def write(self, chunk: int) -> None:
        offset = chunk * CHUNK
        data = self.chance.randbytes(min(CHUNK, SIZE - offset))
        self.store.prepare_write([(offset, len(data))])
        os.pwrite(self.fd, data, offset)
        self.live[offset : offset + len(data)] = data

    def reader(self, number: int) -> CopyReader:
        return CopyReader(self.storage, self.origin, UUID(int=number))

    def close(self) -> None:
        self.store.close()
        os.close(self.fd)


@pytest.fixture
def volume() -> Iterator[Volume]:
    """On a disk: a memory file system has no RWF_NOWAIT."""
    with tempfile.TemporaryDirectory(prefix="ss-disk-", dir="/var/tmp") as directory:
        made = Volume(directory)
        yield made
        made.close()


def at_once(reader: CopyReader, offset: int, length: int) -> bytes | None:
    target = memoryview(bytearray(length))
    return bytes(target) if reader._files.fill_at_once(offset, target) else None


@pytest.mark.parametrize("mapped", [True, False])
def test_it_gives_what_a_copy_has(volume: Volume, mapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "PLAIN_TIMES", 0 if mapped else 1 << 20)
    monkeypatch.setattr(resident, "LEAST", 0)
    monkeypatch.setattr(copy_files.Windows, "read", None)  # there is no other way
    for number, expected in volume.expected.items():
        reader = volume.reader(number)
        reader._files._slots._segment(0)
        for _ in range(300):
            offset = volume.chance.randrange(SIZE)
            length = min(SIZE - offset, volume.chance.choice((1, 511, 4096, 50_000, SIZE)))
            assert at_once(reader, offset, length) == expected[offset : offset + length]
        assert bool(reader._files.windows._mapped) == mapped
        reader.close()


def test_a_writer_that_overtakes_it(volume: Volume) -> None:
    """What the head does not say of the origin any more is not taken from there, in whatever moment that changes."""
    given = 0
    for number in range(10, 30):
        volume.store.commit(UUID(int=number), SET, 1, False)
        expected, reader = bytes(volume.live), volume.reader(number)
        reader._files._slots._segment(0)
        writer = threading.Thread(target=lambda: [volume.write(chunk) for chunk in range(200)])
        writer.start()
        while writer.is_alive():
            content = at_once(reader, 0, SIZE)
            given += content is not None
            assert content in (None, expected)
        writer.join()
        assert at_once(reader, 0, SIZE) == expected
        reader.close()
    assert given


def test_a_segment_is_opened_first(volume: Volume) -> None:
    reader = volume.reader(1)
    assert at_once(reader, 0, SIZE) is None
    assert reader.fill_now(0, memoryview(bytearray(SIZE)))
    assert at_once(reader, 0, SIZE) == volume.expected[1]
    reader.close()


def test_a_row_that_has_changed_is_looked_at(volume: Volume) -> None:
    reader = volume.reader(4)
    assert reader.read(0, SIZE) == volume.expected[4] == at_once(reader, 0, SIZE)
    volume.store.set_copy(UUID(int=4), 200, None)
    assert at_once(reader, 0, SIZE) is None
    assert reader.read(0, SIZE) == volume.expected[4] == at_once(reader, 0, SIZE)
    volume.store.delete(UUID(int=4))
    assert at_once(reader, 0, SIZE) is None
    with pytest.raises(CopyLost):
        reader.read(0, 1)
    assert at_once(reader, 0, SIZE) is None, "the row is as it was last seen, but it does not live"
    reader.close()


def test_a_record_of_losses_is_looked_at(volume: Volume) -> None:
    reader = volume.reader(4)
    assert reader.read(0, SIZE) == at_once(reader, 0, SIZE)
    _, losses = reader._files._rows.places
    os.makedirs(os.path.dirname(losses), exist_ok=True)
    with open(losses, "wb") as file:
        file.write(b"of which nobody knows what it says")
    assert at_once(reader, 0, SIZE) is None
    with pytest.raises(CopyLost):
        reader.read(0, 1)
    os.unlink(losses)
    reader.close()


@pytest.mark.parametrize("mapped", [True, False])
def test_an_origin_that_is_cut_off_is_not_read_as_zeros(
    volume: Volume, mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last page of a file is zeros behind its end, where it is mapped."""
    monkeypatch.setattr(resident, "PLAIN_TIMES", 0 if mapped else 1 << 20)
    reader = volume.reader(4)
    start, length = 512, SIZE - 512
    assert reader.read(start, length) and reader.fill_now(start, memoryview(bytearray(length)))
    assert bool(reader._files.windows._mapped) is mapped
    os.truncate(volume.origin, SIZE - 100)
    assert at_once(reader, start, length) is None
    assert not reader.fill_now(start, memoryview(bytearray(length)))
    with pytest.raises(OSError, match="ends at byte"):
        reader.read(start, length)
    reader.close()


def test_what_is_not_in_memory_is_not_waited_for(volume: Volume) -> None:
    reader = volume.reader(4)
    os.fsync(volume.fd)
    for _ in range(100):  # pages that something else looks at stay for a moment
        os.posix_fadvise(volume.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if reader._files.fill_at_once(0, memoryview(bytearray(SIZE))) is False:
            break
    else:
        pytest.fail("the pages do not leave the cache")
    assert reader.read(0, SIZE) == volume.expected[4]
    reader.close()


class Client:
    """The other end of what replies are sent to."""

    def __init__(self, reader: CopyReader) -> None:
        self.reader = reader
        self.ours, self.theirs = socket.socketpair()

    def send(self, offset: int, lengths: list[int], piece: int, holes: bool = False) -> tuple[int, bytes]:
        replies = [(b"%4d" % number, length) for number, length in enumerate(lengths)]
        target = memoryview(bytearray(piece))
        done, rest = self.reader.send_now(self.ours.fileno(), offset, replies, holes, target)
        return done, b"".join(rest)

    def received(self) -> bytes:
        """All that has come; the socket ends here."""
        self.ours.close()
        parts = []
        while part := self.theirs.recv(1 << 20):
            parts.append(part)
        self.theirs.close()
        return b"".join(parts)


@pytest.fixture
def client(volume: Volume) -> Iterator[Client]:
    reader = volume.reader(3)
    assert reader.read(0, SIZE) == volume.expected[3]
    made = Client(reader)
    yield made
    made.ours.close()
    made.theirs.close()
    reader.close()


def stream(expected: bytes, offset: int, lengths: list[int]) -> bytes:
    parts = []
    for number, length in enumerate(lengths):
        parts += [b"%4d" % number, expected[offset : offset + length]]
        offset += length
    return b"".join(parts)


@pytest.mark.parametrize("piece", [20_000, 33_000, 50_000, 150_000])
def test_replies_in_pieces(volume: Volume, client: Client, piece: int) -> None:
    lengths = [20_000, 512, 1, 12_000, 3 * CHUNK]
    assert client.send(700, lengths, piece) == (len(lengths), b"")
    assert client.received() == stream(volume.expected[3], 700, lengths)


def test_a_reply_that_the_memory_is_too_small_for_is_left(volume: Volume, client: Client) -> None:
    assert client.send(0, [4096, 8192, 4096], 5000) == (1, b"")
    assert client.received() == stream(volume.expected[3], 0, [4096])


def test_a_socket_that_is_full(volume: Volume, client: Client) -> None:
    """What was read and not taken is given back, from the middle of a reply or of a header on."""
    lengths = [3000] * 60
    for size in range(4_000, 40_000, 4_001):
        each = Client(client.reader)
        each.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        done, rest = each.send(1, lengths, 64_000)
        assert 0 < done < len(lengths) and rest
        assert each.received() + rest == stream(volume.expected[3], 1, lengths[:done])


def test_a_client_that_has_gone(client: Client) -> None:
    client.theirs.close()
    done, rest = client.send(0, [5000], 5000)
    assert done == 1 and len(rest) == 5004, "who sends it meets the error"


def in_child(check: Callable[[], bool]) -> bool:
    """What it says in a process that was forked, where the threads of this one are not."""
    child = os.fork()
    if not child:
        good = False
        try:
            signal.alarm(60)
            good = check()
        finally:
            os._exit(0 if good else 1)
    return os.waitpid(child, 0)[1] == 0


def sends_right(volume: Volume, reader: CopyReader, piece: int = 64 << 10) -> bool:
    """Pages may leave the cache meanwhile, and then less is sent."""
    lengths, done = [3000] * 50, 0
    for _ in range(10):
        client = Client(reader)
        done, rest = client.send(9, lengths, piece)
        if client.received() + rest != stream(volume.expected[3], 9, lengths[:done]):
            return False
        if done > 5:
            break
        reader.read(0, SIZE)
    return done > 5


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_two_threads_take_turns(volume: Volume, client: Client) -> None:
    """One more is there when something was sent in pieces that two can have, and stays the only one."""
    before = threads()
    assert all(sends_right(volume, client.reader) for _ in range(300))
    helped = len(os.sched_getaffinity(0)) > 1

    def in_new_process() -> bool:
        alone = threads()
        good = sends_right(volume, client.reader, 3000) and threads() == alone
        return good and all(sends_right(volume, client.reader) for _ in range(20)) and threads() == alone + helped

    assert threads() <= before + helped
    assert in_child(in_new_process)
    assert sends_right(volume, client.reader)


def test_one_processor_has_one_thread(volume: Volume, client: Client) -> None:
    def alone() -> bool:
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        before = threads()
        return sends_right(volume, client.reader) and threads() == before

    assert in_child(alone)


def test_callers_do_not_wait_for_each_other(volume: Volume, client: Client) -> None:
    """The thread that helps belongs to one of them at a time."""
    wrong: list[int] = []

    def call(number: int) -> None:
        if not all(sends_right(volume, client.reader) for _ in range(60)):
            wrong.append(number)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert not wrong and not any(caller.is_alive() for caller in callers)


@pytest.mark.parametrize(("holes", "piece"), [(True, 2), (False, 2), (True, 5), (False, 5), (True, 8)])
def test_zeros_are_left_to_who_can_tell_them(volume: Volume, holes: bool, piece: int) -> None:
    for chunk in range(4, 8):
        volume.store.prepare_write([(chunk * CHUNK, CHUNK)])
        os.pwrite(volume.fd, bytes(CHUNK), chunk * CHUNK)
        volume.live[chunk * CHUNK : (chunk + 1) * CHUNK] = bytes(CHUNK)
    volume.store.commit(UUID(int=5), SET, 1, False)
    reader = volume.reader(5)
    assert reader.read(0, SIZE) == volume.live
    client, lengths = Client(reader), [CHUNK] * 12
    assert client.send(0, lengths, piece * CHUNK, holes) == (4 if holes else 12, b"")
    assert client.received() == stream(bytes(volume.live), 0, lengths[: 4 if holes else 12])
    reader.close()


def test_a_copy_that_is_gone_is_not_sent(volume: Volume, client: Client) -> None:
    volume.store.delete(UUID(int=3))
    assert client.send(0, [5000], 5000) == (0, b"")
    assert client.received() == b""


def test_bad_arguments_are_refused(volume: Volume, client: Client) -> None:
    place = client.reader._files._place(0, 4096, memoryview(bytearray(4096)))
    assert place is not None
    with pytest.raises(TypeError):
        resident.send_copy(-1, [b"no tuple"], False, place)  # type: ignore[list-item]
    with pytest.raises(ValueError):
        resident.fill_copy(memoryview(bytearray()), *place[1:])
    with pytest.raises(ValueError):
        resident.fill_copy(*place[:3], bytes(1000), *place[4:])
