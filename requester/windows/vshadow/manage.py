"""vshadow's commands on what there is: query, delete, expose, writers, revert, and what cannot be done here."""

from __future__ import annotations

import os

from shadowset.requester.administration import Administration
from shadowset.requester.backup_components import BackupComponents
from shadowset.requester.cli import EXIT_FAILURE, EXIT_OK, UsageError
from shadowset.requester.cli.output import say
from shadowset.requester.sentences import printable
from shadowset.requester.windows.breaking import break_set
from shadowset.requester.windows.confirm import confirmed
from shadowset.requester.windows.listing import (
    delete_copy,
    deleting_text,
    gather_writers,
    oldest_first,
    writers_text,
)
from shadowset.requester.windows.refusals import (
    refuse_break,
    refuse_disks,
    refuse_import,
    refuse_letters_and_shares,
    refuse_share,
)
from shadowset.requester.windows.shadow_text import VSHADOW, copy_text
from shadowset.requester.windows.vshadow.create import CLIENT
from shadowset.requester.windows.vshadow.options import Options
from shadowset.requester.windows.words import unbraced
from shadowset.requester.windows.writer_text import status_text
from shadowset.vss.codes import Code, VssError
from shadowset.vss.documents import metadata_to_xml
from shadowset.vss.requester_protocol import SnapshotProperties


def query(options: Options) -> int:
    """``-q``, ``-qx=SET``, ``-s=ID``."""
    with Administration(client=CLIENT) as administration:
        copies = administration.query(
            unbraced(options.value) if options.command == "s" else "",
            unbraced(options.value) if options.command == "qx" else "",
        )
    if not copies:
        return _nothing(options)
    for copy in oldest_first(copies):
        say(copy_text(copy, VSHADOW))
    return EXIT_OK


def delete(options: Options) -> int:
    """``-da``, ``-do[=VOLUME]``, ``-dx=SET``, ``-ds=ID``."""
    with BackupComponents(client=CLIENT) as calls:
        copies = oldest_first(_to_delete(options, calls))
        if not copies:
            return _nothing(options)
        if options.command == "da" and not confirmed(f"This deletes all {len(copies)} shadow copies. Are you sure"):
            return EXIT_FAILURE
        for copy in copies[: 1 if options.command == "do" else None]:
            say(f"- {deleting_text(copy)}")
            delete_copy(calls, copy)
    return EXIT_OK


def _to_delete(options: Options, calls: BackupComponents) -> list[SnapshotProperties]:
    return calls.query(
        unbraced(options.value) if options.command == "ds" else "",
        unbraced(options.value) if options.command == "dx" else "",
        options.value if options.command == "do" else "",
    )


def _nothing(options: Options) -> int:
    """No copy is an answer for those that ask for all, and a mistake for those that name one."""
    if options.command in ("qx", "s", "dx", "ds"):
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, f"there is no shadow copy of {options.value}; 'vshadow -q'")
    say("There are no shadow copies.")
    return EXIT_OK


def expose(options: Options) -> int:
    """``-el=ID,DIRECTORY``."""
    copy_id, comma, place = options.value.partition(",")
    if not comma or not place:
        raise UsageError("-el takes an id and an empty directory, as -el=ID,DIRECTORY")
    refuse_letters_and_shares(place)
    with BackupComponents(client=CLIENT) as calls:
        exposed = calls.expose_snapshot(unbraced(copy_id), os.path.abspath(place))
    say(f"- Shadow copy exposed as '{printable(exposed)}'")
    return EXIT_OK


def writers(options: Options) -> int:
    """``-ws``, ``-wm``, ``-wm2``, ``-wm3``."""
    if options.command == "ws":
        with Administration(client=CLIENT) as administration:
            say(status_text(administration.list_writers()))
        return EXIT_OK
    found = gather_writers(CLIENT)
    if options.command == "wm3":
        say("\n".join(metadata_to_xml(writer) for writer in found))
    else:
        say(writers_text(CLIENT, found, detailed=options.command == "wm2"))
    return EXIT_OK


def revert(options: Options) -> int:
    """``-revert=ID``: of a detached volume."""
    with Administration(client=CLIENT) as administration:
        status = administration.revert_to_snapshot(unbraced(options.value))
    say(f"The revert of volume {status.volume} is under way; 'vssadmin query reverts' tells how far it is.")
    return EXIT_OK


def break_copies(options: Options) -> int:
    """``-b=SET,DIRECTORY``, ``-bw=…``, ``-bex=…`` with -rw, -forcerevert (keep the UUIDs); the directory is ours."""
    set_id, _, directory = options.value.partition(",")
    if options.has("mask"):
        refuse_disks("-mask")
    if not directory:
        refuse_break(f"-{options.command}")
    writable = options.command == "bw" or options.has("rw")
    break_set(CLIENT, set_id, directory, writable, options.has("forcerevert"), say)
    return EXIT_OK


def refuse(options: Options) -> int:
    """``-i``, ``-er``, ``-addresync``, ``-resync``. Errors: VSS_E_NOT_SUPPORTED."""
    command = f"-{options.command}"
    if options.command == "er":
        refuse_share(options.value.partition(",")[2])
    if options.command == "i":
        refuse_import(command)
    refuse_disks(command)
