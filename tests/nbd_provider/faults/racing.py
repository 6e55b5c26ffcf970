"""Reader processes beside the writer: each reads random ranges of random copies and counts wrong bytes."""

from __future__ import annotations

import os
import random
from multiprocessing.connection import Connection
from typing import Any
from uuid import UUID

from shadowset.nbd_provider.store.copy_files import read_whole
from shadowset.nbd_provider.store.reader import CopyLost, CopyReader
from shadowset.vss.codes import VssError

LENGTHS = (1, 512, 4096, 9000, 70000, 300000)


def read_copies(storage: str, origin: str, expected: str, seed: int, pipe: Connection) -> None:
    """Read until the pipe says so; ``expected`` is a directory with a file for each copy that exists or existed."""
    chance = random.Random(seed)
    readers: dict[str, CopyReader] = {}
    result: dict[str, Any] = {"reads": 0, "lost": 0, "wrong": [], "errors": []}
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


def read_somehow(reader: CopyReader, offset: int, length: int, chance: random.Random) -> bytes:
    """Half of the reads go the way of the NBD server, which looks at one set of words for all."""
    target = memoryview(bytearray(min(length, reader.size - offset)))
    if chance.random() < 0.5 and reader.fill(offset, target, read_whole):
        return bytes(target)
    return reader.read(offset, length)


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
        content = read_somehow(readers[name], offset, length, chance)
        result["reads"] += 1
        if content != os.pread(file.fileno(), length, offset):
            result["wrong"].append((name, offset, length))
