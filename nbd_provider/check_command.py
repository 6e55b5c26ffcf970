"""``shadowset-provider check``: verify a shadow storage that no provider uses."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from shadowset.nbd_provider.store.check import Report, check_storage
from shadowset.vss.codes import VssError

SOUND: Final = 0
DAMAGED: Final = 1
UNCHECKED: Final = 2

DESCRIPTION = """Verify a shadow storage that no provider uses: its table, its chains, the checksums of its data.
Nothing is changed. Exit status: 0 sound, 1 damaged, 2 when it cannot be checked."""


def parser() -> argparse.ArgumentParser:
    """The command line after the word ``check``."""
    parser = argparse.ArgumentParser("shadowset-provider check", description=DESCRIPTION)
    parser.add_argument("storage", metavar="STORAGE", help="shadow storage directory")
    parser.add_argument("--origin", metavar="PATH", help="the volume's origin, to compare its size")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def text(report: Report) -> str:
    """The report in lines."""
    lines = [
        f"shadow storage {report.storage}: {'sound' if report.sound else 'DAMAGED'}",
        f"  volume of {report.size} bytes in chunks of {report.chunk_size}, {len(report.copies)} living copies",
        f"  slots: {report.linked} in chains ({report.verified} checksums verified), {report.unlinked} unlinked, "
        f"{report.given_back} given back",
    ]
    lines += [f"  note: {note}" for note in report.notes]
    for damage in report.damages:
        hit = f"; hits copies {', '.join(map(str, damage.copies))}" if damage.copies else ""
        lines.append(f"  {damage.where}: {damage.what}{hit}")
    if not report.sound:
        copies = {copy for damage in report.damages for copy in damage.copies}
        lines.append(f"  copies that cannot be trusted: {', '.join(sorted(map(str, copies))) or 'none'}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Run it."""
    options = parser().parse_args(arguments)
    try:
        report = check_storage(options.storage, options.origin)
    except (VssError, OSError) as error:
        print(f"shadowset-provider: {error}", file=sys.stderr)
        return UNCHECKED
    print(json.dumps(asdict(report) | {"sound": report.sound}, default=str) if options.json else text(report))
    return SOUND if report.sound else DAMAGED
