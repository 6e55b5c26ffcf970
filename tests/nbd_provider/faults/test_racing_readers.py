"""Readers in other processes race with writes, cuts, deletions and reclaiming: no wrong byte, ever."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from uuid import UUID

import pytest
from racing import read_copies

from shadowset.nbd_provider.store.writer import ShadowStore

CHUNK = 4096
SIZE = CHUNK * 300 - 512
SECONDS = 12
READERS = 3
SET = UUID(int=1 << 64)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_readers_in_other_processes(memory_directory: str, long: int) -> None:
    storage, origin, expected = (f"{memory_directory}/{name}" for name in ("storage", "origin", "expected"))
    os.mkdir(expected)
    chance = random.Random(None if long else 11)
    live = bytearray(chance.randbytes(SIZE))
    with open(origin, "wb") as file:
        file.write(live)
    fd = os.open(origin, os.O_RDWR)
    store = ShadowStore(storage, fd, SIZE, CHUNK)
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for seed in range(READERS):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=read_copies, args=(storage, origin, expected, seed, theirs)))
        pipes.append(ours)
    for process in processes:
        process.start()
    try:
        work(store, fd, live, expected, chance, time.monotonic() + (long * 60 or SECONDS))
        results = []
        for pipe in pipes:
            pipe.send("end")
            assert pipe.poll(30), "a reader has died"
            results.append(pipe.recv())
    finally:
        for process in processes:
            process.kill()
            process.join(10)
        store.close()
        os.close(fd)
    print([{key: value for key, value in result.items() if value} for result in results])
    assert not [result for result in results if result["wrong"] or result["errors"]]
    assert sum(result["reads"] for result in results) > 50
    assert sum(result["lost"] for result in results) > 0


def work(store: ShadowStore, fd: int, live: bytearray, expected: str, chance: random.Random, end: float) -> None:
    number, copies, reclaiming = 0, [], iter(())
    while time.monotonic() < end:
        kind = chance.random()
        if kind < 0.85:
            offset = chance.randrange(SIZE)
            data = chance.randbytes(min(chance.choice([512, 5000, 60000]), SIZE - offset))
            store.prepare_write([(offset, len(data))])
            os.pwrite(fd, data, offset)
            live[offset : offset + len(data)] = data
        elif kind < 0.89 and len(copies) < 12:
            number += 1
            store.commit(UUID(int=number), SET, 1, chance.random() < 0.3)
            store.finish(UUID(int=number))
            with open(f"{expected}/.{number}", "wb") as file:
                file.write(live)
            os.rename(f"{expected}/.{number}", f"{expected}/{number}")
            copies.append(number)
        elif kind < 0.9 and copies:
            victims = copies[:] if chance.random() < 0.03 else [chance.choice(copies)]
            for victim in victims:
                copies.remove(victim)
                store.delete(UUID(int=victim))
                if chance.random() < 0.9:
                    os.unlink(f"{expected}/{victim}")
        elif next(reclaiming, None) is None:
            reclaiming = store.reclaim()
