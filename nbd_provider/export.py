"""``shadowset-export``: serves shadow copies read-only over NBD, beside the process that writes their storage."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from shadowset import __version__
from shadowset.nbd_provider.copy_export import CopyDirectory
from shadowset.nbd_provider.process import start_logging
from shadowset.nbd_provider.server import Server
from shadowset.nbd_provider.store.reader import list_copies
from shadowset.vss.codes import VssError

DESCRIPTION = """Serve the shadow copies of one volume read-only over NBD.

Each copy is an export named by its copy id; the default export is the newest copy. The copies are read straight from
shadow storage and origin, so the process that serves the live volume is not burdened."""

EXAMPLE = """example:
  shadowset-export --storage /var/lib/shadowset/storage/data --origin /dev/vdb --nbd /run/copies.sock
  nbdinfo --list nbd+unix:///?socket=/run/copies.sock"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit status 0 after a clean end, 1 when the storage cannot be served."""
    parser = argparse.ArgumentParser(
        "shadowset-export",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--storage", required=True, metavar="DIR", help="shadow storage directory of the volume")
    parser.add_argument("--origin", required=True, metavar="PATH", help="block device or image file of the volume")
    parser.add_argument("--nbd", required=True, metavar="SOCKET", help="Unix socket to serve NBD on")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(arguments)
    start_logging(options.log_level)
    try:
        list_copies(options.storage)
        server = Server(CopyDirectory(options.storage, options.origin, lambda: list_copies(options.storage)))
        server.listen_nbd(options.nbd)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stop())
        server.run()
    except (VssError, OSError) as error:
        print(f"shadowset-export: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
