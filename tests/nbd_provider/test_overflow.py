"""A full storage: each policy does what it says, priorities and holds are kept, every loss is told once."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.store.revert import Phase, Reverter
from shadowset.nbd_provider.store.settings import Limits, Policy
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss import provider_protocol as m
from shadowset.vss.codes import Code, VssError

MIB = 1 << 20
SIZE = 8 * MIB
FOREVER = 1 << 62


class Lab:
    """A store whose copies are checked against what the origin held at their cuts."""

    def __init__(self, directory: str) -> None:
        self.origin, self.path = f"{directory}/origin", f"{directory}/storage"
        Path(self.origin).write_bytes(os.urandom(SIZE))
        self.fd = os.open(self.origin, os.O_RDWR)
        self.store = ShadowStore(self.path, self.fd, SIZE)
        self.expected: dict[UUID, bytes] = {}

    def limit(self, policy: Policy, mebibytes: float) -> None:
        self.store.configure(Limits(int(mebibytes * MIB), policy))

    def cut(self, persistent: bool = False) -> UUID:
        copy = uuid4()
        self.store.commit(copy, uuid4(), 1, persistent)
        self.store.finish(copy)
        self.expected[copy] = Path(self.origin).read_bytes()
        return copy

    def write(self, first: int, last: int) -> None:
        for mebibyte in range(first, last):
            self.store.prepare_write([(mebibyte * MIB, MIB)])
            os.pwrite(self.fd, os.urandom(MIB), mebibyte * MIB)

    def living(self) -> list[UUID]:
        by_number = {entry.number: entry.copy_id for entry in self.store.table.entries}
        return [by_number[number] for number in self.store.table.live]

    def check(self) -> None:
        for copy in self.living():
            reader = CopyReader(self.path, self.origin, copy)
            assert reader.read(0, SIZE) == self.expected[copy]
            reader.close()

    def events(self, kind: str) -> list[Any]:
        return [event for event in self.store.room.events if event.kind == kind]


@pytest.fixture
def lab() -> Iterator[Lab]:
    directory = tempfile.mkdtemp(prefix="ss-full-")
    made = Lab(directory)
    yield made
    made.check()
    made.store.close()
    os.close(made.fd)
    rmtree(directory)


@pytest.mark.vss(100, 125)
def test_delete_oldest_loses_the_oldest(lab: Lab) -> None:
    lab.limit(Policy.DELETE_OLDEST, 6)
    first = lab.cut(persistent=True)
    lab.write(0, 4)
    second = lab.cut()
    lab.write(0, 4)
    assert lab.living() == [second]
    [lost] = lab.events("copy-lost")
    assert (lost.copy_id, lost.cause) == (str(first), "storage-full") and 3 * MIB < lost.freed < 5 * MIB
    assert lab.store.used <= 6.1 * MIB
    assert lab.events("storage-warning")
    lab.store.close()
    lab.store = ShadowStore(lab.path, lab.fd, SIZE)
    [again] = lab.events("copy-lost")
    assert (again.copy_id, again.cause, again.freed) == (lost.copy_id, lost.cause, lost.freed), "the next run tells too"


@pytest.mark.vss(101)
def test_lower_priority_goes_before_older_and_both_survive_a_restart(lab: Lab) -> None:
    lab.limit(Policy.DELETE_OLDEST, 5)
    precious, cheap = lab.cut(), lab.cut()
    lab.store.set_copy(precious, 200, None)
    lab.store.close()
    lab.store = ShadowStore(lab.path, lab.fd, SIZE)
    assert lab.store.header.settings.limits.max_size == 5 * MIB
    lab.write(0, 3)
    newest = lab.cut()
    lab.store.set_copy(newest, 1, None)
    lab.write(0, 4)
    assert lab.living() == [precious, cheap]
    assert [event.copy_id for event in lab.events("copy-lost")] == [str(newest)]


def test_a_held_copy_is_never_lost_for_space(lab: Lab) -> None:
    lab.limit(Policy.DELETE_OLDEST, 5)
    held = lab.cut()
    lab.store.set_copy(held, 0, FOREVER)
    lab.write(0, 2)
    other = lab.cut()
    lab.write(2, 4)
    with pytest.raises(OSError, match="leaves") as caught:
        lab.write(4, 8)
    assert caught.value.errno == errno.ENOSPC
    assert lab.living() == [held] and other not in lab.living()
    assert len(lab.events("writes-refused")) == 1
    with pytest.raises(VssError, match="is held until") as refused:
        lab.store.delete(held)
    assert refused.value.code == Code.VSS_E_BAD_STATE
    lab.store.set_copy(held, None, time.time_ns() - 1)
    lab.write(4, 8)
    assert lab.living() == []


def test_force_deletes_a_held_copy(lab: Lab) -> None:
    held = lab.cut()
    lab.store.set_copy(held, None, FOREVER)
    lab.store.delete(held, force=True)
    assert lab.living() == []


@pytest.mark.vss(100)
def test_refuse_new_refuses_a_copy_when_full(lab: Lab) -> None:
    lab.store.volume_name = "data"
    lab.limit(Policy.REFUSE_NEW, 6)
    first = lab.cut()
    lab.write(0, 4)
    with pytest.raises(VssError, match=r"volume data: .* maximum size of 6291456 bytes leaves \d+ bytes") as caught:
        lab.cut()
    assert caught.value.code == Code.VSS_E_INSUFFICIENT_STORAGE
    assert lab.living() == [first]
    lab.write(4, 8)
    assert lab.living() == [], "the live volume goes on"


@pytest.mark.vss(100)
def test_protect_copies_refuses_writes(lab: Lab) -> None:
    lab.limit(Policy.PROTECT_COPIES, 5)
    copy = lab.cut()
    with pytest.raises(OSError, match="leaves"):
        lab.write(0, 8)
    lab.check()
    assert lab.living() == [copy]
    lab.limit(Policy.PROTECT_COPIES, 20)
    lab.write(0, 8)
    assert lab.living() == [copy]


def test_a_full_disk_is_named_and_not_the_maximum(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.limit(Policy.PROTECT_COPIES, 1000)
    lab.cut()
    disk = os.statvfs(lab.path)
    full = SimpleNamespace(f_bavail=1000, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda path: full if path == lab.path else disk)
    cause = rf"file system of shadow storage {lab.path} leaves 1000 bytes .* free space on it"
    with pytest.raises(OSError, match=cause):
        lab.write(0, 8)
    lab.limit(Policy.REFUSE_NEW, 1000)
    with pytest.raises(VssError, match=cause):
        lab.store.commit(uuid4(), uuid4(), 1, False)


def test_garbage_goes_before_copies(lab: Lab) -> None:
    lab.limit(Policy.DELETE_OLDEST, 7)
    first = lab.cut()
    lab.write(0, 3)
    second = lab.cut()
    lab.write(0, 3)
    lab.store.delete(second)
    lab.write(3, 5)
    assert lab.living() == [first]


def test_a_revert_that_finds_no_room_stops_and_costs_no_copy(lab: Lab) -> None:
    """There was enough when it began."""
    target = lab.cut(persistent=True)
    lab.write(0, 6)
    newer = lab.cut()
    reverter = Reverter(lab.store, lab.fd)
    reverter.begin(target)
    steps = reverter.work()
    assert steps is not None and next(steps)
    lab.limit(Policy.DELETE_OLDEST, lab.store.used / MIB)
    assert not list(steps) and reverter.progress is not None and reverter.progress.phase is Phase.STOPPED
    assert lab.living() == [target, newer] and not lab.events("copy-lost")
    lab.limit(Policy.DELETE_OLDEST, 100)
    reverter.begin(target)
    for _ in reverter.work() or ():
        pass
    assert Path(lab.origin).read_bytes() == lab.expected[target] and lab.living() == [target, newer]


def test_calls_and_clients(provider: Any, nbd_module: Any, random_image: bytes) -> None:
    control = provider.control()
    told = control.value(m.Configure, max_size=5 * MIB, policy="protect-copies", warn_percent=50)
    assert (told["max_size"], told["policy"], told["warn_percent"]) == (5 * MIB, "protect-copies", 50)
    copy = control.snapshot()
    control.value(m.SetCopy, copy_id=copy, priority=7, hold_until_ns=FOREVER)
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    with pytest.raises(nbd_module.Error) as caught:
        client.pwrite(os.urandom(8 * MIB), 0)
    assert caught.value.errno == "ENOSPC"
    with pytest.raises(nbd_module.Error):
        client.zero(8 * MIB, 8 * MIB)
    assert client.pread(MIB, 15 * MIB) == random_image[15 * MIB :]
    assert "maximum size of 5242880 bytes" in control.value(m.Describe)["writes_refused"]
    reader = CopyReader(provider.storage, provider.origin, UUID(copy))
    assert reader.read(0, provider.size) == random_image
    reader.close()
    [info] = control.value(m.Describe)["copies"]
    assert (info["priority"], info["hold_until_ns"], info["lost"]) == (7, FOREVER, False)
    events = control.value(m.ListEvents)["events"]
    assert {"storage-warning", "writes-refused"} <= {event["event"] for event in events}
    assert control.value(m.ListEvents, after=events[-1]["number"])["events"] == []
    refused = control.call(m.Delete, copy_id=copy)
    assert isinstance(refused, m.Failed) and refused.name == "VSS_E_BAD_STATE"
    for wrong in ({"policy": "x"}, {"warn_percent": 0}, {"max_size": -1}):
        answer = control.call(m.Configure, **wrong)
        assert isinstance(answer, m.Failed) and answer.name == "E_INVALIDARG"
    assert control.value(m.Configure, max_size=64 * MIB)["writes_refused"] == "", "there is room again"
    control.value(m.Delete, copy_id=copy, force=True)
    client.pwrite(bytes(8 * MIB), 0)
    assert client.pread(8 * MIB, 0) == bytes(8 * MIB)


@pytest.mark.usefixtures("random_image")
def test_word_of_an_event_comes_unasked_to_who_wanted_it(provider: Any, nbd_module: Any) -> None:
    control, silent, other = provider.control(), provider.control(), provider.control()
    assert control.value(m.ListEvents, tell=True)["events"] == []
    assert silent.value(m.ListEvents)["events"] == []
    other.value(m.Configure, max_size=4 * MIB)
    copy = other.snapshot()
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    client.pwrite(os.urandom(8 * MIB), 0)
    assert isinstance(control.hear(), m.Happened)
    events = control.value(m.ListEvents, tell=True)["events"]
    assert copy in {event["copy_id"] for event in events if event["event"] == "copy-lost"}
    assert silent.value(m.ListEvents)["events"] == events, "only its answers came there"
