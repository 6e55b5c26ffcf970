"""``shadowset run``: any backup program, over shadow copies that are where the volumes are."""

from __future__ import annotations

import argparse

from shadowset.requester.cli.options import Commands, add_command, add_json, add_wait

NOT_RUN = 125
"""As env, timeout and nohup have it: what was to run the program has failed, not the program."""


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "run",
        run,
        "run a backup program over shadow copies",
        "Make a shadow copy set of some volumes, with the writers that have files on them, and run a program that\n"
        "sees the copies under the volumes' own paths: only this program, and read-only. When it ends, the writers\n"
        "are told whether their components were saved, and the copies are deleted.\n\n"
        "Any program that reads files will do: restic, borg, rsync, tar. What it writes must go elsewhere, caches\n"
        "too: a protected /home is read-only for it. Other file systems that are mounted below a volume's mount\n"
        "point are not seen.\n\n"
        "The program finds SHADOWSET_SET_ID and, for each volume, SHADOWSET_COPY_NAME (the device) and\n"
        "SHADOWSET_MOUNT_NAME (where the copy is mounted outside) in its environment.\n\n"
        "The copies stay as long as something that the program started still uses them.\n\n"
        "The exit status is the program's. It is 1 where the program ended with 0 and a writer had failed, and 125\n"
        "where the program was not run, whatever the reason: no coordinator, a writer's veto, a copy that cannot be\n"
        "mounted. As with env, 126 and 127 stand for a program that cannot be started and one that is not there.\n"
        "With --json the program's output goes to standard error.",
        "shadowset run -- restic backup /srv/data\n"
        "shadowset run --volume data --type full -- borg create /backup/repo::monday /srv/data\n"
        "shadowset run --volume /srv/data -- tar -C /srv/data -cf /backup/data.tar .",
    )
    command.add_argument("command", metavar="COMMAND", nargs="+", help="the program and its arguments, after --")
    command.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="VOLUME",
        help="a volume's name or a path on it; may be repeated (default: all that are mounted)",
    )
    command.add_argument(
        "--type",
        choices=("copy", "full"),
        default="copy",
        help="what the writers are told: copy changes nothing, full is a backup that they count (default: copy)",
    )
    add_wait(command)
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Make a set and run the program."""
    import sys

    from shadowset.requester.cli import failure
    from shadowset.requester.cli.output import emit_json, note
    from shadowset.requester.cli.watch import TerminalObserver
    from shadowset.requester.run.job import RunJob
    from shadowset.vss.codes import VssError
    from shadowset.vss.enums import BackupType

    job = RunJob(
        options.command,
        options.volume,
        backup_type=BackupType[options.type.upper()],
        observer=TerminalObserver(),
        wait=options.wait,
        output=sys.stderr if options.json else None,
    )
    try:
        report = job.run()
    except (VssError, OSError) as error:
        if job.ran:
            raise
        sentence, _ = failure(error)
        note(f"shadowset: the program was not run: {sentence}")
        return NOT_RUN
    for problem in report.problems:
        note(f"shadowset: {problem}")
    if options.json:
        emit_json(report)
    return report.status or (1 if report.problems else 0)
