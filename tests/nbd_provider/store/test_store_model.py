"""A volume against a plain model: changes, cuts, losses, restarts and crashes in any order.

All contents and ids come from numbers that hypothesis draws, so what it prints for a failure is the failure.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shadowset.nbd_provider.live_export import LiveExport
from shadowset.nbd_provider.store import copy_out, layout
from shadowset.nbd_provider.store.changes import changed_runs
from shadowset.nbd_provider.store.check import check_storage
from shadowset.nbd_provider.store.reader import CopyLost, CopyReader
from shadowset.nbd_provider.store.room import COPY_LOST, WriteRefused
from shadowset.nbd_provider.store.settings import Limits, Policy
from shadowset.nbd_provider.volume import Volume
from shadowset.vss.codes import Code, VssError

LONG = bool(os.environ.get("SHADOWSET_LONG_TESTS"))
CHUNK = 4096
CHUNKS = 12
SIZE = CHUNK * CHUNKS - 1536
MOST = SIZE + 8 * CHUNK
FOREVER = 1 << 62
SEED = st.integers(0, 1 << 32)
PLACE = st.integers(0, CHUNKS + 7)
START = st.integers(0, CHUNK - 1)
LENGTH = st.integers(1, 3 * CHUNK)


@pytest.fixture(autouse=True)
def small_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage grows by few slots at a time, so that limits are met."""
    monkeypatch.setattr(copy_out, "GROWTH_SLOTS", 4)


@dataclass
class Copy:
    """What a living copy must be; ``touched`` are chunks that somebody wanted to change since its cut."""

    number: int
    content: bytes
    persistent: bool
    pending: bool
    priority: int = layout.DEFAULT_PRIORITY
    held: bool = False
    touched: set[int] = field(default_factory=set)


def chunks_of(offset: int, length: int) -> set[int]:
    return set(range(offset // CHUNK, -(-(offset + length) // CHUNK)))


def differing(one: bytes, other: bytes) -> set[int]:
    """Chunks that are not alike; what only one of them has is not."""
    end = max(len(one), len(other))
    return {at // CHUNK for at in range(0, end, CHUNK) if one[at : at + CHUNK] != other[at : at + CHUNK]}


class StoreMachine(RuleBasedStateMachine):
    """Every living copy reads as the volume did at its cut, whatever else happens, and every loss is a right one."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="ss-model-")
        self.origin, self.storage = f"{self.directory}/origin", f"{self.directory}/storage"
        self.live = bytearray(random.Random(1).randbytes(SIZE))
        with open(self.origin, "wb") as file:
            file.write(self.live)
        self.copies: dict[UUID, Copy] = {}
        self.lost: dict[UUID, bool] = {}
        self.readers: dict[UUID, CopyReader] = {}
        self.ids = self.boots = self.told = 0
        self.limits = Limits()

    @initialize()
    def open(self) -> None:
        self.volume = Volume("vol", self.origin, self.storage, CHUNK)
        self.store, self.export = self.volume.store, LiveExport(self.volume)
        self.told = self.store.room.events[-1].number if self.store.room.events else 0

    # ---- changes of the live volume ----

    def change(self, place: int, start: int, length: int, action: Callable[[int, int], None]) -> None:
        """``action`` may be refused as a whole; copies may be lost for it."""
        offset = min(place * CHUNK + start, len(self.live) - 1)
        length = min(length, len(self.live) - offset)
        for copy in self.copies.values():
            copy.touched |= chunks_of(offset, length)
        try:
            self.volume.prepare_write([(offset, length)])
            action(offset, length)
        except WriteRefused:
            self.note_losses()
            assert self.limits.max_size, "a write is refused though there is room"
            assert self.limits.policy is Policy.PROTECT_COPIES or all(copy.held for copy in self.copies.values())
        self.note_losses()

    def note_losses(self) -> None:
        """Losses are told in their order, and each is of the copy that counted least."""
        for event in self.store.room.events:
            if event.number <= self.told or event.kind != COPY_LOST:
                continue
            assert self.limits.max_size and self.limits.policy is not Policy.PROTECT_COPIES
            free = {key: copy for key, copy in self.copies.items() if not copy.held}
            least = min(free, key=lambda key: (free[key].priority, free[key].number))
            assert event.copy_id == str(least)
            self.lose(least)
        self.told = self.store.room.events[-1].number if self.store.room.events else 0

    def lose(self, copy: UUID) -> None:
        self.lost[copy] = self.copies.pop(copy).persistent
        self.end_reader(copy)

    def end_reader(self, copy: UUID) -> None:
        if copy in self.readers:
            with pytest.raises(CopyLost):
                self.readers[copy].read(0, 10)
            self.readers.pop(copy).close()

    @rule(place=PLACE, start=START, length=LENGTH, seed=SEED)
    def write(self, place: int, start: int, length: int, seed: int) -> None:
        def action(offset: int, count: int) -> None:
            data = random.Random(seed).randbytes(count)
            self.export.write(offset, memoryview(data))
            self.live[offset : offset + count] = data

        self.change(place, start, length, action)

    @rule(place=PLACE, start=START, length=LENGTH, may_punch=st.booleans(), fast=st.booleans())
    def zero(self, place: int, start: int, length: int, may_punch: bool, fast: bool) -> None:
        def action(offset: int, count: int) -> None:
            if self.export.zero(offset, count, may_punch, fast):
                self.live[offset : offset + count] = bytes(count)

        self.change(place, start, length, action)

    @rule(place=PLACE, start=START, length=LENGTH)
    def trim(self, place: int, start: int, length: int) -> None:
        """Each byte of the range is as before or zero; what a copy still needs is as before."""
        offset = min(place * CHUNK + start, len(self.live) - 1)
        length = min(length, len(self.live) - offset)
        needed = chunks_of(offset, length)
        for begin, count in self.store.preserved(offset, length):
            needed -= chunks_of(begin, count)
        self.export.trim(offset, length)
        now = self.volume.read(0, len(self.live))
        end = offset + length
        assert (now[:offset], now[end:]) == (self.live[:offset], self.live[end:])
        for at in range(offset, end):
            assert now[at] == self.live[at] or (at // CHUNK not in needed and not now[at])
        self.live[:] = now

    # ---- copies ----

    @rule(persistent=st.booleans(), finish=st.booleans())
    def cut(self, persistent: bool, finish: bool) -> None:
        self.ids += 1
        copy = UUID(int=self.ids)
        try:
            entry = self.store.commit(copy, UUID(int=1 << 64), 1, persistent)
        except VssError as error:
            assert error.code == Code.VSS_E_INSUFFICIENT_STORAGE and self.limits.policy is not Policy.DELETE_OLDEST
            return
        self.copies[copy] = Copy(entry.number, bytes(self.live), persistent, True)
        if finish:
            self.finish(copy)

    def finish(self, copy: UUID) -> None:
        self.store.finish(copy)
        self.copies[copy].pending = False

    def pick(self, data: st.DataObject) -> UUID:
        return data.draw(st.sampled_from(list(self.copies)))

    @precondition(lambda self: any(copy.pending for copy in self.copies.values()))
    @rule(data=st.data())
    def finish_later(self, data: st.DataObject) -> None:
        self.finish(data.draw(st.sampled_from([key for key, copy in self.copies.items() if copy.pending])))

    @precondition(lambda self: self.copies)
    @rule(data=st.data(), priority=st.sampled_from([None, 0, 255]), held=st.booleans())
    def set_copy(self, data: st.DataObject, priority: int | None, held: bool) -> None:
        copy = self.pick(data)
        self.store.set_copy(copy, priority, FOREVER if held else 0)
        self.copies[copy].held = held
        if priority is not None:
            self.copies[copy].priority = priority

    @rule(policy=st.sampled_from(list(Policy)), room=st.sampled_from([None, 0, 2, 5, 9, 20]))
    def configure(self, policy: Policy, room: int | None) -> None:
        """No limit, or room for a few more chunks."""
        most = 0 if room is None else self.store.used + room * CHUNK
        self.limits = Limits(most, policy)
        self.store.configure(self.limits)

    @precondition(lambda self: self.copies)
    @rule(data=st.data())
    def keep_reader(self, data: st.DataObject) -> None:
        copy = self.pick(data)
        if copy not in self.readers:
            self.readers[copy] = CopyReader(self.storage, self.origin, copy)

    @precondition(lambda self: self.copies)
    @rule(data=st.data(), force=st.booleans())
    def delete(self, data: st.DataObject, force: bool) -> None:
        copy = self.pick(data)
        if self.copies[copy].held and not force:
            with pytest.raises(VssError, match="is held until"):
                self.store.delete(copy)
            return
        self.store.delete(copy, force)
        del self.copies[copy]
        self.end_reader(copy)

    @rule(steps=st.integers(1, 3))
    def reclaim(self, steps: int) -> None:
        for _, _ in zip(range(steps), self.store.reclaim(), strict=False):
            pass

    @precondition(lambda self: len(self.copies) > 1)
    @rule(data=st.data())
    def changes_between(self, data: st.DataObject) -> None:
        """Between two cuts nothing is missed, and what was changed later only is not in it."""
        early, late = sorted((self.pick(data), self.pick(data)), key=lambda key: self.copies[key].number)
        if early == late:
            return
        told = self.changes(early, late)
        assert told >= differing(self.copies[early].content, self.copies[late].content)
        assert told <= self.copies[early].touched

    def changes(self, since: UUID, until: UUID | None = None) -> set[int]:
        return {chunk for run in changed_runs(self.storage, since, until) for chunk in range(run.first, run.end)}

    # ---- restarts ----

    def vanish(self) -> None:
        """The end of a process; nothing but its memory is lost."""
        self.store.head.close()
        self.store.segments.close()
        self.store.table.close()
        os.close(self.store._lock)
        self.volume.origin.close()

    def restart(self) -> None:
        report = check_storage(self.storage, self.origin)
        assert report.sound, report.damages
        self.open()
        assert self.store.header.settings.limits == self.limits

    @rule()
    def kill_and_reopen(self) -> None:
        self.vanish()
        self.restart()

    @rule()
    def close_and_reopen(self) -> None:
        self.volume.close()
        self.restart()

    @precondition(lambda self: len(self.live) < MOST)
    @rule(sectors=st.integers(1, 20))
    def grow(self, sectors: int) -> None:
        """The origin is larger at the next start; copies keep their sizes."""
        self.volume.close()
        old, new = len(self.live), min(len(self.live) + sectors * 512, MOST)
        os.truncate(self.origin, new)
        self.live.extend(bytes(new - old))
        for copy in self.copies.values():
            copy.touched |= chunks_of(len(copy.content) // CHUNK * CHUNK, new)
        self.restart()

    @rule()
    def power_loss(self) -> None:
        """Another boot after an unclean end: of all copies the persistent ones that were finished remain."""
        self.boots += 1
        self.store.header.boot_id = UUID(int=self.boots)
        self.store.table.write_header()
        for reader in self.readers.values():
            reader.close()
        self.readers.clear()
        self.vanish()
        self.restart()
        gone = [key for key, copy in self.copies.items() if copy.pending or not copy.persistent]
        self.lost = {key: True for key in gone if self.copies[key].persistent}
        for copy in gone:
            del self.copies[copy]
            for question in (lambda copy: CopyReader(self.storage, self.origin, copy), self.changes):
                with pytest.raises(VssError) as caught:
                    question(copy)
                assert caught.value.code == Code.VSS_E_OBJECT_NOT_FOUND
            with pytest.raises(VssError, match="make a full backup"):
                self.changes(copy)

    # ---- what is always true ----

    @invariant()
    def table_is_right(self) -> None:
        assert self.volume.read(0, len(self.live)) == self.live
        states = {True: layout.STATE_PENDING, False: layout.STATE_CREATED}
        expected = {
            key: (states[copy.pending], copy.persistent, copy.priority, FOREVER if copy.held else 0, len(copy.content))
            for key, copy in self.copies.items()
        }
        living, lost = {}, set()
        for entry in self.store.table.entries:
            if entry.state == layout.STATE_LOST:
                lost.add(entry.copy_id)
            else:
                fields = (entry.state, entry.persistent, entry.priority, entry.hold_until_ns, entry.size)
                living[entry.copy_id] = fields
        assert living == expected and lost == set(self.lost)

    @invariant()
    def copies_are_exact(self) -> None:
        for key, copy in self.copies.items():
            reader = self.readers.get(key) or CopyReader(self.storage, self.origin, key)
            assert reader.read(0, MOST) == copy.content
            assert reader.read(CHUNK - 7, CHUNK + 20) == copy.content[CHUNK - 7 : 2 * CHUNK + 13]
            if key not in self.readers:
                reader.close()

    @invariant()
    def no_change_is_missed(self) -> None:
        for key, copy in self.copies.items():
            assert differing(copy.content, bytes(self.live)) <= self.changes(key) <= copy.touched

    def teardown(self) -> None:
        for reader in self.readers.values():
            reader.close()
        self.volume.close()
        shutil.rmtree(self.directory)


StoreMachine.TestCase.settings = settings(
    max_examples=3000 if LONG else 40,
    stateful_step_count=40,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=list(HealthCheck),
)
TestStore = pytest.mark.timeout(0 if LONG else 600)(StoreMachine.TestCase)
