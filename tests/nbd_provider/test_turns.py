"""Requests to zero or discard GiB are gone on with step by step, so that others have their turn between."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from shadowset.nbd_provider import protocol as p
from shadowset.nbd_provider import transmission
from shadowset.nbd_provider.live_export import LiveExport
from shadowset.nbd_provider.replies import Replies
from shadowset.nbd_provider.requests import Request
from shadowset.nbd_provider.store.reader import CopyReader
from shadowset.nbd_provider.volume import Volume

STEP = 64 * 1024
STEPS = 5
SIZE = STEP * (STEPS + 1)
COPY = UUID(int=1)


class Rig:
    """A volume with one client and no threads: what these would do waits in ``jobs``."""

    def __init__(self, directory: str) -> None:
        self.origin, self.storage = f"{directory}/origin", f"{directory}/storage"
        with open(self.origin, "wb") as file:
            file.write(b"x" * SIZE)
        self.volume = Volume("vol", self.origin, self.storage, losses=f"{directory}/losses")
        self.jobs: list[Any] = []
        self.replies = Replies()

        def nothing() -> None:
            pass

        def submit(work: Any, done: Any) -> None:
            self.jobs.append((work, done))

        export = LiveExport(self.volume)
        self.client = transmission.Transmission(export, (), self.replies, submit, nothing, nothing, nothing)
        self.volume.gate.opened.append(self.client.release_held)

    def ask(self, *kinds: int) -> None:
        request = [Request(kind, 0, kind, 100, STEP * STEPS, memoryview(b"")) for kind in kinds]
        self.client.process(request)

    def turn(self) -> None:
        jobs, self.jobs = self.jobs, []
        for work, done in jobs:
            done(work())

    def zeros(self) -> int:
        with open(self.origin, "rb") as file:
            content = file.read()
        count = content.count(0)
        assert content == b"x" * 100 + bytes(count) + b"x" * (SIZE - 100 - count)
        return count

    def answers(self) -> list[int]:
        replies, cookies = self.replies.rest(), []
        for _, error, cookie in struct.iter_unpack(">IIQ", replies):
            assert not error
            cookies.append(cookie)
        return cookies


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    for name in ("ZERO_STEP", "TRIM_STEP"):
        monkeypatch.setattr(transmission, name, STEP)
    monkeypatch.setattr(transmission, "TURN_SECONDS", 0)
    directory = tempfile.mkdtemp(prefix="ss-turns-", dir="/var/tmp")
    rig = Rig(directory)
    yield rig
    rig.client.close()
    rig.turn()
    rig.volume.close()
    shutil.rmtree(directory)


@pytest.mark.parametrize("kind", [p.CMD_WRITE_ZEROES, p.CMD_TRIM])
def test_others_have_their_turn_between_two_steps(rig: Rig, kind: int) -> None:
    """A cut among them: the copy has what was zeroed by then."""
    rig.ask(kind)
    assert 0 < rig.zeros() <= STEP and not rig.answers() and not rig.client.idle
    owner = object()
    rig.volume.hold(owner, 10_000)
    rig.turn()
    before = rig.zeros()
    assert before <= STEP and rig.volume.gate.waiting == 1 and not rig.jobs
    rig.volume.commit(owner, str(COPY), str(COPY), 1, False)
    rig.volume.release(owner)
    while rig.jobs:
        rig.turn()
    assert rig.answers() == [kind] and rig.client.idle
    assert rig.zeros() == (STEP * STEPS if kind == p.CMD_WRITE_ZEROES else before), "nothing is kept for a discard"
    reader = CopyReader(rig.storage, rig.origin, COPY)
    assert reader.read(0, SIZE) == b"x" * 100 + bytes(before) + b"x" * (SIZE - 100 - before)
    reader.close()


def test_many_in_one_batch_take_turns_too(rig: Rig) -> None:
    """Each turn makes a step, and all of them are answered."""
    rig.ask(p.CMD_TRIM, p.CMD_WRITE_ZEROES, p.CMD_WRITE_ZEROES)
    turns = 0
    while rig.jobs:
        assert len(rig.jobs) == 1
        rig.turn()
        turns += 1
    assert turns > STEPS * 2 and sorted(rig.answers()) == [p.CMD_TRIM, p.CMD_WRITE_ZEROES, p.CMD_WRITE_ZEROES]
    assert rig.zeros() == STEP * STEPS and rig.client.idle


def test_a_client_that_leaves_between_two_steps(rig: Rig) -> None:
    rig.ask(p.CMD_WRITE_ZEROES)
    rig.client.close()
    rig.turn()
    assert rig.zeros() <= STEP and not rig.jobs and not rig.answers()
