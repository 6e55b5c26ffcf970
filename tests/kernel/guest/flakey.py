"""Inside the guest: disks that fail writes, fail everything, or forget what they took, beneath origin and storage.

Arguments: the cases to play. In each, files are replaced and synced, copies are made, then a disk begins to fail. What
was synced without an error has to be there afterwards, each copy is exact or reported lost, and the application learns
of what concerns it and of nothing else.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable

from lane import MIB, Volume, figure, loop_device, run, step, zeros

from shadowset.vss.codes import VssError

ORIGIN_SIZE, STORAGE_SIZE = 24 * MIB, 48 * MIB
FEATURES = {"error-writes": "1 error_writes", "drop-writes": "1 drop_writes", "dead": "0"}


class Disk:
    """A disk that is sound until it is told otherwise."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.path = name, f"/dev/mapper/{name}"
        self._sectors = size // 512
        self._below = loop_device(zeros(f"/mnt/{name}.disk", size))
        run("dmsetup", "create", name, "--table", self._table(1, 0, "0"))
        run("dmsetup", "mknodes")

    def _table(self, up: int, down: int, features: str) -> str:
        return f"0 {self._sectors} flakey {self._below} 0 {up} {down} {features}"

    def _become(self, table: str) -> None:
        """Without a flush, and without a freeze of what is mounted on it: errors come when they like."""
        run("dmsetup", "load", self.name, "--table", table)
        run("dmsetup", "suspend", "--nolockfs", "--noflush", self.name)
        run("dmsetup", "resume", self.name)

    def fail(self, how: str) -> None:
        self._become(self._table(0, 1, FEATURES[how]))

    def fail_now_and_then(self, how: str) -> None:
        """One second it works, in the next it does not."""
        self._become(self._table(1, 1, FEATURES[how]))

    def heal(self) -> None:
        self._become(self._table(1, 0, "0"))

    def remove(self) -> None:
        run("dmsetup", "remove", self.name)
        run("losetup", "-d", self._below)


def content(version: int) -> bytes:
    return b"%8d\n" % version + random.Random(version).randbytes(20_000 + version * 7919 % 30_000)


class Case:
    """A volume with a past: files, a persistent copy, an auto-release one."""

    def __init__(self, name: str, fs_type: str) -> None:
        self.name = name
        self.origin = Disk("origin", ORIGIN_SIZE)
        self.storage = Disk("storage", STORAGE_SIZE)
        run("mkfs.ext4", "-q", self.storage.path)
        os.makedirs("/mnt/below", exist_ok=True)
        run("mount", self.storage.path, "/mnt/below")
        self.volume = Volume(name, self.origin.path, "/mnt/below/storage", "--losses", f"/mnt/elsewhere/{name}")
        self.volume.start()
        self.volume.attach()
        self.volume.make_file_system(fs_type)
        self.volume.mount()
        self.synced: dict[str, set[int]] = {}
        self.errors = 0
        self._version = 0
        self.write(10)
        self.volume.snapshot(persistent=True)
        self.write(5)
        self.volume.snapshot(persistent=False)
        self.write(5)

    def write(self, count: int) -> None:
        """Replace files. ``synced`` has what each may show: an attempt that failed may have come through."""
        for _ in range(count):
            self._version += 1
            name = f"file{self._version % 8}"
            self.synced.setdefault(name, set()).add(self._version)
            try:
                self._replace(f"{self.volume.place}/{name}")
            except OSError:
                self.errors += 1
            else:
                self.synced[name] = {self._version}

    def _replace(self, path: str) -> None:
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(fd, content(self._version))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(f"{path}.new", path)
        directory = os.open(self.volume.place, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def check_files(self) -> int:
        """What was synced without an error is there."""
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("3")
        for name, versions in self.synced.items():
            with open(f"{self.volume.place}/{name}", "rb") as file:
                there = file.read()
            version = int(there[:8])
            assert version in versions, f"{name} has version {version} instead of one of {versions}"
            assert there == content(version), f"{name} has wrong bytes"
        return len(self.synced)

    def check_copies(self) -> Counter[str]:
        """Each is exact, or reported lost and not to be read."""
        seen = Counter[str]()
        rows = self.volume.copies()
        told = {event["copy_id"] for event in self.volume.events() if event["event"] == "copy-lost"}
        for copy, value in self.volume.sums.items():
            if copy in rows and not rows[copy]["lost"]:
                assert self.volume.read_copy(copy) == value, f"copy {copy} is wrong and nobody says so"
                seen["exact"] += 1
                continue
            with contextlib.suppress(VssError, OSError):
                self.volume.read_copy(copy)
                raise AssertionError(f"copy {copy} is lost and can be read")
            assert copy in told or copy not in rows, f"copy {copy} is lost and no event says so"
            seen["lost and reported"] += 1
        return seen

    def take_down(self) -> None:
        """Without any care for errors: the disk may be failing."""
        run("umount", self.volume.place)
        self.volume.attach_command("detach", "--force")
        self.volume.kill()
        run("umount", "/mnt/below")

    def come_back(self) -> None:
        """As after a reboot, with sound disks."""
        self.origin.heal()
        self.storage.heal()
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("3")
        run("mount", self.storage.path, "/mnt/below")
        self.volume.start()
        self.volume.attach()
        self.volume.mount()

    def put_away(self) -> None:
        self.volume.put_away()
        run("umount", "/mnt/below")
        self.origin.remove()
        self.storage.remove()

    def tell(self, when: str, copies: Counter[str], files: int) -> None:
        there = ", ".join(f"{count} {what}" for what, count in copies.items())
        figure(f"{self.name}, {when}: {self.errors} errors told, {files} synced files right, copies: {there}")


def origin_fails(case: Case, how: str) -> None:
    """The application is told, copies do not suffer."""
    case.origin.fail(how)
    end = time.monotonic() + 60
    while not case.errors:
        assert time.monotonic() < end, "the disk fails, and the application is told nothing"
        case.write(1)
    case.origin.heal()
    copies = case.check_copies()
    assert copies["exact"] == 2, copies
    case.take_down()
    case.come_back()
    case.tell("after a restart", case.check_copies(), case.check_files())
    case.write(3)


def storage_fails(case: Case, how: str) -> None:
    """The application notices nothing; copies that cannot be kept are lost, and that is told."""
    case.storage.fail(how)
    case.write(25)
    assert not case.errors, "the storage fails, and the application pays"
    copies = case.check_copies()
    assert copies["lost and reported"] == 2, copies
    case.tell("while it fails", copies, case.check_files())
    case.take_down()
    case.come_back()
    case.tell("after a restart", case.check_copies(), case.check_files())
    case.volume.snapshot(persistent=True)
    case.write(5)
    assert case.check_copies()["exact"] >= 1, "no copy can be made any more"
    assert not case.errors


def storage_stutters(case: Case, how: str) -> None:
    """Errors come and go: the application notices nothing."""
    case.storage.fail_now_and_then(how)
    for number in range(12):
        case.write(4)
        with contextlib.suppress(VssError, AssertionError):
            case.volume.snapshot(persistent=number % 2 == 0)
        case.check_copies()
    assert not case.errors, "the storage fails, and the application pays"
    case.tell("while it stutters", case.check_copies(), case.check_files())
    case.take_down()
    case.come_back()
    case.tell("after a restart", case.check_copies(), case.check_files())


def both_forget(case: Case, how: str) -> None:
    """From one moment on nothing reaches the disks, and nobody notices until the machine starts again."""
    synced = {name: set(versions) for name, versions in case.synced.items()}
    before = dict(case.volume.sums)
    persistent = next(iter(before))
    for disk in (case.storage, case.origin):
        disk.fail(how)
    case.write(10)
    later = case.volume.snapshot(persistent=True)
    case.write(10)
    case.take_down()
    case.synced = synced
    case.come_back()
    copies = case.volume.copies()
    assert persistent in copies and not copies[persistent]["lost"], "a copy from before is not there"
    assert later not in copies, "a copy that reached no disk is there"
    case.tell("after a restart", case.check_copies(), case.check_files())


def origin_forgets(case: Case, how: str) -> None:
    """The live volume is what its disk makes of it; copies have old data of their own."""
    synced = {name: set(versions) for name, versions in case.synced.items()}
    case.origin.fail(how)
    case.write(20)
    case.take_down()
    case.synced = synced
    case.come_back()
    case.tell("after a restart", case.check_copies(), case.check_files())


PLAYS: dict[str, Callable[[Case, str], None]] = {
    "origin": origin_fails,
    "storage": storage_fails,
    "stutter": storage_stutters,
    "both": both_forget,
    "forgetful": origin_forgets,
}


def everything() -> None:
    os.mkdir("/mnt/elsewhere")  # a loss of a persistent copy is recorded on a disk, never in memory
    run("mkfs.ext4", "-q", zeros("/mnt/third.disk", 8 * MIB))
    run("mount", "-o", "loop", "/mnt/third.disk", "/mnt/elsewhere")
    for argument in sys.argv[1:]:
        play, how, fs_type = argument.split(":")
        case = Case(f"{play}-{how}-{fs_type}", fs_type)
        PLAYS[play](case, how)
        case.put_away()
        step(argument)


if __name__ == "__main__":
    everything()
    step("all is well")
