"""``shadowset revert``: a whole volume goes back to how a shadow copy has it."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_copy, add_json, add_yes

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
    add_copy(command, "a persistent copy's id, device name or number")
    add_yes(command)
    command.add_argument("--no-wait", action="store_true", help="return when it is under way")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Revert a volume."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.confirm import confirmed
    from shadowset.requester.cli.identify import find_copy
    from shadowset.requester.cli.output import answer

    with Administration(client="shadowset revert") as administration:
        copy = find_copy(options.copy, administration.query())
        question = f"Overwrite volume {copy.original_volume} with this shadow copy?"
        if not confirmed(options.yes, question, "a revert overwrites the volume"):
            return 1
        status = administration.revert_to_snapshot(copy.snapshot_id)
        if not options.no_wait:
            status = _watch(administration, status)
    done = f"is as shadow copy {copy.snapshot_id} has it."
    under_way = "is being reverted; it cannot be attached before that is done."
    answer(options.json, status, f"Volume {status.volume} {done if status.phase == 'none' else under_way}")
    return 0


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
