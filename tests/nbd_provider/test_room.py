"""A cut never waits to see how much room the storage has; a copy is refused only after another look."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from shadowset.nbd_provider.control import ControlClient
from shadowset.nbd_provider.store import room
from shadowset.nbd_provider.store.settings import Limits, Policy
from shadowset.nbd_provider.volume import Volume
from shadowset.vss import provider_protocol as m

MIB = 1 << 20


class Loop:
    """A volume and its control connection; what is for a thread waits for ``do``."""

    def __init__(self, directory: str) -> None:
        Path(f"{directory}/origin").write_bytes(bytes(MIB))
        self.volume = Volume("vol", f"{directory}/origin", f"{directory}/storage")
        self.jobs: list[tuple[Callable[[], Any], Callable[[object], None]]] = []
        self.volume.calls.submit = lambda *job: self.jobs.append(job)
        self.answers: list[Any] = []
        self.seq = 0

    def call(self, kind: type[m.ToProvider], **fields: object) -> None:
        self.seq += 1
        self.client._take(kind(seq=self.seq, **fields))  # type: ignore[arg-type]

    def cut(self) -> str:
        copy = str(uuid4())
        self.call(m.Hold)
        self.call(m.Commit, copy_id=copy, set_id=copy, created_ns=1)
        return copy

    def do(self) -> None:
        while self.jobs:
            work, done = self.jobs.pop(0)
            done(work())

    def copies(self) -> list[str]:
        return [str(entry.copy_id) for entry in self.volume.store.table.entries]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    directory = tempfile.mkdtemp(prefix="ss-room-", dir="/var/tmp")
    made = Loop(directory)

    ours, theirs = socket.socketpair()
    server: Any = None
    made.client = ControlClient(ours, made.volume, server)
    real = made.client._failed

    def failed(call: Any, error: object) -> m.Failed:
        answer = real(call, error)
        made.answers.append(answer)
        return answer

    monkeypatch.setattr(made.client, "_failed", failed)
    yield made
    made.jobs.clear()
    ours.close()
    theirs.close()
    made.volume.close()
    shutil.rmtree(directory)


def full(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """The storage's file system has so much left, and says so where nobody waits for it only."""
    real = os.statvfs

    def statvfs(path: Any) -> Any:
        found = list(real(path))
        found[4] = free // found[1]  # f_bavail, in units of f_frsize
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", statvfs)


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(path: str) -> int:
        raise AssertionError("the loop looks at the disk")

    monkeypatch.setattr(room, "used_bytes", look)
    monkeypatch.setattr(os, "statvfs", look)


@pytest.mark.parametrize("policy", [Policy.REFUSE_NEW, Policy.PROTECT_COPIES])
def test_a_cut_goes_by_what_was_seen(loop: Loop, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.volume.store.configure(Limits(64 * MIB, policy))
    with monkeypatch.context() as there:
        forbid(there)
        copy = loop.cut()
        assert not loop.copies(), "nobody has looked yet, so the cut waits for a thread"
    loop.do()
    assert loop.copies() == [copy] and not loop.answers
    loop.call(m.Release)
    with monkeypatch.context() as there:
        forbid(there)
        second = loop.cut()
        assert loop.copies() == [copy, second]
        assert len(loop.jobs) == 1, "a look is under way for the next one"


def test_a_refusal_is_looked_at_again(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.volume.store.configure(Limits(0, Policy.REFUSE_NEW))
    with monkeypatch.context() as there:
        full(there, MIB)
        loop.cut()
        loop.do()
        assert [answer.name for answer in loop.answers] == ["VSS_E_INSUFFICIENT_STORAGE"]
        assert "leaves 1048576 bytes" in loop.answers[0].message and not loop.copies()
        loop.call(m.Release)
    copy = loop.cut()
    loop.do()
    assert loop.copies() == [copy] and len(loop.answers) == 1, "there is room by now"


def test_delete_oldest_asks_nobody(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch)
    copy = loop.cut()
    assert loop.copies() == [copy] and not loop.jobs


def test_a_client_that_leaves_before_the_look_has_ended(loop: Loop) -> None:
    loop.volume.store.configure(Limits(64 * MIB, Policy.REFUSE_NEW))
    loop.cut()
    loop.client.close()
    loop.do()
    assert not loop.copies() and not loop.volume.gate.closed
