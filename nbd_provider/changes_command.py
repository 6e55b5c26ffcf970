"""``shadowset-provider changes``: what changed between copies, a piece at a time.

No answer takes long or is long, however large the volume. It is a program of its own, so that looking for it takes no
time from the process that serves the live volume.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

from shadowset.nbd_provider.block_status import Range, joined
from shadowset.nbd_provider.store.changes import ChangeReader, ChangesLost
from shadowset.vss.codes import Code, VssError
from shadowset.vss.provider_protocol import ChangedRanges

STEP_CHUNKS: Final = 65536
MAX_RANGES: Final = 65536
MAX_SECONDS: Final = 2.0
NICENESS: Final = 10

DESCRIPTION = """Print what changed in a volume since a shadow copy, until a later one or until now, as one JSON object:
block_size, size, ranges (offset and length in bytes), and end, up to where the answer holds: ask on from there.
Where it is not known the object has code and message, and the exit status is 1."""


def changed_ranges(storage: str, since: UUID, until: UUID | None, offset: int) -> ChangedRanges:
    """The first piece from ``offset`` on; with None as ``until`` until now.

    Errors: VSS_E_OBJECT_NOT_FOUND, E_INVALIDARG, also for an offset outside the volume; OSError.
    """
    reader = ChangeReader(storage, since, until)
    try:
        return _from(reader, offset)
    except ChangesLost as error:
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, str(error.strerror)) from None
    finally:
        reader.close()


def _from(reader: ChangeReader, offset: int) -> ChangedRanges:
    size, unit = reader.size, reader.chunk_size
    if not 0 <= offset <= size:
        raise VssError(Code.E_INVALIDARG, f"offset {offset} is outside a volume of {size} bytes; ask from 0 on")
    deadline = time.monotonic() + MAX_SECONDS
    found: list[Range] = []
    end = offset
    while end < size and len(found) < MAX_RANGES and (end == offset or time.monotonic() < deadline):
        first = end // unit
        runs = reader.runs(first, first + STEP_CHUNKS - 1)
        stop = min(size, (first + STEP_CHUNKS) * unit)
        found += [(max(end, run.first * unit), min(stop, run.end * unit)) for run in runs]
        end = stop
    ranges = [(start, last - start) for start, last in joined(found)]
    return ChangedRanges(unit, size, end, ranges)


def main(arguments: Sequence[str]) -> int:
    """Run it."""
    options = parse_arguments(arguments)
    os.nice(NICENESS)
    try:
        found = changed_ranges(options.storage, options.since, options.until, options.offset)
    except VssError as error:
        return _failed(error.code, error.message)
    except OSError as error:
        return _failed(Code.VSS_E_UNEXPECTED_PROVIDER_ERROR, f"{error.filename or options.storage}: {error.strerror}")
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
    return 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line after the word ``changes``."""
    parser = argparse.ArgumentParser("shadowset-provider changes", description=DESCRIPTION)
    parser.add_argument("storage", metavar="STORAGE", help="shadow storage directory")
    parser.add_argument("since", metavar="SINCE", type=UUID, help="id of the earlier copy")
    parser.add_argument("until", metavar="UNTIL", type=UUID, nargs="?", help="id of the later copy (default: now)")
    parser.add_argument("--offset", metavar="BYTES", type=int, default=0, help="where to begin (default: 0)")
    return parser.parse_args(arguments)


def _failed(code: int, message: str) -> int:
    sys.stdout.buffer.write(msgspec.json.encode({"code": int(code), "message": message}) + b"\n")
    return 1
