"""Reader processes beside the writer: each reads random ranges of random copies and counts wrong bytes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from multiprocessing.connection import Connection
from typing import Any
from uuid import UUID

from shadowset.nbd_provider.store import resident
from shadowset.nbd_provider.store.copy_files import read_whole
from shadowset.nbd_provider.store.reader import CopyLost, CopyReader
from shadowset.nbd_provider.store.writer import ShadowStore
from shadowset.vss.codes import VssError

CHUNK = 4096
SIZE = CHUNK * 300 - 512
READERS = 3
SET = UUID(int=1 << 64)
LENGTHS = (1, 512, 4096, 9000, 70000, 300000)


def read_copies(storage: str, origin: str, expected: str, seed: int, pipe: Connection) -> None:
    """Read until the pipe says so; ``expected`` is a directory with a file for each copy that exists or existed."""
    resident.PLAIN_TIMES = resident.LEAST = 0  # type: ignore[misc] # all that is asked for is mapped
    chance = random.Random(seed)
    readers: dict[str, CopyReader] = {}
    result: dict[str, Any] = {"reads": 0, "lost": 0, "mapped": 0, "sent": 0, "wrong": [], "errors": []}
    while not pipe.poll():
        names = [name for name in os.listdir(expected) if name[0] != "."][-20:]
        if not names:
            continue
        name = chance.choice(names)
        try:
            read_one(storage, origin, expected, name, readers, chance, result)
        except (CopyLost, VssError):
            result["lost"] += 1
            if name in readers:
                readers.pop(name).close()
        except FileNotFoundError:
            continue
        except Exception as error:
            result["errors"].append(f"{name}: {error!r}")
            break
    pipe.recv()
    pipe.send(result)


def read_somehow(reader: CopyReader, offset: int, length: int, chance: random.Random, result: dict[str, Any]) -> bytes:
    """Most reads go the ways of the NBD server, which looks at one set of words for all."""
    target = memoryview(bytearray(min(length, reader.size - offset)))
    kind = chance.random()
    if kind < 0.2 and resident.COMPILED:
        content = send(reader, offset, len(target), chance)
        if content:
            result["sent"] += 1
            return content
    if kind < 0.3 and reader.fill(offset, target, read_whole):
        return bytes(target)
    if kind >= 0.6 and resident.COMPILED:
        try:
            if reader.fill_now(offset, target):
                result["mapped"] += 1
                return bytes(target)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # of a memory file system, for what is not mapped
                raise
    return reader.read(offset, length)


def send(reader: CopyReader, offset: int, length: int, chance: random.Random) -> bytes:
    """What a client gets of a few replies, some of which may be done and one of these in part."""
    step = 1 + length // chance.choice((1, 2, 5))
    replies = [(b"header", min(step, offset + length - start)) for start in range(offset, offset + length, step)]
    piece = memoryview(bytearray(max(step, chance.randrange(1, length + 1))))
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            done, rest = reader.send_now(ours.fileno(), offset, replies, False, piece)
        stream = b"".join(iter(partial(theirs.recv, 1 << 20), b"")) + b"".join(rest)
    content, at = b"", 0
    for header, count in replies[:done]:
        assert stream[at : at + len(header)] == header
        at += len(header) + count
        content += stream[at - count : at]
    assert at == len(stream)
    return content


def read_one(
    storage: str,
    origin: str,
    expected: str,
    name: str,
    readers: dict[str, CopyReader],
    chance: random.Random,
    result: dict[str, Any],
) -> None:
    with open(f"{expected}/{name}", "rb") as file:
        if name not in readers:
            readers[name] = CopyReader(storage, origin, UUID(int=int(name)))
        length = chance.choice(LENGTHS)
        offset = chance.randrange(readers[name].size)
        content = read_somehow(readers[name], offset, length, chance, result)
        result["reads"] += 1
        if not content or content != os.pread(file.fileno(), len(content), offset):
            result["wrong"].append((name, offset, length))


def race(
    directory: str,
    seconds: float,
    chance: random.Random,
    beside: Callable[[ShadowStore], AbstractContextManager[object]] = lambda _: nullcontext(),
) -> list[dict[str, Any]]:
    """Work on a volume while others read its copies and ``beside(store)`` goes on; what each reader has found."""
    storage, origin, expected = (f"{directory}/{name}" for name in ("storage", "origin", "expected"))
    os.mkdir(expected)
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
        with beside(store):
            work(store, fd, live, expected, chance, time.monotonic() + seconds)
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
    return results


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
            reclaiming = store.space.reclaim()
