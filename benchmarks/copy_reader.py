"""Reads a copy from end to end, again and again, until it is ended.

python -m benchmarks.copy_reader DIRECTORY COPY
"""

from __future__ import annotations

import sys
from uuid import UUID

from shadowset.nbd_provider.store.reader import CopyReader


def main() -> None:
    """Read."""
    directory, copy = sys.argv[1], UUID(sys.argv[2])
    reader = CopyReader(f"{directory}/storage", f"{directory}/image", copy)
    while True:
        for offset in range(0, reader.size, 1 << 20):
            reader.read(offset, 1 << 20)


if __name__ == "__main__":
    main()
