"""``shadowset create``: a shadow copy set of some volumes."""

from __future__ import annotations

import argparse
import os
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json, add_tries, add_wait

if TYPE_CHECKING:
    from shadowset.requester.backup_components import BackupComponents
    from shadowset.vss.requester_protocol import SetRecord, WriterStatus

CONTEXTS = (
    "backup",
    "file-share-backup",
    "app-rollback",
    "nas-rollback",
    "client-accessible",
    "client-accessible-writers",
)


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    command = add_command(
        commands,
        "create",
        run,
        "make a shadow copy set of some volumes",
        "Make shadow copies of some volumes, all cut at the same instant. The writers that run take part, unless\n"
        "--no-writers is given. The set stays until it is deleted. With --exec it is auto-released instead:\n"
        "mounted, there while the command runs, and gone afterwards.\n\n"
        "The command of --exec finds in its environment SHADOWSET_SET_ID, and for each volume (name in capitals,\n"
        "other characters than letters and digits as _) SHADOWSET_COPY_NAME, the device, and SHADOWSET_MOUNT_NAME,\n"
        "the directory where the copy is mounted.",
        "shadowset create data wal\n"
        "shadowset create data --no-writers --json\n"
        "shadowset create data --exec 'tar -C \"$SHADOWSET_MOUNT_DATA\" -cf /backup/data.tar .'",
    )
    command.add_argument("volumes", metavar="VOLUME", nargs="+", help="a volume's name, its device, or a path on it")
    command.add_argument(
        "--context",
        choices=CONTEXTS,
        help="kind of the set, by VSS's names (default: app-rollback, or backup with --exec)",
    )
    command.add_argument("--persistent", action="store_true", help="the set stays, also across a restart of the host")
    command.add_argument("--no-writers", action="store_true", help="cut without asking the writers (crash-consistent)")
    command.add_argument("--exec", metavar="CMD", dest="command", help="shell command to run while the set is there")
    add_wait(command)
    add_tries(command)
    add_json(command)


def choose_context(name: str | None, persistent: bool, no_writers: bool, executes: bool) -> int:
    """The context that the options ask for. Errors: UsageError where the set would be gone before any use."""
    from shadowset.requester.cli import UsageError
    from shadowset.vss.enums import Attribute, Context

    chosen = name or ("backup" if executes else "app-rollback")
    context = int(Context[chosen.upper().replace("-", "_")])
    if persistent:
        context |= Attribute.PERSISTENT | Attribute.NO_AUTO_RELEASE
    if no_writers:
        context |= Attribute.NO_WRITERS
    if not executes and not context & Attribute.NO_AUTO_RELEASE:
        raise UsageError(
            f"a set of context {chosen} is deleted when this command ends; give --exec CMD to use it meanwhile, "
            "or --persistent to keep it"
        )
    return context


def run(options: argparse.Namespace) -> int:
    """Make a set."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.output import note
    from shadowset.requester.create import complete
    from shadowset.requester.retry import Policy, with_retries
    from shadowset.vss.enums import Attribute

    context = choose_context(options.context, options.persistent, options.no_writers, bool(options.command))
    with Administration(client="shadowset create") as administration:
        registered = [] if context & Attribute.NO_WRITERS else administration.list_writers()
    with ExitStack() as stack:
        calls, record = with_retries(
            lambda last: _attempt(stack, options, context, last),
            Policy(options.tries, options.retry_wait),
            lambda sentence: note(f"shadowset: {sentence}"),
        )
        status = _execute(calls, record, options.command) if options.command else 0
        complete(calls, context)
    _report(options, record)
    return status or _warn(record, registered)


def _attempt(
    stack: ExitStack, options: argparse.Namespace, context: int, last: bool
) -> tuple[BackupComponents, SetRecord]:
    """A set in a session of its own. Unless it is the last attempt, writers' passing failures void it."""
    from shadowset.requester.backup_components import BackupComponents
    from shadowset.requester.cli.watch import show_notice
    from shadowset.requester.create import create_set, take_back
    from shadowset.requester.retry import refuse_passing_failures
    from shadowset.vss.codes import VssError

    stack.close()
    calls = stack.enter_context(BackupComponents(client="shadowset create", on_notice=show_notice))
    record = create_set(calls, options.volumes, context, options.wait)
    try:
        if not last:
            refuse_passing_failures(record)
    except VssError:
        take_back(calls, record.set_id)
        raise
    return calls, record


def _execute(calls: BackupComponents, record: SetRecord, command: str) -> int:
    from shadowset.requester.create import environment_of

    mounts = {copy.original_volume: calls.expose_snapshot(copy.snapshot_id) for copy in record.snapshots}
    environment = environment_of(record, mounts)
    status = subprocess.run(command, shell=True, env={**os.environ, **environment}, check=False).returncode
    for copy in record.snapshots:
        calls.unexpose_snapshot(copy.snapshot_id)
    return status if status >= 0 else 128 - status


def _warn(record: SetRecord, registered: list[WriterStatus]) -> int:
    """Say which writers failed without vetoing or did not describe themselves: for them the set is as after a crash."""
    from shadowset.requester.backup.undescribed import undescribed
    from shadowset.requester.backup.verdicts import has_failed, writer_failure_text
    from shadowset.requester.cli.output import note

    silent = undescribed(registered, {(one.writer_id, one.instance_id) for one in record.writers})
    for writer in silent:
        note(
            f"shadowset: the set was made, but writer {writer.name} did not describe itself when asked and took no part"
        )
    failed = [writer for writer in record.writers if has_failed(writer)]
    for writer in failed:
        note(f"shadowset: the set was made, but {writer_failure_text(writer)}")
    return 1 if failed or silent else 0


def _report(options: argparse.Namespace, record: SetRecord) -> None:
    from shadowset.requester.cli.listing import set_text
    from shadowset.requester.cli.output import emit_json, say

    if options.json:
        emit_json(record)
    elif not options.command:
        say(set_text(record.snapshots))
        if len(record.snapshots) > 1:
            say(f"  all volumes cut within {record.skew_ms:.3f} ms")
