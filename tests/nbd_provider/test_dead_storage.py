"""A storage that takes no write any more costs its copies, and writes only where no loss can be recorded either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss import provider_protocol as m

CHUNK = 16384
DYING = """
    import errno, os, sys
    storage, losses = (sys.argv[sys.argv.index(option) + 1] for option in ("--storage", "--losses"))
    flag = sys.argv.pop()

    def dying(real):
        def call(target, *rest, **keywords):
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target
            dead = path.startswith((storage, losses)) and os.path.exists(flag)
            if dead and (path.startswith(storage) or os.path.getsize(flag)):
                raise OSError(errno.EIO, "Input/output error")
            return real(target, *rest, **keywords)
        return call

    for name in ("pwrite", "pwritev", "fdatasync", "fsync", "posix_fallocate", "ftruncate", "rename", "unlink"):
        setattr(os, name, dying(getattr(os, name)))
    from shadowset.nbd_provider.main import main
    sys.exit(main())
"""


@pytest.fixture
def dying(patched_provider: Any) -> Any:
    """A provider whose storage takes nothing while the flag is there; nor do its losses while the flag has bytes."""
    return patched_provider(DYING)


def connect(nbd_module: Any, provider: Any) -> Any:
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    return client


def test_one_write_fails_and_everything_else_goes_on(dying: Any, nbd_module: Any) -> None:
    content = bytearray(Path(dying.origin).read_bytes())
    control = dying.control()
    copy = control.snapshot()
    before = bytes(content)
    client, other = connect(nbd_module, dying), connect(nbd_module, dying)
    client.pwrite(b"a" * CHUNK, 0)
    content[:CHUNK] = b"a" * CHUNK
    dying.flag.write_text("losses too")
    for action in (lambda: client.pwrite(b"b" * CHUNK, CHUNK), lambda: client.zero(CHUNK, CHUNK)):
        with pytest.raises(nbd_module.Error) as caught:
            action()
        assert caught.value.errno == "EIO"
    for each in (client, other):
        each.pwrite(b"c" * 512, 512)
        assert each.pread(CHUNK, CHUNK) == content[CHUNK : 2 * CHUNK]
    content[512:1024] = b"c" * 512
    assert {each["event"] for each in control.value(m.ListEvents)["events"]} == {"writes-refused"}
    dying.flag.unlink()
    client.pwrite(b"d" * CHUNK, CHUNK)
    content[CHUNK : 2 * CHUNK] = b"d" * CHUNK
    assert other.pread(dying.size, 0) == content
    reader = CopyReader(dying.storage, dying.origin, UUID(copy))
    assert reader.read(0, dying.size) == before
    reader.close()


@pytest.mark.vss(125)
def test_the_volume_goes_on_and_the_copy_is_lost_for_good(dying: Any, nbd_module: Any) -> None:
    """Readers in other processes see it at once, and it is still so after a kill with a storage that works again."""
    content = bytearray(Path(dying.origin).read_bytes())
    control = dying.control()
    copy = control.snapshot(persistent=True)
    reading = nbd_module.NBD()
    reading.connect_uri(f"nbd+unix:///{copy}?socket={dying.export()}")
    reading.pread(512, 0)
    dying.flag.touch()
    client = connect(nbd_module, dying)
    client.pwrite(b"a" * CHUNK, CHUNK)
    client.pwrite(b"b" * CHUNK, 3 * CHUNK)
    client.flush()
    with pytest.raises(nbd_module.Error):
        reading.pread(512, 0)
    for _ in range(2):
        [event] = dying.control().value(m.ListEvents)["events"]
        assert (event["event"], event["cause"], event["copy_id"]) == ("copy-lost", "error", copy)
        [row] = dying.control().value(m.Describe)["copies"]
        assert row["lost"] and row["cause"] == "error"
        dying.kill()
        dying.flag.unlink(missing_ok=True)
        dying.start()
    content[CHUNK : 2 * CHUNK], content[3 * CHUNK : 4 * CHUNK] = b"a" * CHUNK, b"b" * CHUNK
    assert connect(nbd_module, dying).pread(dying.size, 0) == content
    assert not list(Path(f"{dying.directory}/losses").glob("*/*"))


def test_writes_of_one_batch_fail_one_by_one(dying: Any, nbd_module: Any) -> None:
    control = dying.control()
    control.snapshot()
    client = connect(nbd_module, dying)
    before = client.pread(4 * CHUNK, 0) + client.pread(3 * CHUNK, 5 * CHUNK)
    client.pwrite(bytes(CHUNK), 4 * CHUNK)
    dying.flag.write_text("losses too")
    buffer = nbd_module.Buffer.from_bytearray
    waiting = {client.aio_pwrite(buffer(bytearray(b"x" * CHUNK)), chunk * CHUNK): chunk for chunk in range(8)}
    failed = set()
    while waiting:
        for cookie in list(waiting):
            try:
                if client.aio_command_completed(cookie):
                    del waiting[cookie]
            except nbd_module.Error:
                failed.add(waiting.pop(cookie))
        if waiting:
            client.poll(-1)
    assert failed == set(range(8)) - {4}
    dying.flag.unlink()
    assert client.pread(4 * CHUNK, 0) + client.pread(3 * CHUNK, 5 * CHUNK) == before
    assert client.pread(CHUNK, 4 * CHUNK) == b"x" * CHUNK


@pytest.fixture
def store(workdir: str) -> Iterator[ShadowStore]:
    with open(f"{workdir}/origin", "wb+") as file:
        file.truncate(8 * CHUNK)
        made = ShadowStore(f"{workdir}/storage", file.fileno(), 8 * CHUNK)
        yield made
        made.close()


def row_of(store: ShadowStore) -> layout.Entry | None:
    with open(f"{store.storage}/table", "rb") as file:
        return layout.Entry.unpack(os.pread(file.fileno(), layout.ENTRY_SIZE, layout.entry_offset(0)))


class Torn:
    """The next write goes half way, and those after it fail, ``failures`` of them."""

    def __init__(self, failures: int) -> None:
        self._real, self._calls, self._failures = os.pwrite, 0, failures

    def __call__(self, fd: int, data: Any, offset: int) -> int:
        self._calls += 1
        if self._calls > 1 + self._failures:
            return self._real(fd, data, offset)
        if self._calls > 1:
            raise OSError(5, "Input/output error")
        return self._real(fd, data[:20], offset)


@pytest.mark.parametrize("failures", [1, 2])
def test_a_row_that_was_written_in_part_is_put_back(
    store: ShadowStore, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    copy = uuid4()
    entry = store.commit(copy, uuid4(), 1, False)
    store.finish(copy)
    kept = row_of(store)
    for action in (
        lambda: store.set_copy(copy, 7, 1 << 40),
        lambda: store.delete(copy),
        lambda: store.lose(entry, "a test"),
    ):
        with monkeypatch.context() as patches:
            patches.setattr(os, "pwrite", Torn(failures))
            with pytest.raises(OSError, match="Input/output"):
                action()
            if failures == 1:
                assert row_of(store) == kept, "the row is whole at once"
        assert (entry.priority, entry.hold_until_ns, entry.cause) == (128, 0, 0)
        store.table.sync()
        assert row_of(store) == kept == entry, "the row is whole with the next look at the table"
    store.set_copy(copy, 7, None)
    assert entry.priority == 7 and row_of(store) == entry
