"""Requests beyond reading and writing, through libnbd: cache, fast zeroes, whole and sparse reads."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider.replies import FIRST_SPACE, Replies, Space
from shadowset.vss import provider_protocol as m


def connect(nbd_module: Any, uri: str, *contexts: str, structured: bool = True) -> Any:
    client = nbd_module.NBD()
    client.set_request_structured_replies(structured)
    for context in contexts:
        client.add_meta_context(context)
    client.connect_uri(uri)
    return client


def test_what_the_exports_offer(provider: Any, nbd_module: Any) -> None:
    provider.control().snapshot()
    live = connect(nbd_module, provider.uri)
    assert live.can_df() and live.can_cache() and live.can_fast_zero() and live.can_zero() and live.can_multi_conn()
    assert (live.get_block_size(nbd_module.SIZE_MINIMUM), live.get_block_size(nbd_module.SIZE_MAXIMUM)) == (1, 32 << 20)
    copy = connect(nbd_module, f"nbd+unix:///?socket={provider.export()}")
    assert copy.can_df() and copy.can_cache() and copy.can_multi_conn() and copy.can_flush()
    assert copy.is_read_only() and not copy.can_fast_zero() and not copy.can_trim()
    simple = connect(nbd_module, provider.uri, structured=False)
    assert not simple.can_df() and not simple.get_structured_replies_negotiated()
    assert simple.pread(512, 0) == bytes(512)


def test_cache(provider: Any, nbd_module: Any, random_image: bytes) -> None:
    provider.control().snapshot()
    live = connect(nbd_module, provider.uri)
    live.pwrite(b"n" * 40000, 5000)
    copy = connect(nbd_module, f"nbd+unix:///?socket={provider.export()}")
    for client in (live, copy):
        client.cache(provider.size, 0)
        client.cache(1, provider.size - 1)
        with pytest.raises(nbd_module.Error):
            client.set_strict_mode(0)
            client.cache(2, provider.size - 1)
    assert copy.pread(1 << 20, 0) == random_image[: 1 << 20]


def chunks_of(client: Any, nbd_module: Any, length: int, offset: int, flags: int = 0) -> list[tuple[int, int, bool]]:
    """The chunks of one structured read as (offset, length, whether data)."""
    found: list[tuple[int, int, bool]] = []

    def chunk(data: bytes, at: int, status: int, error: Any) -> int:
        found.append((at, len(data), status == nbd_module.READ_DATA))
        return 0

    client.pread_structured(length, offset, chunk, flags)
    return sorted(found)


def test_holes_are_not_sent(provider: Any, nbd_module: Any) -> None:
    client = connect(nbd_module, provider.uri)
    client.pwrite(b"d" * 65536, 1 << 20)
    client.flush()
    assert chunks_of(client, nbd_module, 65536, 0) == [(0, 65536, False)]
    assert chunks_of(client, nbd_module, 65536, 1 << 20) == [(1 << 20, 65536, True)]
    whole = chunks_of(client, nbd_module, 65536, 0, nbd_module.CMD_FLAG_DF)
    assert whole == [(0, 65536, True)]
    copy = provider.control().snapshot()
    client.pwrite(b"e" * 65536, 2 << 20)
    shadow = connect(nbd_module, f"nbd+unix:///{copy}?socket={provider.export()}")
    assert chunks_of(shadow, nbd_module, 65536, 2 << 20) == [(2 << 20, 65536, False)]
    size = 4 << 20
    drop_from_cache(provider.origin)
    for reader, second in ((client, b"e"), (shadow, b"\0")):
        expected = bytes(1 << 20) + b"d" * 65536 + bytes((1 << 20) - 65536) + second * 65536
        expected += bytes(size - len(expected))
        assert reader.pread(size, 0) == expected
        found = chunks_of(reader, nbd_module, size, 0)
        assert sum(length for _, length, _ in found) == size
        assert [at for at, _, _ in found] == [
            sum(length for _, length, _ in found[:index]) for index in range(len(found))
        ]
        assert len(chunks_of(reader, nbd_module, size, 0, nbd_module.CMD_FLAG_DF)) == 1


def drop_from_cache(path: str) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def memory_provider(provider_class: Any) -> Iterator[Any]:
    """A volume on a memory file system, which can punch holes and cannot zero otherwise."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("needs a memory file system on /dev/shm")
    directory = tempfile.mkdtemp(prefix="ss-", dir="/dev/shm")
    made = provider_class(directory)
    made.start()
    yield made
    made.close()
    assert "Traceback" not in made.log()
    shutil.rmtree(directory)


def test_fast_zeroes(memory_provider: Any, nbd_module: Any) -> None:
    """Quick with a hole; where it would have to write, refused with nothing written."""
    client = connect(nbd_module, memory_provider.uri)
    client.pwrite(b"a" * 65536, 0)
    memory_provider.control().snapshot()
    fast, no_hole = nbd_module.CMD_FLAG_FAST_ZERO, nbd_module.CMD_FLAG_NO_HOLE
    client.zero(16384, 0, fast)
    for _ in range(2):
        with pytest.raises(nbd_module.Error) as caught:
            client.zero(16384, 32768, fast | no_hole)
        assert caught.value.errnum == 95
    assert client.pread(65536, 0) == bytes(16384) + b"a" * 49152
    client.zero(16384, 32768, no_hole)
    client.zero(100, 16384, fast | nbd_module.CMD_FLAG_FUA)
    assert client.pread(65536, 0)[16384:] == bytes(100) + b"a" * 16284 + bytes(16384) + b"a" * 16384
    shadow = connect(nbd_module, f"nbd+unix:///?socket={memory_provider.export()}")
    assert shadow.pread(65536, 0) == b"a" * 65536


def test_errors_reach_the_user_as_a_sentence(provider: Any, nbd_module: Any) -> None:
    script = f"h.set_strict_mode(0)\ntry:\n  h.pread(512, {provider.size})\nexcept nbd.Error as e:\n  print(e.errno)\n"
    command = [sys.executable, "-m", "nbd", "-v", "-u", provider.uri, "-c", script]
    environment = os.environ | {"PYTHONPATH": os.path.dirname(nbd_module.__file__)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment)
    assert done.stdout.strip() == "EINVAL", done.stderr
    assert f"goes beyond the end at byte {provider.size}" in done.stderr


def test_qemu_converts_sparsely_and_back(provider: Any, nbd_module: Any, workdir: str, tools: Any) -> None:
    """What is not allocated is neither read nor written."""
    tools("qemu-img")
    client = connect(nbd_module, provider.uri)
    data = os.urandom(1 << 20)
    client.pwrite(data, 3 << 20)
    copy = provider.control().snapshot()
    client.zero(provider.size, 0)
    client.flush()
    shadow = f"nbd+unix:///{copy}?socket={provider.export()}"
    subprocess.run(["qemu-img", "convert", "-O", "raw", shadow, f"{workdir}/out"], check=True, timeout=60)
    content = Path(f"{workdir}/out").read_bytes()
    assert content == bytes(3 << 20) + data + bytes(provider.size - (4 << 20))
    assert os.stat(f"{workdir}/out").st_blocks * 512 <= 2 << 20
    command = ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", f"{workdir}/out", provider.uri]
    subprocess.run(command, check=True, timeout=60)
    assert Path(provider.origin).read_bytes() == content
    assert os.stat(provider.origin).st_blocks * 512 <= 2 << 20


@pytest.mark.parametrize("structured", [False, True])
def test_many_clients_of_a_copy_at_once(provider: Any, nbd_module: Any, random_image: bytes, structured: bool) -> None:
    """Reads from cache, slots and disk mix while the writer goes on; each gets its own bytes."""
    copy = provider.control().snapshot()
    uri = f"nbd+unix:///{copy}?socket={provider.export()}"
    wrong: list[int] = []
    stop = time.monotonic() + 2

    def read(number: int) -> None:
        client = connect(nbd_module, uri, structured=structured)
        place = number
        while time.monotonic() < stop:
            place = place * 1103515245 + 12345 & 0x7FFFFFFF
            length = (512, 4096, 70000, 300000)[place >> 8 & 3]
            offset = place % (provider.size - length)
            if client.pread(length, offset) != random_image[offset : offset + length]:
                wrong.append(offset)
            if not place & 31:
                drop_from_cache(provider.origin)
        client.shutdown()

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    writer = connect(nbd_module, provider.uri)
    place = 1
    while time.monotonic() < stop:
        place = place * 1103515245 + 12345 & 0x7FFFFFFF
        writer.pwrite(os.urandom(4096), place % (provider.size - 4096))
    for thread in threads:
        thread.join(30)
    assert not wrong


def test_a_deleted_copy_is_an_error_not_old_data(provider: Any, nbd_module: Any, random_image: bytes) -> None:
    control = provider.control()
    copy, other = control.snapshot(), control.snapshot()
    socket = provider.export()
    readers = [connect(nbd_module, f"nbd+unix:///{name}?socket={socket}", "base:allocation") for name in (copy, other)]
    assert all(reader.pread(4096, 0) == random_image[:4096] for reader in readers)
    control.value(m.Delete, copy_id=copy)
    for call in (
        lambda: readers[0].pread(4096, 0),
        lambda: readers[0].pread(1 << 20, 0),
        lambda: readers[0].block_status(4096, 0, lambda *_: 0),
    ):
        with pytest.raises(nbd_module.Error):
            call()
    assert readers[1].pread(4096, 0) == random_image[:4096]
    assert f"shadow copy {copy} no longer exists" in provider.log()


def address(part: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(part))


def test_memory_of_replies_lies_where_copies_to_it_are_fast() -> None:
    space = Space()
    first, second = space.take(100), space.take(4096)
    assert address(first) % 4096 == 0 and address(second) == address(first) + 128
    space.give_back()
    assert address(space.take(512)) == address(second)
    large = space.take(FIRST_SPACE)
    assert len(large) == FIRST_SPACE and address(large) % 4096 == 0, "what does not fit is made"
    space.reset()
    first, second = space.take(512), space.take(FIRST_SPACE)
    assert address(second) == address(first) + 512, "it has grown"


def test_sentences_are_cut_between_characters() -> None:
    replies = Replies()
    replies.structured = True
    replies.error(7, 5, "é" * 5000)
    sent: list[bytes] = []
    replies.send(lambda pieces: sent.append(b"".join(pieces)) or len(sent[-1]))
    *_, length = p.CHUNK.unpack_from(sent[0])
    text = sent[0][p.CHUNK.size + p.CHUNK_ERROR.size :]
    assert text.decode() == "é" * 2048 and length == len(text) + p.CHUNK_ERROR.size
