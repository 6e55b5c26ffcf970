"""Inside the guest: power is lost at every point that a disk was told to remember, with copies under way.

Arguments: how many points to look at, 0 for all, and how many files to write. Origin and shadow storage lie on two
disks that write one log, so their requests have one order. At a point each disk has what it was told before its own
last flush, and of what came later nothing, everything, or a part taken at random. A point is good when the storage's
file system mounts, every finished persistent copy is exact, the live file system mounts, is sound, and has what was
synced.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import sys
import time
from collections import Counter

from lane import (
    MIB,
    Volume,
    figure,
    fork,
    loop_device,
    run,
    step,
    wait,
    zeros,
)
from log_writes import DISCARD, FLUSH, FUA, MARK, Entry, read_log

from shadowset.nbd_provider import check_command
from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.volume import Volume as Served

ORIGIN_SIZE, STORAGE_SIZE, LOG_SIZE = 24 * MIB, 48 * MIB, 320 * MIB
PIECE = 64 * 1024
NAMES = 12
KEPT = 4


def mark(text: str) -> None:
    run("dmsetup", "message", "logged", "0", "mark", text)


def make_disks() -> None:
    disk = loop_device(zeros("/mnt/disk", ORIGIN_SIZE + STORAGE_SIZE))
    log = loop_device(zeros("/mnt/log", LOG_SIZE))
    sectors = ORIGIN_SIZE // 512, STORAGE_SIZE // 512
    run("dmsetup", "create", "logged", "--table", f"0 {sum(sectors)} log-writes {disk} {log}")
    run("dmsetup", "mknodes")
    run("dmsetup", "create", "origin", "--table", f"0 {sectors[0]} linear /dev/mapper/logged 0")
    run("dmsetup", "create", "storage", "--table", f"0 {sectors[1]} linear /dev/mapper/logged {sectors[0]}")
    run("dmsetup", "mknodes")
    run("mkfs.ext4", "-q", "/dev/mapper/storage")
    os.mkdir("/mnt/below")
    run("mount", "/dev/mapper/storage", "/mnt/below")


def content(version: int) -> bytes:
    chance = random.Random(version)
    return b"%8d\n" % version + chance.randbytes(chance.randrange(1, 60_000))


class Load:
    """Files replaced with a sync, others written without one, copies made and deleted; all of it marked in the log."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.digests: dict[str, str] = {}

    def run(self, files: int) -> None:
        noise = fork(self._noise)
        for version in range(files):
            self._replace(version)
            if version % 8 == 4:
                self._cut(persistent=version % 16 == 4)
            if version == files // 2:
                self.volume.kill()
                self.volume.start()
                self.volume.attach_command("reconnect")
        mark("end")
        os.kill(noise, signal.SIGKILL)
        wait(noise)

    def _noise(self) -> None:
        chance = random.Random(0)
        fd = os.open(f"{self.volume.place}/noise", os.O_RDWR | os.O_CREAT)
        while True:
            os.pwrite(fd, chance.randbytes(8192), chance.randrange(512) * 4096)
            time.sleep(0.02)

    def _replace(self, version: int) -> None:
        path = f"{self.volume.place}/file{version % NAMES}"
        with open(f"{path}.new", "wb") as file:
            file.write(content(version))
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{path}.new", path)
        directory = os.open(self.volume.place, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        mark(f"file-{version}")

    def _cut(self, persistent: bool) -> None:
        copy = self.volume.snapshot(persistent)
        self.digests[copy] = self.volume.sums[copy]
        if persistent:
            mark(f"copy-{copy}")
        if len(self.volume.sums) > KEPT:
            oldest = next(iter(self.volume.sums))
            mark(f"deleting-{oldest}")
            self.volume.delete(oldest)


class Disk:
    """What is durable on one disk, and what may or may not be."""

    def __init__(self, start: int, size: int) -> None:
        self.start, self.size = start, size
        self._durable = bytearray(size)
        self._touched: set[int] = set()
        self._since: list[tuple[int, bytes, bool]] = []

    def has(self, entry: Entry) -> bool:
        return self.start <= entry.offset < self.start + self.size

    def take(self, entry: Entry) -> None:
        if entry.flags & FLUSH:
            for offset, data, _ in self._since:
                self._durable[offset : offset + len(data)] = data
            self._since.clear()
        data = bytes(entry.length) if entry.flags & DISCARD else entry.data
        if data:
            first = entry.offset - self.start
            self._touched.update(range(first // PIECE, (first + len(data) - 1) // PIECE + 1))
            self._since.append((first, data, bool(entry.flags & FUA)))

    def write_crashed(self, path: str, share: float, chance: random.Random) -> None:
        """The disk after a power loss, with this share of what was never flushed."""
        with open(path, "wb") as file:
            file.truncate(self.size)
            for piece in self._touched:
                file.seek(piece * PIECE)
                file.write(self._durable[piece * PIECE : (piece + 1) * PIECE])
            for offset, data, durable in self._since:
                if durable or chance.random() < share:
                    file.seek(offset)
                    file.write(data)


class Known:
    """What the load had been promised when power was lost."""

    def __init__(self) -> None:
        self.copies: set[str] = set()
        self.version = -1

    def take(self, text: str) -> None:
        word, _, rest = text.partition("-")
        if word == "file":
            self.version = int(rest)
        elif word == "copy":
            self.copies.add(rest)
        elif word == "deleting":
            self.copies.discard(rest)


def check_copies(known: Known, digests: dict[str, str], seen: Counter[str]) -> None:
    run("mount", "-t", "ext4", "-o", "loop", "/mnt/crashed.storage", "/mnt/after")
    try:
        storage = "/mnt/after/storage"
        served = Served("one", "/mnt/crashed.origin", storage)
        states = {str(entry.copy_id): entry.state for entry in served.store.table.entries}
        served.store.close(clean=False)
        served.origin.close()
        reader = Volume("one", "/mnt/crashed.origin", storage)
        for copy, state in states.items():
            if state not in layout.LIVE_STATES:
                assert copy not in known.copies, f"copy {copy} was finished and is lost"
                seen["copies reported lost"] += state == layout.STATE_LOST
                continue
            assert reader.read_copy(copy) == digests[copy], f"copy {copy} is not what it was"
            seen["copies exact"] += 1
        assert known.copies <= set(states), f"of finished copies there is no trace: {known.copies - set(states)}"
        with contextlib.redirect_stdout(io.StringIO()) as told:
            assert check_command.main([storage, "--origin", "/mnt/crashed.origin"]) == 0, told.getvalue()
    finally:
        run("umount", "/mnt/after")


def check_files(known: Known, seen: Counter[str]) -> None:
    run("mount", "-t", "ext4", "-o", "loop", "/mnt/crashed.origin", "/mnt/after")
    try:
        for name in range(NAMES):
            least = max((v for v in range(known.version + 1) if v % NAMES == name), default=-1)
            if not os.path.exists(f"/mnt/after/file{name}"):
                assert least < 0, f"version {least} was synced, and its file is missing"
                continue
            with open(f"/mnt/after/file{name}", "rb") as file:
                there = file.read()
            version = int(there[:8])
            assert version >= least, f"version {least} was synced, and version {version} is there"
            assert there == content(version), f"version {version} has another content"
            seen["synced files right"] += 1
    finally:
        run("umount", "/mnt/after")
    run("fsck.ext4", "-f", "-n", "/mnt/crashed.origin")


def points() -> list[int]:
    """Numbers of the entries, from the begin of the load to its end, that made something durable."""
    found, running = [], False
    for entry in read_log("/mnt/log"):
        if entry.flags & MARK:
            running = entry.mark == "begin" or (running and entry.mark != "end")
        elif running and entry.durable:
            found.append(entry.number)
    return found


def replay(chosen: set[int], digests: dict[str, str]) -> Counter[str]:
    disks = {"origin": Disk(0, ORIGIN_SIZE), "storage": Disk(ORIGIN_SIZE, STORAGE_SIZE)}
    known, seen, chance = Known(), Counter[str](), random.Random(1)
    for entry in read_log("/mnt/log"):
        if entry.flags & MARK:
            known.take(entry.mark)
            continue
        for disk in disks.values():
            if disk.has(entry):
                disk.take(entry)
        if entry.number in chosen:
            share = chance.choice([0, 0.5, 1])
            for name, disk in disks.items():
                disk.write_crashed(f"/mnt/crashed.{name}", share, chance)
            try:
                check_copies(known, digests, seen)
                check_files(known, seen)
            except BaseException:
                step(f"power was lost after entry {entry.number}, with {share:.0%} of what was not flushed")
                raise
            seen["points"] += 1
            if not seen["points"] % 50:
                step(f"{seen['points']} of {len(chosen)} points are good")
    return seen


def everything() -> None:
    layout.SEGMENT_SLOTS = 1024  # several of them, and a recovery that looks through less
    layout.SEGMENT_DATA = layout.SEGMENT_SLOTS * layout.SLOT_RECORD_SIZE
    wanted, files = int(sys.argv[1]), int(sys.argv[2])
    make_disks()
    volume = Volume("one", "/dev/mapper/origin", "/mnt/below/storage")
    volume.start()
    volume.attach()
    volume.make_file_system("ext4")
    volume.mount()
    mark("begin")
    load = Load(volume)
    load.run(files)
    step(f"{files} files replaced, {len(load.digests)} copies made")
    volume.put_away()
    run("umount", "/mnt/below")
    for name in ("storage", "origin", "logged"):
        run("dmsetup", "remove", name)
    os.mkdir("/mnt/after")
    there = points()
    chosen = there[:: max(1, len(there) // wanted)][-wanted:] if wanted else there
    seen = replay(set(chosen), load.digests)
    assert seen["points"] == len(chosen) and seen["copies exact"] and seen["synced files right"], seen
    figure(f"{len(there)} flushes and FUA writes; " + ", ".join(f"{count} {what}" for what, count in seen.items()))


if __name__ == "__main__":
    everything()
    step("all is well")
