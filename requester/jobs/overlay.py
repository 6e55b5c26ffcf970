"""Writes parts of a device object into an image that qemu-nbd serves; a program of its own, for libnbd's sake.

Run as ``python3 overlay.py URI DEVICE`` with ``OFFSET LENGTH`` lines on standard input; it prints the bytes written
after each mebibyte. libnbd's bindings are a package of the distribution, so its Python may be another than ours.
"""

import os
import sys
from typing import Any

BLOCK = 1 << 20


def main(uri: str, device: str) -> int:
    """Copy all ranges, then flush."""
    import nbd  # type: ignore[import-not-found,unused-ignore]

    handle: Any = nbd.NBD()
    handle.connect_uri(uri)
    source = os.open(device, os.O_RDONLY)
    done = 0
    for line in sys.stdin:
        offset, length = map(int, line.split())
        end = offset + length
        while offset < end:
            data = os.pread(source, min(BLOCK, end - offset), offset)
            if not data:
                print(f"the copy ends at byte {offset}", file=sys.stderr)
                return 1
            handle.pwrite(data, offset)
            offset += len(data)
            done += len(data)
            print(done, flush=True)
    handle.flush()
    handle.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
