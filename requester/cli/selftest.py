"""``shadowset selftest``: whether the promises hold on this host."""

from __future__ import annotations

import argparse

from shadowset.requester.cli.options import Commands, add_command, add_json


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "selftest",
        run,
        "try out faults on a volume of its own",
        "Make a volume on an image file, with a coordinator and directories of their own, let an application write\n"
        "on it, and do what may happen: kill the provider, kill the coordinator within a set, let a writer hang, fill\n"
        "the shadow storage. Each time it is checked that the application sees no error, that nothing stays frozen,\n"
        "and that the shadow copies are instants of the volume. Nothing of this host's installation is touched; it\n"
        "takes a minute or two, 600 MiB, and root, and removes all that it made; what a run that was killed has left\n"
        "is taken away by the next one.",
        "shadowset selftest\nshadowset selftest --directory /mnt/scratch --json",
    )
    command.add_argument(
        "--directory", default="/var/tmp", metavar="DIR", help="where to make the image file (default: /var/tmp)"
    )
    command.add_argument("--clean", action="store_true", help="only take away what a run that was killed has left")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Make the checks."""
    from shadowset.requester.abandoned import clear, find_abandoned
    from shadowset.requester.cli import UsageError
    from shadowset.requester.cli.output import emit_json, note, say
    from shadowset.requester.selftest.checks import Outcome, SelfTest
    from shadowset.requester.sentences import printable
    from shadowset.requester.stage import MissingError, Stage, check_machine

    try:
        check_machine()
    except MissingError as error:
        raise UsageError(str(error)) from None

    problems = []
    for left in find_abandoned():
        note(f"shadowset: a run that was killed has left {left.directory}, which is taken away now")
        problems += clear(left)
    if options.clean:
        for problem in problems:
            note(f"shadowset: {problem}")
        return int(bool(problems))

    def tell(outcome: Outcome) -> None:
        if not options.json:
            result = f"FAILED: {outcome.trouble}" if outcome.trouble else f"ok: {outcome.detail}"
            say(printable(f"{outcome.check} ({outcome.seconds:.1f} s)"))
            say(printable(f"    {result}"))

    stage = Stage(options.directory)
    try:
        outcomes = SelfTest(stage).run(tell)
    finally:
        problems += stage.close()
    if options.json:
        emit_json(outcomes)
    for problem in problems:
        note(f"shadowset: {problem}")
    return 1 if problems or any(outcome.trouble for outcome in outcomes) else 0
