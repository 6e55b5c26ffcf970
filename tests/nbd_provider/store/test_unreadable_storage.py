"""Storage whose pages cannot be read is an error to a reader, and never the end of its process by SIGBUS.

A page of a mapped file beyond the file's end gives the same signal as one that the disk does not give.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shadowset.nbd_provider.store import layout, mapped
from shadowset.nbd_provider.store.changes import changed_runs
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss import provider_protocol as m

CHUNK = layout.DEFAULT_CHUNK_SIZE
SIZE = 1024 * CHUNK
LATE = 700
"""A chunk whose word lies in the second page of ``head``."""
COPY = UUID(int=1)
READ = """
import sys
from uuid import UUID
from shadowset.nbd_provider.store.reader import CopyReader
reader = CopyReader(sys.argv[1], sys.argv[2], UUID(int=1))
for chunk in map(int, sys.argv[3:]):
    try:
        print(len(reader.read(chunk * 16384, 16384)))
    except OSError as error:
        print(error.errno)
"""


@pytest.fixture
def kept(workdir: str) -> Iterator[tuple[str, str, bytes]]:
    """Storage and origin of a copy of which one chunk in each page of ``head`` was kept, and its content."""
    origin, storage = f"{workdir}/origin.img", f"{workdir}/storage"
    content = os.urandom(CHUNK) * (SIZE // CHUNK)
    Path(origin).write_bytes(content)
    fd = os.open(origin, os.O_RDWR)
    store = ShadowStore(storage, fd, SIZE)
    store.commit(COPY, UUID(int=2), 1, False)
    store.finish(COPY)
    for chunk in (5, LATE):
        store.prepare_write([(chunk * CHUNK, CHUNK)])
        os.pwrite(fd, b"n" * CHUNK, chunk * CHUNK)
    store.close(clean=False)
    os.close(fd)
    yield storage, origin, content


def read_in_process(storage: str, origin: str, *chunks: int) -> list[int]:
    """Bytes or error number of each chunk, from a process that would end with a signal."""
    command = [sys.executable, "-c", READ, storage, origin, *map(str, chunks)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def test_a_page_of_the_head_is_gone(kept: tuple[str, str, bytes]) -> None:
    storage, origin, _ = kept
    os.truncate(f"{storage}/head", layout.PAGE)
    assert read_in_process(storage, origin, 5, LATE, 6) == [CHUNK, errno.EIO, CHUNK]


def test_records_and_data_are_gone(kept: tuple[str, str, bytes]) -> None:
    storage, origin, _ = kept
    segment = f"{storage}/{layout.segment_name(0)}"
    os.truncate(segment, layout.SEGMENT_DATA)
    assert read_in_process(storage, origin, 5, LATE, 6) == [errno.EIO, errno.EIO, CHUNK]
    os.truncate(segment, 0)
    assert read_in_process(storage, origin, 5, LATE, 6) == [errno.EIO, errno.EIO, CHUNK]


def test_what_changed_is_not_known_then(kept: tuple[str, str, bytes]) -> None:
    storage, _, _ = kept
    assert [run.first for run in changed_runs(storage, COPY)] == [5, LATE]
    os.truncate(f"{storage}/head", layout.PAGE)
    with pytest.raises(OSError, match="ends before its word"):
        changed_runs(storage, COPY)


def test_a_client_is_told_and_goes_on(provider: Any, nbd_module: Any, random_image: bytes) -> None:
    copy = provider.control().snapshot()
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    client.pwrite(b"n" * 100, 5 * CHUNK)
    reader = nbd_module.NBD()
    reader.set_export_name(copy)
    reader.connect_unix(provider.export())
    assert reader.pread(CHUNK, 5 * CHUNK) == random_image[5 * CHUNK : 6 * CHUNK]
    segment = f"{provider.storage}/{layout.segment_name(0)}"
    client.pwrite(b"n" * 100, LATE * CHUNK)
    os.truncate(segment, layout.SEGMENT_DATA)
    for _ in range(2):
        with pytest.raises(nbd_module.Error) as caught:
            reader.pread(CHUNK, LATE * CHUNK)
        assert caught.value.errno == "EIO"
    assert reader.pread(CHUNK, 6 * CHUNK) == random_image[6 * CHUNK : 7 * CHUNK]


def test_the_live_volume_goes_on_without_the_copies_that_cannot_be_kept(
    provider: Any, nbd_module: Any, random_image: bytes
) -> None:
    """A page of ``head`` cannot be read: by the policy the copy is lost, and the write goes."""
    control = provider.control()
    copy = control.snapshot()
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    client.pwrite(b"n" * CHUNK, 5 * CHUNK)
    os.truncate(f"{provider.storage}/head", layout.PAGE)
    client.trim(CHUNK, LATE * CHUNK)
    client.pwrite(b"n" * CHUNK, LATE * CHUNK)
    assert client.pread(CHUNK, LATE * CHUNK) == b"n" * CHUNK
    assert client.pread(CHUNK, 6 * CHUNK) == random_image[6 * CHUNK : 7 * CHUNK]
    lost = [event for event in control.value(m.ListEvents)["events"] if event["event"] == "copy-lost"]
    assert [event["copy_id"] for event in lost] == [copy]
    control.snapshot()
    client.pwrite(b"o" * CHUNK, LATE * CHUNK)
    assert client.pread(CHUNK, LATE * CHUNK) == b"o" * CHUNK


def test_protected_copies_cost_the_write_an_error(provider: Any, nbd_module: Any, random_image: bytes) -> None:
    control = provider.control()
    copy = control.snapshot()
    control.value(m.Configure, policy="protect-copies")
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    client.pwrite(b"n" * CHUNK, 4 * CHUNK)  # allocates ``head`` on the disk, which would lengthen it again
    os.truncate(f"{provider.storage}/head", layout.PAGE)
    for _ in range(2):
        with pytest.raises(nbd_module.Error) as caught:
            client.pwrite(b"n" * CHUNK, LATE * CHUNK)
        assert caught.value.errno == "EIO"
    client.pwrite(b"n" * CHUNK, 5 * CHUNK)
    assert client.pread(CHUNK, LATE * CHUNK) == random_image[LATE * CHUNK : (LATE + 1) * CHUNK]
    assert [each["copy_id"] for each in control.value(m.Describe)["copies"]] == [copy]


def test_pages_that_were_looked_at_stay_in_memory(workdir: str) -> None:
    path = f"{workdir}/words"
    Path(path).write_bytes(bytes(8 * mapped.PAGE))
    fd = os.open(path, os.O_RDWR)
    words = mapped.Mapped(fd, 8 * mapped.PAGE_WORDS, True, most=2)
    for page in (0, 1, 1, 5):
        words.put(page * mapped.PAGE_WORDS + 3, page + 1)
        assert words.get(page * mapped.PAGE_WORDS + 3) == page + 1
    assert list(words.pages) == [1, 5]
    words.ready(0, 8 * mapped.PAGE_WORDS)
    os.truncate(path, 4 * mapped.PAGE)
    for action in (lambda: words.get(5 * mapped.PAGE_WORDS), lambda: words.put(5 * mapped.PAGE_WORDS, 1)):
        with pytest.raises(OSError, match="cannot be reached"):
            action()
    assert words.get(mapped.PAGE_WORDS + 3) == 2
    words.close()
    os.close(fd)


def test_the_other_readers_of_a_storage(kept: tuple[str, str, bytes]) -> None:
    """One reader before and after: its files stay open, and what it finds in them is right or an error."""
    storage, origin, content = kept
    reader = CopyReader(storage, origin, COPY)
    os.truncate(f"{storage}/head", layout.PAGE)
    assert reader.read(0, 256 * CHUNK) == content[: 256 * CHUNK]
    with pytest.raises(OSError, match="ends before its word"):
        reader.read(0, SIZE)
    reader.close()
