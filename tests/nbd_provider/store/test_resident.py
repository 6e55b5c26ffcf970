"""Reading from mapped files: the same bytes as reading plainly, and no end of the process where a page is gone."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowset.nbd_provider.store import resident
from shadowset.nbd_provider.store.resident import Windows, read_cached

PAGE = mmap.PAGESIZE
SIZE = 40 * PAGE + 512
WINDOW = 8 * PAGE

compiled = pytest.mark.skipif(not resident.COMPILED, reason="the module in C was not built: gcc or python3-dev missing")


@pytest.fixture
def path() -> Iterator[str]:
    """On a disk: a memory file system has no RWF_NOWAIT."""
    directory = tempfile.mkdtemp(prefix="ss-disk-", dir="/var/tmp")
    with open(f"{directory}/file", "wb") as file:
        file.write(random.Random(1).randbytes(SIZE))
        file.flush()
        os.fsync(file.fileno())
    yield file.name
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def fd(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of a few pages, three of them, mapped when they are first read."""
    monkeypatch.setattr(resident, "WINDOW", WINDOW)
    monkeypatch.setattr(resident, "MOST_WINDOWS", 3)
    monkeypatch.setattr(resident, "PLAIN_TIMES", 0)
    monkeypatch.setattr(resident, "LEAST", 0)


@compiled
def test_it_reads_what_its_plain_twin_reads(fd: int, small: None) -> None:
    windows, chance = Windows(), random.Random(2)
    for _ in range(500):
        offset = chance.randrange(SIZE)
        length = min(SIZE - offset, chance.choice((1, 512, PAGE, WINDOW + 7, SIZE)))
        if chance.random() < 0.2:
            os.pwrite(fd, chance.randbytes(length), offset)
        mapped, plain = memoryview(bytearray(length)), memoryview(bytearray(length))
        assert windows.read(fd, offset, mapped) and read_cached(fd, offset, plain)
        assert mapped == plain
    assert 0 < len(windows._mapped) <= 3
    windows.close()
    assert not windows._mapped


@compiled
def test_only_what_is_read_again_is_mapped(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    windows, target = Windows(), memoryview(bytearray(SIZE))
    assert windows.read(fd, 0, target) and not windows._mapped
    assert windows.read(fd, 0, target) and len(windows._mapped) == 1
    small = memoryview(bytearray(512))
    monkeypatch.setattr(resident, "copy_resident", None)
    assert windows.read(fd, 0, small) and small == target[:512], "too little to be worth asking"


def test_without_the_compiled_module(fd: int, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "COMPILED", False)
    windows, target = Windows(), memoryview(bytearray(SIZE))
    assert windows.read(fd, 0, target) and target == os.pread(fd, SIZE, 0)
    assert not windows._mapped


@compiled
def test_a_file_that_grows(fd: int, small: None) -> None:
    """A window that ends with the file is mapped anew when there is more."""
    windows = Windows()
    assert windows.read(fd, SIZE - 512, memoryview(bytearray(512)))
    more = random.Random(3).randbytes(PAGE)
    os.pwrite(fd, more, SIZE)
    target = memoryview(bytearray(PAGE))
    assert windows.read(fd, SIZE, target) and target == more


@compiled
def test_what_is_not_in_memory_is_not_waited_for(path: str, fd: int) -> None:
    window = mmap.mmap(fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ)
    target = bytearray(SIZE)
    for _ in range(100):  # pages that something else looks at stay for a moment
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if not resident.copy_resident(target, window, 0):
            break
    else:
        pytest.fail("the pages do not leave the cache")
    assert resident.copy_resident(target, window, 0, False), "it waits"
    assert resident.copy_resident(target, window, 0) and target == os.pread(fd, SIZE, 0)


@compiled
def test_ranges_outside_of_the_window_are_refused(fd: int) -> None:
    window = mmap.mmap(fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ)
    for offset in (-1, 1, SIZE + 1):
        with pytest.raises(ValueError, match="not in the window"):
            resident.copy_resident(bytearray(SIZE), window, offset)


@compiled
def test_somebody_elses_file_is_not_mapped(fd: int, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would say that all of it is in memory."""
    monkeypatch.setattr(resident, "may_ask", lambda *_: False)
    windows, target = Windows(), memoryview(bytearray(SIZE))
    assert windows.read(fd, 0, target) and not windows._mapped


@compiled
def test_pages_that_are_lost_end_the_copying_only(path: str, fd: int) -> None:
    """In every thread, as often as it happens."""
    window = mmap.mmap(fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ)
    os.ftruncate(fd, PAGE)
    results: list[bool] = []

    def read() -> None:
        target = bytearray(SIZE)
        for _ in range(20):
            results.append(resident.copy_resident(target, window, 0, False))
            results.append(not resident.copy_resident(target[:PAGE], window, 0, False))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 160 and not any(results)
    assert not resident.copy_resident(bytearray(SIZE), window, 0), "and they are not in memory"


ELSEWHERE = """
import faulthandler, mmap, os, sys
from shadowset.nbd_provider.store import resident
fd = os.open(sys.argv[1], os.O_RDWR)
window = mmap.mmap(fd, 8192, mmap.MAP_SHARED, mmap.PROT_READ)
copy = lambda: resident.copy_resident(bytearray(8192), window, 0, False)
assert copy()
os.ftruncate(fd, 0)
for step in sys.argv[2:]:
    if step == "trace":
        faulthandler.enable()
    assert not copy()
print("copied", flush=True)
window[0]
"""


@compiled
@pytest.mark.parametrize("steps", [("copy",), ("trace",), ("copy", "trace", "copy")])
def test_a_bus_error_elsewhere_is_what_it_was(path: str, steps: tuple[str, ...]) -> None:
    """With Python's faulthandler before or after the first copy, and without."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, path, *steps], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGBUS and done.stdout == "copied\n", done.stderr
    assert ("Bus error" in done.stderr) == ("trace" in steps)


def test_both_ways_to_read_what_is_in_memory(path: str, fd: int) -> None:
    """In C, and in Python where there was no compiler."""
    for read in {resident.read_cached, resident.read_cached_twin}:
        expected = Path(path).read_bytes()
        for offset, length in ((0, SIZE), (511, PAGE), (SIZE - 1, 1)):
            target = memoryview(bytearray(length))
            assert read(fd, offset, target) and target == expected[offset : offset + length]
        assert not read(fd, SIZE - 1, memoryview(bytearray(2))), "the file ends"
        with pytest.raises(OSError, match="Bad file descriptor"):
            read(-1, 0, memoryview(bytearray(1)))
        assert stops(read, fd)


def stops(read: resident.Pread, fd: int) -> bool:
    """Whether it does not wait for a page that has left the memory; one that is looked at elsewhere stays a moment."""
    for _ in range(100):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if not read(fd, 8 * PAGE, memoryview(bytearray(PAGE))):
            return True
    return False


@compiled
def test_reads_that_arrive_together(path: str, fd: int) -> None:
    expected, chance = Path(path).read_bytes(), random.Random(4)
    for start in (True, False) * 20:
        ranges = [(at, min(chance.choice((1, 512, PAGE, 9999)), SIZE - at)) for at in chance.sample(range(SIZE), 9)]
        if start:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        target = bytearray(sum(length for _, length in ranges))
        count, error = resident.read_arrived(fd, ranges, target, start)
        assert 1 <= count <= 9 and not error, "the first is waited for"
        wanted = b"".join(expected[at : at + length] for at, length in ranges[:count])
        assert target[: len(wanted)] == wanted


@compiled
def test_reads_that_arrive_with_an_error(fd: int) -> None:
    target = bytearray(3 * PAGE)
    os.pread(fd, SIZE, 0)
    beyond = [(0, PAGE), (PAGE, PAGE), (SIZE - 1, PAGE)]
    assert resident.read_arrived(fd, beyond, target, False) == (2, 0), "the last is left to another look"
    assert resident.read_arrived(fd, beyond[2:], target, False) == (0, errno.EIO)
    assert resident.read_arrived(-1, beyond, target, True) == (0, errno.EBADF)
    for wrong in ([], [(0, 4 * PAGE)], [(0, -1)], [(0, PAGE), (0, 3 * PAGE)]):
        with pytest.raises(ValueError, match="ranges"):
            resident.read_arrived(fd, wrong, target, False)
    with pytest.raises(TypeError):
        resident.read_arrived(fd, [5], target, False)  # type: ignore[list-item]
