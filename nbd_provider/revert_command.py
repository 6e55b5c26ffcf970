"""``shadowset-provider revert``: takes a volume that no provider serves back to a shadow copy."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from uuid import UUID

from shadowset.nbd_provider import offline
from shadowset.nbd_provider.volume import Volume, parse_id
from shadowset.vss.codes import Code, VssError

DESCRIPTION = """Take a volume that is not served back to a shadow copy. All shadow copies stay, so a revert to a newer
one undoes it. A revert that was interrupted goes on: with this command, without --copy as well, or when the provider
starts. Progress goes to standard error. Exit status: 0 when the volume is as the copy, 1 when it is not."""


def parser() -> argparse.ArgumentParser:
    """The command line after the word ``revert``."""
    parser = argparse.ArgumentParser("shadowset-provider revert", description=DESCRIPTION)
    parser.add_argument("storage", metavar="STORAGE", help="shadow storage directory")
    parser.add_argument("--origin", required=True, metavar="PATH", help="the volume's block device or image file")
    parser.add_argument("--copy", metavar="ID", help="the copy to go back to")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run it."""
    options = parser().parse_args(arguments)

    def work(volume: Volume) -> str:
        copy, written = _revert(volume, options.copy)
        result = {"storage": options.storage, "origin": options.origin, "copy_id": str(copy), "bytes": written}
        text = f"{options.origin} is as shadow copy {copy} saw it; {written} bytes were looked at"
        return json.dumps(result) if options.json else text

    return offline.run(options, work, f"the same command lets the revert of {options.origin} go on")


def _revert(volume: Volume, wanted: str | None) -> tuple[UUID, int]:
    """Copy, and bytes of its changed chunks. Errors: VssError with the reason of a stop."""
    under_way = volume.reverter.progress
    if under_way is None and wanted is None:
        raise VssError(Code.E_INVALIDARG, f"no revert of {volume.name} is under way; name a copy with --copy")
    if under_way is not None and wanted in (None, str(under_way.copy_id)):
        progress = under_way
    else:
        progress = volume.reverter.begin(parse_id(wanted or ""))
    offline.go_through(volume.reverter.work(), lambda: progress)
    if progress.reason:
        raise VssError(Code.VSS_E_UNEXPECTED, f"the revert of {volume.name} has stopped: {progress.reason}")
    return progress.copy_id, progress.total
