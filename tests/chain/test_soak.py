"""What runs for months must not grow: hundreds of sets, sessions, clients that break off, and mounts of copies.

The memory, descriptors and threads of every process are looked at amid and after each of these; the second half must
not add to the first more than chance does. SHADOWSET_SOAK=4 does four times as many.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shadowset.nbd_provider import protocol as p
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.create import create_set
from shadowset.vss.enums import Attribute, ObjectType
from shadowset.vss.requester_protocol import SetRecord

SCALE = float(os.environ.get("SHADOWSET_SOAK", "1"))
MIB = 1 << 20
MOST_MIB, MOST_DESCRIPTORS, MOST_THREADS = 4.0, 6, 6
CONTEXT = Attribute.PERSISTENT | Attribute.NO_AUTO_RELEASE | Attribute.NO_WRITERS

pytestmark = [pytest.mark.long, pytest.mark.timeout(0)]


class Size(NamedTuple):
    """Of a process: MiB of its own, open descriptors, threads."""

    mib: float
    descriptors: int
    threads: int


def size_of(pid: int) -> Size:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status)
    own = int(fields["RssAnon"].split()[0]) / 1024
    return Size(own, len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"]))


class Soak:
    """Looks at the processes of one installation; those that stay from look to look are compared."""

    def __init__(self, chain: Any, processes: Callable[[], list[int]], show: Callable[[str], None]) -> None:
        self.chain = chain
        self._processes = processes
        self._show = show

    def _look(self) -> dict[int, Size]:
        """The least of three looks, since something may be under way in one."""
        looks = []
        for _ in range(3):
            time.sleep(0.5)
            look = {}
            for pid in {self.chain.daemon.pid, *self._processes()}:
                try:
                    look[pid] = size_of(pid)
                except (OSError, KeyError):
                    continue  # it has ended
            looks.append(look)
        stay = set.intersection(*map(set, looks))
        return {pid: Size(*map(min, *(look[pid] for look in looks))) for pid in stay}

    def play(self, what: str, count: int, step: Callable[[int], object]) -> None:
        """``step`` so many times."""
        half = max(1, round(count * SCALE / 2))
        for number in range(half):
            step(number)
        first = self._look()
        for number in range(half, 2 * half):
            step(number)
        second = self._look()
        grown = []
        for pid in sorted(first.keys() & second.keys()):
            before, after = first[pid], second[pid]
            name = self._name(pid)
            self._show(f"soak: {2 * half} {what}: {name}: {_text(before)} -> {_text(after)}")
            if any(after[i] - before[i] > most for i, most in enumerate((MOST_MIB, MOST_DESCRIPTORS, MOST_THREADS))):
                grown.append(f"{name} from {_text(before)} to {_text(after)}")
        assert not grown, f"in the second {half} {what}: {'; '.join(grown)}"

    def _name(self, pid: int) -> str:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        return next((word for word in words if word.startswith("shadowset.")), f"{words[0]} {pid}")


def _text(size: Size) -> str:
    return f"{size.mib:.1f} MiB, {size.descriptors} descriptors, {size.threads} threads"


@pytest.fixture
def soak(volumes: Any, processes_of: Callable[[], list[int]], show: Callable[[str], None]) -> Soak:
    return Soak(volumes, processes_of, show)


def make(chain: Any) -> SetRecord:
    """A set of a copy of each volume, some of whose blocks were overwritten since."""
    with BackupComponents(chain.paths) as calls:
        record = create_set(calls, list(chain.places), CONTEXT)
    for place in chain.places.values():
        with open(f"{place}/file", "wb") as file:
            file.write(os.urandom(256 * 1024))
            os.fsync(file.fileno())
    return record


def delete(chain: Any, record: SetRecord) -> None:
    with BackupComponents(chain.paths) as calls:
        calls.delete_snapshots(record.set_id, ObjectType.SNAPSHOT_SET, force=True)


def read_device(path: str) -> None:
    with open(path, "rb") as file:
        assert len(file.read(MIB)) == MIB


def break_off(path: str, name: str, number: int) -> None:
    """Ask for much, and leave within a request or before the answers."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(path)
        sock.recv(64)
        sock.sendall(p.CLIENT_FLAGS.pack(3) + p.OPTION.pack(p.OPTION_MAGIC, p.OPT_EXPORT_NAME, len(name)))
        sock.sendall(name.encode())
        assert sock.recv(64)
        if number % 2:
            sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_WRITE, 1, 0, MIB) + bytes(number * 997 % 200000))
        else:
            for cookie in range(16):
                sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, cookie, cookie * MIB, MIB))


def test_nothing_grows(soak: Soak) -> None:
    chain = soak.chain

    def one_set(_: int) -> None:
        record = make(chain)
        for copy in record.snapshots:
            read_device(copy.device_object)
        delete(chain, record)

    def session(number: int) -> None:
        with BackupComponents(chain.paths) as calls:
            calls.initialize_for_backup()
            if number % 3:
                calls.set_context(CONTEXT)
                calls.start_snapshot_set(60)
            if number % 3 == 2:
                calls.add_to_snapshot_set(next(iter(chain.places)))

    soak.play("sets made, read and deleted", 125, one_set)
    soak.play("sessions begun and left", 125, session)
    name = next(iter(chain.places))
    soak.play("clients that break off", 250, lambda number: break_off(chain.paths.nbd_socket(name), name, number))
    record = make(chain)
    copy = record.snapshots[0]

    def mount(_: int) -> None:
        with BackupComponents(chain.paths) as calls:
            place = calls.expose_snapshot(copy.snapshot_id)
            assert os.path.isdir(f"{place}/lost+found")
            calls.unexpose_snapshot(copy.snapshot_id)

    soak.play("mounts of a copy", 50, mount)
    delete(chain, record)
