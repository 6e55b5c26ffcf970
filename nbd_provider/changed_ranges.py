"""What changed between copies, a piece at a time: no answer takes long or is long, however large the volume."""

from __future__ import annotations

import time
from typing import Final
from uuid import UUID

from shadowset.nbd_provider.block_status import Range, joined
from shadowset.nbd_provider.store.changes import ChangeReader, ChangesLost
from shadowset.vss.codes import Code, VssError
from shadowset.vss.provider_protocol import ChangedRanges

STEP_CHUNKS: Final = 65536
MAX_RANGES: Final = 65536
MAX_SECONDS: Final = 0.5


def changed_ranges(storage: str, since: UUID, until: UUID | None, offset: int) -> ChangedRanges:
    """As ``provider_protocol.Changes`` asks it.

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
