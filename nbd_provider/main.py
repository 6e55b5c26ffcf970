"""``shadowset-provider``: serves one protected volume over NBD and keeps its shadow copies."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from typing import Final

from shadowset import __version__
from shadowset.nbd_provider.process import allow_many_files, enter_group, harden, start_logging
from shadowset.nbd_provider.service import serve
from shadowset.nbd_provider.store import layout
from shadowset.nbd_provider.store.settings import Policy
from shadowset.vss.codes import VssError

log = logging.getLogger(__name__)

DESCRIPTION = """Serve one protected volume over NBD and keep its shadow copies.

The origin is a block device or an image file, which only this process writes. Before a chunk is overwritten, its old
content goes to the shadow storage directory, so that every shadow copy stays as it was cut. Copies are made and deleted
over the control socket; other processes read them straight from the storage directory."""

EXAMPLE = """example:
  shadowset-provider data --origin /dev/vdb --storage /var/lib/shadowset/storage/data \\
      --nbd /run/data.sock --control /run/data-control.sock
  nbdinfo nbd+unix:///data?socket=/run/data.sock

other commands:
  shadowset-provider changes STORAGE  list what changed since a shadow copy
  shadowset-provider check STORAGE    verify a shadow storage
  shadowset-provider move STORAGE     move a shadow storage to another directory
  shadowset-provider revert STORAGE   take a volume that is not served back to a shadow copy
  shadowset-provider set-aside STORAGE  make a new shadow storage in the place of one that cannot be opened"""

SWITCH_SECONDS: Final = 0.0005
"""After so long a thread that computes gives way; Python's own 5 ms would be added to each answer of the loop."""

COMMANDS: Final = ("changes", "check", "move", "revert", "set-aside")
"""Words in place of NAME; a volume of such a name is served when an option stands before it."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        "shadowset-provider",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="name of the volume, which is also its NBD export's name")
    parser.add_argument("--origin", required=True, metavar="PATH", help="block device or image file to protect")
    parser.add_argument("--storage", required=True, metavar="DIR", help="shadow storage directory, on another volume")
    parser.add_argument(
        "--existing", action="store_true", help="refuse to serve when there is no storage yet, instead of making one"
    )
    parser.add_argument(
        "--losses",
        metavar="DIR",
        help="where a lost copy is recorded when the storage takes no write, on another file system than the storage "
        "(default: /var/lib/shadowset/losses, or /run/shadowset/losses where that is the storage's file system)",
    )
    parser.add_argument(
        "--nbd", metavar="SOCKET", help="Unix socket to serve NBD on, unless systemd passes one (LISTEN_FDS)"
    )
    parser.add_argument("--control", required=True, metavar="SOCKET", help="Unix socket for the coordinator's calls")
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="go on in place of the process that serves this volume now, with its sockets and clients; it then ends",
    )
    parser.add_argument(
        "--chunk-size",
        type=int,
        default=layout.DEFAULT_CHUNK_SIZE,
        metavar="BYTES",
        help="bytes copied out at a time, a power of two; only for new storage (default: %(default)s)",
    )
    parser.add_argument(
        "--max-copies",
        type=int,
        default=layout.DEFAULT_CAPACITY,
        metavar="NUMBER",
        help="most copies that the volume can have; only for new storage (default: %(default)s)",
    )
    parser.add_argument("--max-size", metavar="BYTES", type=int, help="most that the storage may take, 0: unlimited")
    parser.add_argument("--policy", choices=[policy.text for policy in Policy], help="when the storage is full")
    parser.add_argument("--warn-at", metavar="PERCENT", type=int, help="warn when the storage is as full as this")
    parser.add_argument("--group", metavar="NAME", help="go into a memory cgroup of this name beside the present one")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _run_command(name: str, arguments: Sequence[str]) -> int:
    """Imported only here: what serves a volume locks all its memory, and has no use for them."""
    module = importlib.import_module(f"shadowset.nbd_provider.{name.replace('-', '_')}_command")
    status: int = module.main(arguments)
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit status 0 after a clean end, 1 when the volume cannot be served; commands have their own."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in COMMANDS:
        return _run_command(arguments[0], arguments[1:])
    options = parser().parse_args(arguments)
    start_logging(options.log_level)
    sys.setswitchinterval(SWITCH_SECONDS)
    allow_many_files()
    refused = harden() + (enter_group(options.group) if options.group else [])
    if refused:
        log.info("not allowed here and left out: %s", ", ".join(refused))
    try:
        serve(options)
    except (VssError, OSError) as error:
        print(f"shadowset-provider: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
