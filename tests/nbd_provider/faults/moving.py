"""A volume whose shadow storage moves from place to place, and plain copies of what its shadow copies must hold."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from crash_disk import abandon

from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.move import Mover
from shadowset.nbd_provider.store.move_steps import Phase
from shadowset.nbd_provider.store.reader import CopyLost, CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
SIZE = CHUNK * 60 - 1536
SET = UUID(int=1 << 64)


class Scene:
    """Places ``a``, ``b`` and ``c`` in one directory; whoever reads or starts anew knows the place ``a`` only."""

    def __init__(self, directory: str, seed: int) -> None:
        self.directory, self.origin = directory, f"{directory}/origin"
        self.chance = random.Random(seed)
        self.content = bytearray(self.chance.randbytes(SIZE))
        Path(self.origin).write_bytes(self.content)
        self.fd = os.open(self.origin, os.O_RDWR)
        self.expected: dict[UUID, bytes] = {}
        self.readers: dict[UUID, CopyReader] = {}
        self.count = self.finished = 0
        self.start()

    def start(self) -> None:
        self.store = ShadowStore(self.place("a"), self.fd, len(self.content), CHUNK)
        self.mover = Mover(self.store)
        self.reclaiming: Iterator[int] | None = None

    def place(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def die(self) -> None:
        """SIGKILL, as far as files are concerned."""
        if self.mover.work() is not None:
            self.mover.close()
        abandon(self.store)

    # ---- what may happen at any time ----

    def cut(self) -> None:
        self.count += 1
        copy = UUID(int=self.count)
        self.store.commit(copy, SET, 1, self.chance.random() < 0.5)
        self.store.finish(copy)
        self.expected[copy] = bytes(self.content)
        if self.chance.random() < 0.7:
            self.readers[copy] = CopyReader(self.place("a"), self.origin, copy)

    def write(self) -> None:
        offset = self.chance.randrange(len(self.content))
        data = self.chance.randbytes(min(self.chance.randrange(1, 6 * CHUNK), len(self.content) - offset))
        self.store.prepare_write([(offset, len(data))])
        os.pwrite(self.fd, data, offset)
        self.content[offset : offset + len(data)] = data

    def delete(self) -> None:
        if self.expected:
            copy = self.chance.choice(list(self.expected))
            self.store.delete(copy)
            del self.expected[copy]
            reader = self.readers.pop(copy, None)
            if reader is not None:
                try:
                    reader.read(0, 1)
                except CopyLost:
                    pass
                else:
                    raise AssertionError("a deleted copy can be read")
                reader.close()

    def reclaim(self) -> None:
        if self.reclaiming is None and self.store.space.garbage:
            self.reclaiming = self.store.space.reclaim()
        if self.reclaiming is not None and next(self.reclaiming, None) is None:
            self.reclaiming = None

    def grow(self) -> None:
        more = CHUNK * self.chance.randrange(1, 8)
        os.truncate(self.origin, len(self.content) + more)
        self.content += bytes(more)
        self.store.grow(len(self.content))

    def move(self) -> None:
        """A step of the move that is under way, or the begin of one."""
        if not self.mover.active:
            others = [each for each in map(self.place, "abc") if each != self.store.storage]
            self.mover.begin(self.chance.choice(others))
        steps = self.mover.work()
        assert steps is not None
        next(steps, None)
        progress = self.mover.progress
        self.finished += progress is None
        stopped = progress is not None and progress.phase is Phase.STOPPED
        assert not stopped or (progress and progress.reason == "it was cancelled"), progress

    def cancel(self) -> None:
        progress = self.mover.progress
        if self.mover.active and progress is not None and progress.phase is Phase.COPYING:
            self.mover.cancel()

    def end_move(self) -> None:
        for _ in self.mover.work() or ():
            pass

    # ---- what must be true ----

    def compare(self) -> None:
        """All copies, by readers that were there before and by new ones."""
        for copy, expected in self.expected.items():
            fresh = CopyReader(self.place("a"), self.origin, copy)
            for reader in (fresh, self.readers.get(copy, fresh)):
                assert reader.read(0, len(expected)) == expected, f"copy {copy.int} is wrong"
            fresh.close()
        living = {row.copy_id for row in self.store.table.entries if row.state in layout.LIVE_STATES}
        assert living == set(self.expected)

    def close(self) -> None:
        self.die()
        for reader in self.readers.values():
            reader.close()
        os.close(self.fd)
