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

from shadowset.nbd_provider.store import layout, mapped, resident
from shadowset.nbd_provider.store.changes import changed_runs
from shadowset.nbd_provider.store.files import Segment, Segments
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.reclaim import Reclaimer
from shadowset.nbd_provider.store.segment_check import SegmentView
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss import provider_protocol as m
from shadowset.vss.codes import VssError

CHUNK = layout.DEFAULT_CHUNK_SIZE
SIZE = 1024 * CHUNK
LATE = 700
"""A chunk whose word lies in the second page of ``head``."""
COPY = UUID(int=1)
compiled = pytest.mark.skipif(not resident.COMPILED, reason="the module in C was not built: gcc or python3-dev missing")
READ = """
import sys
from uuid import UUID
from shadowset.nbd_provider.store.files import Segment, Segments
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.reclaim import Reclaimer
from shadowset.nbd_provider.store.segment_check import SegmentView
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


@compiled
@pytest.mark.parametrize("policy", ["delete-oldest", "protect-copies"])
def test_words_that_go_while_they_are_in_use(provider: Any, nbd_module: Any, random_image: bytes, policy: str) -> None:
    """Their page was looked at, and is not asked for again: touching it would end the process."""
    control = provider.control()
    copies = [control.snapshot(), control.snapshot()]
    control.value(m.Configure, policy=policy)
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    for chunk in (5, LATE):
        client.pwrite(b"n" * CHUNK, chunk * CHUNK)
    os.truncate(f"{provider.storage}/head", layout.PAGE)
    for chunk in (LATE, LATE + 1):
        if policy == "delete-oldest":
            client.pwrite(b"o" * CHUNK, chunk * CHUNK)
            continue
        with pytest.raises(nbd_module.Error) as caught:
            client.pwrite(b"o" * CHUNK, chunk * CHUNK)
        assert caught.value.errno == "EIO"
    left = [each["copy_id"] for each in control.value(m.Describe)["copies"] if not each["lost"]]
    assert left == ([] if policy == "delete-oldest" else copies)
    expected = bytearray(random_image)
    expected[5 * CHUNK : 6 * CHUNK] = b"n" * CHUNK
    expected[LATE * CHUNK : (LATE + 2) * CHUNK] = (
        b"o" * 2 * CHUNK if policy == "delete-oldest" else b"n" * CHUNK + random_image[(LATE + 1) * CHUNK :][:CHUNK]
    )
    assert client.pread(SIZE, 0) == expected
    if policy == "delete-oldest":
        copy = control.snapshot()
        client.pwrite(b"p" * CHUNK, LATE * CHUNK)
        assert provider.content(copy) == expected, "what comes later lies in files made anew"


@pytest.fixture
def words(workdir: str) -> Iterator[tuple[mapped.Mapped, str]]:
    path = f"{workdir}/words"
    Path(path).write_bytes(b"7" * 4 * mapped.PAGE)
    fd = os.open(path, os.O_RDWR)
    made = mapped.Mapped(fd, 4 * mapped.PAGE_WORDS, True, most=4)
    made.ready(0, 4 * mapped.PAGE_WORDS)
    yield made, path
    made.close()
    os.close(fd)


@compiled
def test_a_word_that_goes_is_nought_and_an_error_from_then_on(words: tuple[mapped.Mapped, str]) -> None:
    gone, path = words
    os.truncate(path, mapped.PAGE)
    assert gone.view[0] and len(gone.pages) == 4
    gone.check()
    assert gone.view[mapped.PAGE_WORDS] == 0
    for action in (gone.check, lambda: gone.get(0), lambda: gone.put(0, 1), lambda: gone.ready(0)):
        with pytest.raises(OSError, match="went while they were in use"):
            action()
    assert not gone.pages, "nobody takes them for there any more"


@compiled
@pytest.mark.parametrize("store", [True, False])
def test_a_word_that_goes_beneath_a_look_or_a_store_is_an_error(words: tuple[mapped.Mapped, str], store: bool) -> None:
    gone, path = words
    gone.ready = gone.ready_to_store = lambda *_: os.truncate(path, 0)  # type: ignore[method-assign]
    with pytest.raises(OSError, match="went while they were in use"):
        gone.put(3, 1) if store else gone.get(3)


@compiled
def test_a_segment_whose_records_went_is_not_given_back(workdir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros would say that nothing of it is in use."""
    origin, storage = f"{workdir}/origin.img", f"{workdir}/storage"
    Path(origin).write_bytes(bytes(SIZE))
    fd = os.open(origin, os.O_RDWR)
    store = ShadowStore(storage, fd, SIZE)
    store.commit(COPY, UUID(int=2), 1, False)
    monkeypatch.setattr(layout, "SEGMENT_SLOTS", 8)
    for first in (0, 8):
        store.prepare_write([(first * CHUNK, 8 * CHUNK)])
    real = Segment.records

    def records(segment: Segment, first: int, end: int) -> memoryview:
        view = real(segment, first, end)
        os.truncate(segment.path, 0)
        return view

    monkeypatch.setattr(Segment, "records", records)
    with pytest.raises(OSError, match="went while they were in use"):
        list(Reclaimer(store.segments, store.head, store.table, store.next_slot, CHUNK).steps())
    assert os.path.exists(f"{storage}/{layout.segment_name(0)}")
    store.close(clean=False)
    os.close(fd)


def test_a_way_back_that_would_never_end(kept: tuple[str, str, bytes]) -> None:
    """Damaged records that lead to each other, for readers and for what walks with the writer's lock."""
    storage, origin, _ = kept
    fd = os.open(f"{storage}/{layout.segment_name(0)}", os.O_RDWR)
    for slot in (0, 1):
        at = slot * layout.SLOT_RECORD_SIZE + layout.WORD_PREVIOUS * layout.WORD
        os.pwrite(fd, layout.pack_head(2, 1 - slot).to_bytes(8, "little"), at)
    os.close(fd)
    with open(f"{storage}/head", "r+b") as head:
        head.seek(5 * layout.WORD)
        head.write(layout.pack_head(2, 0).to_bytes(8, "little"))
    assert read_in_process(storage, origin, 5, LATE, 6) == [errno.EIO, CHUNK, CHUNK]
    segments = Segments(storage, CHUNK)
    with pytest.raises(OSError, match="damaged: slot 0 leads back to slot 1"):
        segments.find(layout.pack_head(2, 0), 1)
    assert segments.find(layout.pack_head(1, 1), 1) == 1, "its own is not looked behind"
    segments.close()


def test_what_changed_between_two_copies_along_such_a_way(workdir: str) -> None:
    origin, storage = f"{workdir}/origin.img", f"{workdir}/storage"
    Path(origin).write_bytes(bytes(SIZE))
    fd = os.open(origin, os.O_RDWR)
    store = ShadowStore(storage, fd, SIZE)
    for copy in (COPY, UUID(int=3)):
        store.commit(copy, UUID(int=2), 1, False)
    store.prepare_write([(5 * CHUNK, CHUNK)])
    store.close(clean=False)
    os.close(fd)
    with open(f"{storage}/{layout.segment_name(0)}", "r+b") as segment:
        segment.seek(layout.WORD_PREVIOUS * layout.WORD)
        segment.write(layout.pack_head(2, 0).to_bytes(8, "little"))
    ask = (
        "import sys; from uuid import UUID; from shadowset.nbd_provider.store.changes import changed_runs\n"
        "try: print(changed_runs(sys.argv[1], UUID(int=1), UUID(int=3)))\n"
        "except OSError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", ask, storage], capture_output=True, text=True, check=False, timeout=60)
    assert "slot 0 leads back to slot 0" in done.stdout, done


@compiled
def test_a_check_of_records_that_go(kept: tuple[str, str, bytes]) -> None:
    path = f"{kept[0]}/{layout.segment_name(0)}"
    view = SegmentView(path, 0)
    assert view.used_end == 2 and view.record(1).used
    os.truncate(path, 0)
    with pytest.raises(OSError, match="went while they were in use"):
        view.record(1)
    view.close()


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


def test_a_big_endian_machine_is_told_that_it_cannot(
    kept: tuple[str, str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, origin, _ = kept
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(VssError, match="big-endian"):
        CopyReader(storage, origin, COPY)
    with pytest.raises(VssError, match="big-endian"):
        ShadowStore(storage, -1, SIZE)


def test_the_other_readers_of_a_storage(kept: tuple[str, str, bytes]) -> None:
    """One reader before and after: its files stay open, and what it finds in them is right or an error."""
    storage, origin, content = kept
    reader = CopyReader(storage, origin, COPY)
    os.truncate(f"{storage}/head", layout.PAGE)
    assert reader.read(0, 256 * CHUNK) == content[: 256 * CHUNK]
    with pytest.raises(OSError, match="ends before its word"):
        reader.read(0, SIZE)
    reader.close()
