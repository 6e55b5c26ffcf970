"""``shadowset export`` and ``shadowset import``: shadow copies on their way to another host."""

from __future__ import annotations

import argparse
import os
import sys

from shadowset.requester.cli.options import Commands, add_command, add_copy, add_json


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    export = add_command(
        commands,
        "export",
        run_export,
        "write a shadow copy into a file for another host",
        "Write a shadow copy into a file that 'shadowset import' takes in on another host: its data without what is\n"
        "all zeros, its properties, the record of its set, and a backup components document when one is given. With\n"
        "--since only what changed since an earlier copy, which must have been imported there before.",
        "shadowset export 3f2a /media/disk/data.shadow\n"
        "shadowset export 7c11 /media/disk/data-2.shadow --since 3f2a --document backup.xml",
    )
    add_copy(export)
    export.add_argument("file", metavar="FILE", help="a new file")
    export.add_argument("--since", metavar="COPY", help="an earlier copy of the same volume")
    export.add_argument("--document", metavar="XML", help="a backup components document to go along")
    add_json(export)
    take = add_command(
        commands,
        "import",
        run_import,
        "take in a shadow copy that another host has exported",
        "Take in a shadow copy that another host has exported. It is listed, mounted and deleted like one that was\n"
        "made here; its volume is named HOST:VOLUME. The service reads the file, so name one that is on its host.",
        "shadowset import /media/disk/data.shadow\nshadowset mount HarddiskVolumeShadowCopy7",
    )
    take.add_argument("file", metavar="FILE", help="a file that 'shadowset export' has made")
    take.add_argument("--document", metavar="XML", help="write the document that came along into this new file")
    add_json(take)


def run_export(options: argparse.Namespace) -> int:
    """Export a copy."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.identify import find_copy
    from shadowset.requester.cli.output import answer
    from shadowset.requester.delta import whole_delta
    from shadowset.requester.export_copy import export_copy
    from shadowset.requester.progress import Meter, size_text

    document = ""
    if options.document:
        with open(options.document, encoding="utf-8") as file:
            document = file.read()
    with Administration(client="shadowset export") as administration:
        copies = administration.query()
        copy = find_copy(options.copy, copies)
        since = find_copy(options.since, copies).snapshot_id if options.since else ""
        changed = None
        if since:
            ask = administration.query_snapshot_delta
            changed = whole_delta(lambda at: ask(since, copy.snapshot_id, at)).ranges
        total = copy.size if changed is None else sum(length for _, length in changed)
        meter = Meter(sys.stderr, f"writing {options.file}", total)
        made = administration.get_set(copy.snapshot_set_id)
        size = export_copy(copy, made, options.file, document, since, changed, meter.add)
        meter.finish()
    told = {"file": options.file, "snapshot_id": copy.snapshot_id, "since": since, "data": size}
    answer(options.json, told, f"{options.file} carries {size_text(size)} of shadow copy {copy.snapshot_id}.")
    return 0


def run_import(options: argparse.Namespace) -> int:
    """Import a copy."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.output import answer

    with Administration(client="shadowset import") as administration:
        imported = administration.import_snapshot(os.path.abspath(options.file))
    if options.document and imported.document:
        with open(options.document, "x", encoding="utf-8") as file:
            file.write(imported.document)
    copy = imported.copy
    answer(options.json, copy, f"Shadow copy {copy.snapshot_id} of {copy.original_volume} is {copy.device_object}.")
    return 0
