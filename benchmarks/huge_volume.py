"""Opens the storage of a sparse volume of 64 TiB and cuts it so many times, with a write after each.

    python -m benchmarks.huge_volume STORAGE CUTS

Prints the seconds that opening took and the resident memory in MiB.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import sys
import time
from uuid import uuid4

from shadowset.nbd_provider.store.writer import ShadowStore

SIZE = 64 << 40


def main() -> None:
    """Open and cut."""
    storage, cuts = sys.argv[1], int(sys.argv[2])
    origin = os.memfd_create("origin")
    os.ftruncate(origin, SIZE)
    started = time.monotonic()
    store = ShadowStore(storage, origin, SIZE)
    opened = time.monotonic() - started
    with contextlib.closing(store):
        for _ in range(cuts):
            copy = uuid4()
            store.commit(copy, uuid4(), time.time_ns(), True)
            store.finish(copy)
            store.prepare_write([(random.randrange(SIZE >> 14) << 14, 4096)])
    print(opened, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
