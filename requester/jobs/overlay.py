"""Writes parts of a device object into a qcow2 image, through a qemu-nbd of its own; a program for libnbd's sake.

Run as ``python3 overlay.py IMAGE DEVICE PROGRESS`` with ``OFFSET LENGTH`` lines on standard input, in order; it prints
the bytes written after each mebibyte. Now and then all is made durable, and the file PROGRESS says up to where.
libnbd's bindings are a package of the distribution, so its Python may be another than ours.
"""

import os
import sys
from typing import Any

BLOCK = 1 << 20
DURABLE = 256 << 20


def note(progress: int, offset: int) -> None:
    """What is before this offset is in the image, durably."""
    os.pwrite(progress, b"%020d\n" % offset, 0)
    os.fsync(progress)


def main(image: str, device: str, progress_path: str) -> int:
    """Copy all ranges, then flush."""
    import nbd  # type: ignore[import-not-found,unused-ignore]

    handle: Any = nbd.NBD()
    # it ends with its one client, so with this process, however that ends
    handle.connect_systemd_socket_activation(["qemu-nbd", "--format", "qcow2", "--cache", "writeback", image])
    source = os.open(device, os.O_RDONLY)
    progress = os.open(progress_path, os.O_WRONLY | os.O_CREAT, 0o600)
    done = durable = 0
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
            if done - durable >= DURABLE:
                handle.flush()
                note(progress, offset)
                durable = done
    handle.flush()
    handle.shutdown()
    del handle  # closing it waits until the server has ended, and the image is as it stays
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
