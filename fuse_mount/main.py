"""``shadowset-fuse``: serves the device objects of all shadow copies below one mount point."""

from __future__ import annotations

import argparse
import errno
import grp
import os
import sys
from collections.abc import Sequence

from shadowset import __version__

DESCRIPTION = """Show shadow copies as read-only files, one for each copy: HarddiskVolumeShadowCopyN.

Each file has the size of its volume and the time of its cut; its extended attributes (user.shadowset.*) carry the
shadow copy's properties. The descriptions in the objects directory, which the coordinator writes, say which copies
there are."""

EXAMPLE = """example:
  shadowset-fuse --objects /run/shadowset/objects --mount /run/shadowset/devices
  getfattr -d /run/shadowset/devices/HarddiskVolumeShadowCopy1"""

GROUP = "shadowset"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        "shadowset-fuse",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--objects", required=True, metavar="DIR", help="directory of device object descriptions")
    parser.add_argument("--mount", required=True, metavar="DIR", help="where to mount; made when it is missing")
    parser.add_argument("--group", metavar="GROUP", help=f"who may read them beside root (default: {GROUP})")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit status 0 after unmounting, 1 when the tree cannot be mounted."""
    options = parser().parse_args(arguments)
    from shadowset.fuse_mount.adapter import detach_stale, serve
    from shadowset.fuse_mount.tree import DeviceTree

    try:
        os.makedirs(options.objects, mode=0o750, exist_ok=True)
        if not os.path.ismount(options.mount):
            try:
                os.makedirs(options.mount, mode=0o755, exist_ok=True)
            except FileExistsError:
                pass
        detach_stale(options.mount)
        serve(DeviceTree(os.path.abspath(options.objects)), options.mount, _group(options.group))
    except (OSError, RuntimeError) as error:
        print(f"shadowset-fuse: {options.mount} cannot be served: {error}", file=sys.stderr)
        return 1
    return 0


def _group(name: str | None) -> int:
    """The number of a group. Errors: OSError for one that was asked for and is not there."""
    try:
        return int(name) if name and name.isdecimal() else grp.getgrnam(name or GROUP).gr_gid
    except KeyError:
        if name:
            raise OSError(errno.ENOENT, f"there is no group {name!r}") from None
        return os.getegid()


if __name__ == "__main__":
    sys.exit(main())
