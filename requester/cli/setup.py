"""``shadowset setup`` and ``shadowset config``: Shadowset on this host, and what it is told to do."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json

if TYPE_CHECKING:
    from shadowset.requester.setup.run import Outcome, Tell
    from shadowset.requester.setup.tree import Tree
    from shadowset.vss.paths import Paths


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    setup = add_command(
        commands,
        "setup",
        run_setup,
        "make group, directories, settings and units on this host, or take them away",
        "Make what the service needs on this host: the group shadowset, directories, settings, systemd's units; then\n"
        "enable and start the coordinator. What is there already stays as it is, so it can be run again, after an\n"
        "upgrade too. --undo takes away exactly what was made; what somebody changed or filled remains, shadow\n"
        "storage always, and is named.",
        "shadowset setup --dry-run\nshadowset setup --writer postgres\nshadowset setup --undo",
    )
    setup.add_argument("--undo", action="store_true", help="take away what setup has made")
    setup.add_argument("--dry-run", action="store_true", help="only say what would be done")
    setup.add_argument("--root", metavar="DIR", default="", help="a tree that stands for the host; nothing is started")
    setup.add_argument(
        "--programs", metavar="DIR", default="", help="where the units find the programs (default: where this one is)"
    )
    setup.add_argument(
        "--writer", metavar="USER", action="append", default=[], help="a user whose processes may be writers"
    )
    setup.add_argument("--no-start", action="store_true", help="enable the coordinator, but do not start it now")
    add_json(setup)
    _register_config(commands)


def _register_config(commands: Commands) -> None:
    config = add_command(
        commands,
        "config",
        None,
        "show the coordinator's settings",
        "Show the coordinator's settings.",
        "shadowset config show",
    )
    actions = config.add_subparsers(title="actions", metavar="ACTION", required=True)
    show = add_command(
        actions,
        "show",
        run_show,
        "show each setting, its value and where it comes from",
        "Show each setting with its value and the file that sets it, or that it is the default. A file that the\n"
        "coordinator would refuse is refused here with the same sentence. What a running coordinator was given on\n"
        "its command line is not known here.",
        "shadowset config show --changed",
    )
    show.add_argument("--changed", action="store_true", help="only those that are not the default")
    add_json(show)


def run_show(options: argparse.Namespace) -> int:
    """The coordinator reads its own files."""
    sys.stdout.flush()
    words = [word for word, given in (("--json", options.json), ("--changed", options.changed)) if given]
    os.execv(sys.executable, [sys.executable, "-m", "shadowset.daemon.settings", *words])


def run_setup(options: argparse.Namespace) -> int:
    """Make it, or take it away."""
    from shadowset.requester.cli import UsageError
    from shadowset.requester.cli.output import emit_json, say
    from shadowset.requester.setup.tree import Tree
    from shadowset.vss.paths import Paths

    tree = Tree(_root(options.root))
    if not tree.root and os.geteuid() != 0 and not options.dry_run:
        raise UsageError("making groups, directories and units needs root; run it as root, or look with --dry-run")
    if options.undo and options.writer:
        raise UsageError("--undo takes away everything; --writer makes no sense with it")
    outcomes: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if not options.json:
            say(_line(outcome, options.dry_run))

    paths = Paths() if tree.root else Paths.from_environment(os.environ)
    status = _undo(options, tree, paths, tell) if options.undo else _make(options, tree, paths, tell)
    if options.json:
        emit_json(outcomes)
    return status


def _root(given: str) -> str:
    from shadowset.requester.cli import UsageError

    if given and not os.path.isdir(given):
        raise UsageError(f"{given} is no directory; make it first")
    root = os.path.abspath(given) if given else ""
    return "" if root == "/" else root


def _make(options: argparse.Namespace, tree: Tree, paths: Paths, tell: Tell) -> int:
    from shadowset.requester.cli.output import note
    from shadowset.requester.setup import plan, run

    steps = plan.plan(tree, paths, options.programs or plan.programs_here(), options.writer)
    run.apply(tree, run.record_of(tree, paths), steps, options.dry_run, tell)
    if not options.dry_run and not options.no_start:
        run.start(tree, tell)
        if not tree.root and not tree.live:
            note("shadowset: systemd does not run here, so nothing was started; 'shadowset serve' is the coordinator")
    if options.writer and not options.dry_run:
        note("shadowset: the coordinator reads new rules when it starts: 'systemctl restart shadowsetd'")
    return 0


def _undo(options: argparse.Namespace, tree: Tree, paths: Paths, tell: Tell) -> int:
    from shadowset.requester.cli.output import note
    from shadowset.requester.jobs.timer import UNITS, scheduled_jobs
    from shadowset.requester.setup import leaving, run

    record = run.record_of(tree, paths)
    if not record.made:
        note(f"shadowset: {tree.at(record.path)} knows of nothing that setup has made here")
        return 0
    if not options.dry_run:
        run.refuse_undo_in_use(tree, paths)
        leaving.end_service(tree, paths)
    remains = run.undo(tree, record, options.dry_run, tell)
    for job in scheduled_jobs(tree.at(UNITS)):
        note(f"shadowset: the timer of job {job} stays; 'shadowset job unschedule {job}' takes it away")
    if remains:
        note(f"shadowset: {remains} of what setup made remains, for the reasons above; delete it by hand if you want")
    return 0


def _line(outcome: Outcome, dry_run: bool) -> str:
    from shadowset.requester.sentences import printable

    would = "would be " if dry_run and outcome.result in ("made", "updated", "removed") else ""
    why = f": {outcome.why}" if outcome.why else ""
    return printable(f"{would}{outcome.result}  {outcome.step}{why}")
