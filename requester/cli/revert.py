"""``shadowset revert``: a whole volume goes back to how a shadow copy has it."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json

if TYPE_CHECKING:
    from shadowset.requester.administration import Administration
    from shadowset.vss.requester_protocol import RevertStatus

POLL_S = 0.2


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "revert",
        run,
        "take a whole volume back to a shadow copy",
        "Take a whole volume back to how it was when a shadow copy was made. What was written since is lost, unless\n"
        "another copy has it: all shadow copies stay. The volume must be unmounted and detached. A revert that was\n"
        "interrupted, by a power loss too, goes on when the volume's provider starts; the volume is usable again when\n"
        "it has ended. It cannot be undone: make another copy first if in doubt.",
        "umount /srv/data\nshadowset volume detach data\nshadowset revert 3f2a\nshadowset volume attach data",
    )
    command.add_argument("copy", metavar="COPY", help="a persistent copy's id, device name or number")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument("--no-wait", action="store_true", help="return when it is under way")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Revert a volume."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.identify import find_copy
    from shadowset.requester.cli.output import emit_json, say

    with Administration(client="shadowset revert") as administration:
        copy = find_copy(options.copy, administration.query())
        if not _confirmed(options, copy.original_volume):
            return 1
        status = administration.revert_to_snapshot(copy.snapshot_id)
        if not options.no_wait:
            status = _watch(administration, status)
    if options.json:
        emit_json(status)
    elif status.phase == "none":
        say(f"Volume {status.volume} is as shadow copy {copy.snapshot_id} has it.")
    else:
        say(f"Volume {status.volume} is being reverted; it cannot be attached before that is done.")
    return 0


def _confirmed(options: argparse.Namespace, volume: str) -> bool:
    from shadowset.requester.cli import UsageError

    if options.yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError("a revert overwrites the volume; give --yes where nobody can be asked")
    sys.stderr.write(f"Overwrite volume {volume} with this shadow copy? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _watch(administration: Administration, status: RevertStatus) -> RevertStatus:
    """Errors: VSS_E_REVERT_VOLUME_LOST when it has stopped."""
    from shadowset.requester.progress import Meter
    from shadowset.vss.codes import Code, VssError

    meter = Meter(sys.stderr, f"reverting {status.volume}", status.total)
    while status.phase not in ("none", "stopped"):
        meter.total = status.total
        meter.add(status.done - meter.done)
        time.sleep(POLL_S)
        status = administration.query_revert_status(status.volume)
    meter.finish()
    if status.phase == "stopped":
        raise VssError(
            Code.VSS_E_REVERT_VOLUME_LOST,
            f"the revert of volume {status.volume} has stopped: {status.reason}; mend that, then try again",
        )
    return status
