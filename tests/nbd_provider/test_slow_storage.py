"""A storage that does not answer stalls the writes that need it, and nobody else."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from shadowset.vss import provider_protocol as m
from shadowset.vss.wire import FrameDecoder, encode

CHUNK = 16384
STALLING = """
    import os, sys, time
    storage, flag = sys.argv[sys.argv.index("--storage") + 1], sys.argv.pop()

    def stalling(real):
        def call(fd, *rest):
            if os.readlink(f"/proc/self/fd/{fd}").startswith(storage):
                while os.path.exists(flag):
                    open(f"{flag}.arrived", "w").close()
                    time.sleep(0.01)
            return real(fd, *rest)
        return call

    for name in ("pwritev", "fdatasync", "fsync", "posix_fallocate"):
        setattr(os, name, stalling(getattr(os, name)))
    from shadowset.nbd_provider.main import main
    sys.exit(main())
"""


@pytest.fixture
def stalling(patched_provider: Any) -> Any:
    """A provider from whose storage no data and no sync returns while the flag is there."""
    return patched_provider(STALLING)


def wait_for_stall(provider: Any) -> None:
    deadline = time.monotonic() + 60
    while not os.path.exists(f"{provider.flag}.arrived"):
        assert time.monotonic() < deadline, "nothing has touched the storage"
        time.sleep(0.01)


def connect(nbd_module: Any, provider: Any) -> Any:
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    return client


def finish(client: Any, cookie: int) -> None:
    while not client.aio_command_completed(cookie):
        client.poll(-1)


def test_who_needs_no_copy_out_does_not_wait(stalling: Any, nbd_module: Any) -> None:
    control = stalling.control()
    first, before = control.snapshot(persistent=True), Path(stalling.origin).read_bytes()
    client, other = connect(nbd_module, stalling), connect(nbd_module, stalling)
    client.pwrite(b"a" * CHUNK, 0)
    stalling.flag.touch()
    buffer = nbd_module.Buffer.from_bytearray(bytearray(b"b" * CHUNK))
    late = client.aio_pwrite(buffer, 9 * CHUNK)
    wait_for_stall(stalling)
    for each in (client, other):
        each.pwrite(b"c" * 512, 512)
        each.flush()
        assert each.pread(1024, 0) == b"a" * 512 + b"c" * 512
        assert each.pread(CHUNK, 9 * CHUNK) == before[9 * CHUNK : 10 * CHUNK]
    other.trim(CHUNK, 0)
    other.pwrite(b"d" * CHUNK, 0)
    control.value(m.Hold)
    second, seen = str(uuid4()), Path(stalling.origin).read_bytes()
    control.value(m.Commit, copy_id=second, set_id=str(uuid4()), created_ns=1, persistent=True)
    control.value(m.Release)
    assert not client.aio_command_completed(late)
    stalling.flag.unlink()
    finish(client, late)
    control.value(m.Finish, copy_id=second)
    assert other.pread(CHUNK, 9 * CHUNK) == b"b" * CHUNK
    assert stalling.content(first) == before and stalling.content(second) == seen


def send(control: Any, call: Any) -> None:
    control.sock.sendall(encode(call))


def answers(control: Any, count: int) -> list[int]:
    """The numbers of the next answers, all of which are good."""
    decoder: FrameDecoder[m.FromProvider] = FrameDecoder(m.FromProvider)
    numbers: list[int] = []
    while len(numbers) < count:
        for answer in decoder.feed(control.sock.recv(65536)):
            assert isinstance(answer, m.Done), answer
            numbers.append(answer.seq)
    return numbers


def test_calls_that_need_the_storage_hold_up_no_others(stalling: Any, nbd_module: Any) -> None:
    control, slow = stalling.control(), stalling.control()
    first, second = control.snapshot(persistent=True), control.snapshot(persistent=True)
    before = Path(stalling.origin).read_bytes()
    client = connect(nbd_module, stalling)
    client.pwrite(b"a" * CHUNK, 0)
    stalling.flag.touch()
    send(slow, m.SetCopy(101, second, 7, None))
    send(slow, m.Delete(102, first))
    send(slow, m.Configure(103, 1 << 30, None, None))
    wait_for_stall(stalling)
    send(slow, m.Describe(104))
    assert answers(slow, 1) == [104], "what needs no storage is answered at once"
    client.pwrite(b"c" * CHUNK, 0)
    assert client.pread(CHUNK, 0) == b"c" * CHUNK
    control.value(m.Hold)
    third = str(uuid4())
    control.value(m.Commit, copy_id=third, set_id=str(uuid4()), created_ns=1, persistent=True)
    control.value(m.Release)
    send(control, m.Finish(105, third))
    stalling.flag.unlink()
    assert answers(slow, 3) == [101, 102, 103]
    assert answers(control, 1) == [105]
    described = control.value(m.Describe)
    assert {copy["copy_id"]: copy["priority"] for copy in described["copies"]} == {second: 7, third: 128}
    assert described["max_size"] == 1 << 30
    assert stalling.content(second) == before


def test_a_caller_that_goes_before_its_answer_harms_nobody(stalling: Any) -> None:
    control, slow = stalling.control(), stalling.control()
    copy = control.snapshot(persistent=True)
    stalling.flag.touch()
    send(slow, m.SetCopy(1, copy, 9, None))
    wait_for_stall(stalling)
    slow.close()
    control.value(m.Describe)
    stalling.flag.unlink()
    control.value(m.Configure, max_size=1 << 30)
    assert [each["priority"] for each in control.value(m.Describe)["copies"]] == [9]


def test_a_stop_waits_for_the_storage(stalling: Any, nbd_module: Any) -> None:
    copy, before = stalling.control().snapshot(persistent=True), Path(stalling.origin).read_bytes()
    client = connect(nbd_module, stalling)
    stalling.flag.touch()
    late = client.aio_pwrite(nbd_module.Buffer.from_bytearray(bytearray(b"b" * CHUNK)), 0)
    wait_for_stall(stalling)
    stalling.process.terminate()
    stalling.flag.unlink()
    finish(client, late)
    assert stalling.process.wait(60) == 0
    assert Path(stalling.origin).read_bytes()[:CHUNK] == b"b" * CHUNK and stalling.content(copy) == before
