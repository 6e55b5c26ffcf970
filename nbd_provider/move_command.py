"""``shadowset-provider move``: moves the shadow storage of a volume that no provider serves."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from shadowset.nbd_provider import offline
from shadowset.nbd_provider.volume import Volume
from shadowset.vss.codes import Code, VssError

DESCRIPTION = """Move the shadow storage of a volume that is not served to another directory; a running provider does
it by the call "move", while the volume is used. A move that was interrupted goes on: with this command, without
DIRECTORY as well, or when the provider starts. The old directory keeps a small file that leads to the new one. Progress
goes to standard error. Exit status: 0 when the storage is in the new place, or with --cancel in the old one, else 1."""


def parser() -> argparse.ArgumentParser:
    """The command line after the word ``move``."""
    parser = argparse.ArgumentParser("shadowset-provider move", description=DESCRIPTION)
    parser.add_argument("storage", metavar="STORAGE", help="shadow storage directory")
    parser.add_argument("directory", metavar="DIRECTORY", nargs="?", help="empty directory to move to, or a new one")
    parser.add_argument("--origin", required=True, metavar="PATH", help="the volume's block device or image file")
    parser.add_argument("--cancel", action="store_true", help="give up a move that was interrupted")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run it."""
    options = parser().parse_args(arguments)

    def work(volume: Volume) -> str:
        _move(volume, options)
        storage = volume.store.storage
        return json.dumps({"storage": storage}) if options.json else f"the shadow storage is in {storage}"

    return offline.run(options, work, f"the same command lets the move of {options.storage} go on")


def _move(volume: Volume, options: argparse.Namespace) -> None:
    """Errors: VssError with the reason of a stop."""
    mover, progress = volume.mover, volume.mover.progress
    if options.cancel:
        mover.cancel()
    elif progress is None and options.directory is None:
        message = f"no move of shadow storage {options.storage} is under way; name the directory to move to"
        raise VssError(Code.E_INVALIDARG, message)
    elif progress is None or options.directory not in (None, progress.storage):
        volume.move(options.directory)
    offline.go_through(mover.work(), lambda: mover.progress)
    if mover.progress is not None and not options.cancel:
        message = f"the move of shadow storage {options.storage} has ended: {mover.progress.reason}"
        raise VssError(Code.VSS_E_UNEXPECTED, message)
