"""An application whose files tell whether a copy of them is an instant; run as a program of its own.

It writes the number of each round into ``first``, lets it be durable, then into ``second``, and so on. At any instant
``second`` is ``first`` or one less. Each number stands in a block that has it all over, so a torn one is seen too.
It ends with status 1 at the first error that it sees: a live volume must give none.
"""

from __future__ import annotations

import os
import struct
import sys

BLOCK = 4096
NAMES = ("first", "second")


def block_of(number: int) -> bytes:
    """The contents of a file in a round."""
    return struct.pack("<Q", number) * (BLOCK // 8)


def number_in(data: bytes) -> int:
    """The round of such contents. Errors: ValueError when they are torn."""
    (number,) = struct.unpack("<Q", data[:8])
    if data != block_of(number):
        raise ValueError("a block is torn")
    return int(number)


def is_instant(directory: str) -> str:
    """What is wrong with the files in ``directory``; "" when they are as at one instant."""
    numbers = []
    for name in NAMES:
        try:
            with open(f"{directory}/{name}", "rb") as file:
                numbers.append(number_in(file.read()))
        except (OSError, ValueError, struct.error) as error:
            return f"{name} cannot be read: {error}"
    first, second = numbers
    return "" if first - second in (0, 1) else f"first is {first} and second is {second}, which never was"


def run(directory: str) -> None:
    """Write until ended; beside the two files, noise that copies have to keep. Errors: OSError."""
    files = [os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT, 0o600) for name in NAMES]
    noise = os.open(f"{directory}/noise", os.O_WRONLY | os.O_CREAT, 0o600)
    number = 0
    while True:
        for descriptor in files:
            os.pwrite(descriptor, block_of(number), 0)
            os.fsync(descriptor)
        os.pwrite(noise, os.urandom(1 << 16), number % 64 << 16)
        number += 1


if __name__ == "__main__":
    try:
        run(sys.argv[1])
    except OSError as error:
        sys.exit(f"the live volume gave an error: {error}")
