"""``shadowset-provider set-aside``: a new shadow storage in the place of one that cannot be opened any more."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from shadowset.nbd_provider import offline
from shadowset.nbd_provider.places import check_storage_place
from shadowset.nbd_provider.store.aside import set_aside
from shadowset.vss.codes import VssError

DESCRIPTION = """Set aside a shadow storage without which its provider does not start, because the header of its table
is damaged or the table is gone, and make a new one in its place. Its copies are given up; the live volume is served
again as soon as the provider is started, which the coordinator does within seconds. Nothing is removed. Limits and
policy are those of a new storage. Exit status: 0 when it is done, else 1."""


def parser() -> argparse.ArgumentParser:
    """The command line after the word ``set-aside``."""
    parser = argparse.ArgumentParser("shadowset-provider set-aside", description=DESCRIPTION)
    parser.add_argument("storage", metavar="STORAGE", help="shadow storage directory")
    parser.add_argument("--origin", required=True, metavar="PATH", help="the volume's block device or image file")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run it."""
    options = parser().parse_args(arguments)
    try:
        with open(options.origin, "rb") as file:
            size = file.seek(0, os.SEEK_END)
        check_storage_place(options.origin, options.storage)
        place = set_aside(options.storage, size)
    except (VssError, OSError) as error:
        return offline.complain(error)
    print(f"the shadow storage {options.storage} is new; what was in it is in {place}")
    return 0
