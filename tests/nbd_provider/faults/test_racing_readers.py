"""Readers in other processes race with writes, cuts, deletions and reclaiming, and moves: no wrong byte, ever."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from racing import race

from shadowset.nbd_provider.store.move import Mover
from shadowset.nbd_provider.store.resident import COMPILED
from shadowset.nbd_provider.store.writer import ShadowStore

SECONDS = 12


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_readers_in_other_processes(memory_directory: str, long: int) -> None:
    results = race(memory_directory, long * 60 or SECONDS, random.Random(None if long else 11))
    assert not [result for result in results if result["wrong"] or result["errors"]]
    assert sum(result["reads"] for result in results) > 50
    assert not COMPILED or sum(result["mapped"] for result in results) > 5
    assert sum(result["lost"] for result in results) > 0


@pytest.mark.skipif(not COMPILED, reason="the module in C was not built: gcc or python3-dev missing")
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_readers_that_are_served_by_one_call(long: int) -> None:
    """On a disk: a memory file system cannot say of a slot whether it would have to be waited for."""
    with tempfile.TemporaryDirectory(prefix="ss-disk-", dir="/var/tmp") as directory:
        results = race(directory, long * 60 or SECONDS / 3, random.Random(None if long else 14))
    assert not [result for result in results if result["wrong"] or result["errors"]]
    assert sum(result["sent"] for result in results) > 5


@pytest.mark.vss(103)
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_readers_of_a_storage_that_moves(memory_directory: str, long: int) -> None:
    """The storage moves on and on, in a thread beside the writes; the readers know its first place only."""
    moves: list[str] = []
    chance = random.Random(None if long else 12)
    places = [f"{memory_directory}/{name}" for name in ("storage", "b", "c")]

    @contextmanager
    def moving(store: ShadowStore) -> Iterator[None]:
        mover, ended = Mover(store), threading.Event()

        def move_on() -> None:
            while not ended.is_set():
                mover.begin(chance.choice([place for place in places if place != store.storage]))
                for _ in mover.work() or ():
                    pass
                assert mover.progress is None, mover.progress
                moves.append(store.storage)

        thread = threading.Thread(target=move_on)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    results = race(memory_directory, long * 60 or SECONDS, random.Random(None if long else 13), moving)
    assert not [result for result in results if result["wrong"] or result["errors"]]
    assert sum(result["reads"] for result in results) > 50 and len(moves) > 3
    assert not COMPILED or sum(result["mapped"] for result in results) > 5
