"""A volume against a plain model: changes, cuts, losses, reverts, restarts and crashes in any order.

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
from shadowset.nbd_provider.store import copy_out, layout, revert
from shadowset.nbd_provider.store.changes import changed_runs
from shadowset.nbd_provider.store.check import check_storage
from shadowset.nbd_provider.store.reader import CopyLost, CopyReader
from shadowset.nbd_provider.store.revert import Phase
from shadowset.nbd_provider.store.room import COPY_LOST, WriteRefused
from shadowset.nbd_provider.store.settings import Limits, Policy
from shadowset.nbd_provider.volume import Volume
from shadowset.vss.codes import Code, VssError

MINUTES = int(os.environ.get("SHADOWSET_LONG_TESTS", "0"))
CHUNK = 4096
CHUNKS = 12
SIZE = CHUNK * CHUNKS - 1536
MOST = SIZE + 8 * CHUNK
FOREVER = 1 << 62
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""There a file takes as many blocks each time; on a disk that depends on how scattered they come to lie."""
PRIORITIES = (None, 0, 1, 128, 255)
SEED = st.integers(0, 1 << 32)
PLACE = st.integers(0, CHUNKS + 7)
START = st.integers(0, CHUNK - 1)
LENGTH = st.integers(1, 3 * CHUNK)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage grows by few slots at a time, so that limits are met, and a revert has several steps and notes."""
    monkeypatch.setattr(copy_out, "GROWTH_SLOTS", 4)
    monkeypatch.setattr(revert, "STEP_BYTES", 2 * CHUNK)
    monkeypatch.setattr(revert, "NOTE_BYTES", 3 * CHUNK)


def usable(machine: StoreMachine) -> bool:
    """Whether no revert keeps everybody out."""
    return not machine.volume.reverter.blocks


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
        self.directory = tempfile.mkdtemp(prefix="ss-model-", dir=MEMORY)
        self.origin, self.storage = f"{self.directory}/origin", f"{self.directory}/storage"
        self.live = bytearray(random.Random(1).randbytes(SIZE))
        with open(self.origin, "wb") as file:
            file.write(self.live)
        self.copies: dict[UUID, Copy] = {}
        self.lost: dict[UUID, bool] = {}
        self.readers: dict[UUID, CopyReader] = {}
        self.reverting: UUID | None = None
        self.ids = self.boots = self.told = 0
        self.limits = Limits()

    @initialize(copies=st.lists(st.booleans(), min_size=1, max_size=3), seed=SEED)
    def begin(self, copies: list[bool], seed: int) -> None:
        """Nothing of interest happens without copies that differ."""
        self.open()
        chance = random.Random(seed)
        for persistent in copies:
            self.cut(persistent, True)
            self.write(chance.randrange(CHUNKS), chance.randrange(CHUNK), 3 * CHUNK, chance.getrandbits(32))

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
            assert self.limits.max_size and self.limits.policy is not Policy.PROTECT_COPIES and usable(self)
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

    @precondition(usable)
    @rule(place=PLACE, start=START, length=LENGTH, seed=SEED)
    def write(self, place: int, start: int, length: int, seed: int) -> None:
        def action(offset: int, count: int) -> None:
            data = random.Random(seed).randbytes(count)
            self.export.write(offset, memoryview(data))
            self.live[offset : offset + count] = data

        self.change(place, start, length, action)

    @precondition(usable)
    @rule(room=st.integers(1, 6), policy=st.sampled_from(list(Policy)), seed=SEED)
    def fill(self, room: int, policy: Policy, seed: int) -> None:
        """Hardly any room, copies of all sorts, and writes all over the volume."""
        self.configure(policy, room)
        chance = random.Random(seed)
        for copy in self.copies:
            self.mark(copy, chance.choice(PRIORITIES), chance.random() < 0.3)
        for _ in range(4):
            self.write(chance.randrange(CHUNKS), chance.randrange(CHUNK), 3 * CHUNK, chance.getrandbits(32))

    @precondition(usable)
    @rule(place=PLACE, start=START, length=LENGTH, may_punch=st.booleans(), fast=st.booleans())
    def zero(self, place: int, start: int, length: int, may_punch: bool, fast: bool) -> None:
        def action(offset: int, count: int) -> None:
            if self.export.zero(offset, count, may_punch, fast):
                self.live[offset : offset + count] = bytes(count)

        self.change(place, start, length, action)

    @precondition(usable)
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

    @precondition(usable)
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
    @rule(data=st.data(), priority=st.sampled_from(PRIORITIES), held=st.booleans())
    def set_copy(self, data: st.DataObject, priority: int | None, held: bool) -> None:
        self.mark(self.pick(data), priority, held)

    def mark(self, copy: UUID, priority: int | None, held: bool) -> None:
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
        if copy == self.reverting or (self.copies[copy].held and not force):
            reason = "is being reverted to" if copy == self.reverting else "is held until"
            with pytest.raises(VssError, match=reason):
                self.volume.delete(str(copy), force)
            return
        self.volume.delete(str(copy), force)
        del self.copies[copy]
        self.end_reader(copy)

    @rule(steps=st.integers(1, 3))
    def reclaim(self, steps: int) -> None:
        for _, _ in zip(range(steps), self.store.space.reclaim(), strict=False):
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

    # ---- reverts ----

    @precondition(lambda self: self.copies)
    @rule(data=st.data(), steps=st.integers(0, 7))
    def revert(self, data: st.DataObject, steps: int) -> None:
        self.begin_revert(self.pick(data))
        if self.reverting is not None:
            self.go_on_with_revert(steps)

    def begin_revert(self, copy: UUID) -> None:
        progress = self.volume.reverter.progress
        under_way = progress is not None and progress.phase is not Phase.STOPPED
        try:
            self.volume.revert(str(copy))()
        except VssError as error:
            expected = Code.VSS_E_REVERT_IN_PROGRESS if under_way else Code.VSS_E_INSUFFICIENT_STORAGE
            expected = Code.VSS_E_BAD_STATE if self.copies[copy].pending and not under_way else expected
            assert error.code == expected
            assert expected != Code.VSS_E_INSUFFICIENT_STORAGE or self.limits.max_size
            return
        assert not under_way and not self.copies[copy].pending
        self.reverting = copy
        self.touch_what_goes_back()

    def touch_what_goes_back(self) -> None:
        assert self.reverting is not None
        changed = self.changes(self.reverting)
        for each in self.copies.values():
            each.touched |= changed

    @precondition(lambda self: self.reverting)
    @rule(steps=st.integers(1, 6))
    def go_on_with_revert(self, steps: int) -> None:
        self.touch_what_goes_back()
        work = self.volume.reverter.work()
        for _ in range(steps if work is not None else 0):
            if next(work, None) is None:
                break
        self.see_revert()

    def see_revert(self) -> None:
        """Each chunk is as it was, or as the copy saw it; after the end all are as the copy saw them."""
        assert self.reverting is not None
        copy, progress = self.copies[self.reverting], self.volume.reverter.progress
        now = self.volume.read(0, len(self.live))
        after = copy.content + bytes(self.live[len(copy.content) :])
        neither = differing(now, after) if progress is None else differing(now, after) & differing(now, self.live)
        assert not neither, f"chunks {neither} are not as in the copy"
        self.live[:] = now
        marked = self.store.header.settings.revert is not None
        copy.persistent |= marked or self.store.table.find(self.reverting).persistent
        if progress is None:
            assert not marked
            self.reverting = None
        elif progress.phase is Phase.STOPPED:
            assert self.limits.max_size, progress.reason

    @precondition(lambda self: self.reverting)
    @rule(force=st.booleans())
    def cancel_revert(self, force: bool) -> None:
        if self.store.header.settings.revert is not None and not force:
            with pytest.raises(VssError, match="cannot be undone half way"):
                self.volume.reverter.cancel(force)
            return
        self.volume.reverter.cancel(force)
        self.reverting = None

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
        progress = self.volume.reverter.progress
        assert progress is None or self.store.header.settings.revert is not None
        self.reverting = None if progress is None else progress.copy_id

    @rule(how=st.sampled_from(["kill", "stop", "grow", "power loss"]), sectors=st.integers(1, 20))
    def start_again(self, how: str, sectors: int) -> None:
        if how == "kill":
            self.vanish()
            self.restart()
        elif how == "stop":
            self.volume.close()
            self.restart()
        elif how == "grow" and len(self.live) < MOST:
            self.grow(sectors)
        elif how == "power loss":
            self.power_loss()

    def grow(self, sectors: int) -> None:
        """The origin is larger at the next start; copies keep their sizes."""
        self.volume.close()
        old, new = len(self.live), min(len(self.live) + sectors * 512, MOST)
        os.truncate(self.origin, new)
        self.live.extend(bytes(new - old))
        for copy in self.copies.values():
            copy.touched |= chunks_of(len(copy.content) // CHUNK * CHUNK, new)
        self.restart()

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
        self.lost = {key: True for key, persistent in self.lost.items() if persistent}
        self.lost |= {key: True for key in gone if self.copies[key].persistent}
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
    max_examples=60 * MINUTES or 60,
    stateful_step_count=40,
    deadline=None,
    derandomize=not MINUTES,
    suppress_health_check=list(HealthCheck),
)
TestStore = pytest.mark.timeout(0 if MINUTES else 600)(StoreMachine.TestCase)
