"""``shadowset job``: backups that are made again and again."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json

if TYPE_CHECKING:
    from shadowset.requester.jobs.definition import Job
    from shadowset.requester.jobs.history import JobRun
    from shadowset.vss.paths import Paths

DESCRIPTION = """\
Backups that are made again and again. A job is a file NAME.toml in jobs.d of the configuration directory:

  target = "/backup/nightly"  # a directory; images:/backup/images; restic:/backup/repository
  schedule = "daily"          # a calendar expression of systemd; without: by hand
  writers = ["SQLite Writer"] # without: all; so components, exclude_writers, volumes
  full_every = 7              # between these: incremental (between = "differential", "log")

  [keep]                      # without: everything
  last = 3
  daily = 7
  weekly = 4

A run makes a backup, reads it again, then removes what need not stay. After a backup of which a part failed nothing
is removed. The newest complete backup, and what it builds on, always stays. A run that was interrupted, by a power loss
too, is gone on with by the next one."""


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    job = add_command(
        commands,
        "job",
        None,
        "back up regularly: run, schedule, list and clear backup jobs",
        DESCRIPTION,
        "shadowset job run nightly\nshadowset job versions nightly\nshadowset job schedule nightly",
    )
    below = job.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = add_command(
        below, "list", run_list, "list the jobs", "List the jobs, and how each ended last.", "shadowset job list"
    )
    add_json(listing)
    for name, run, summary, description in (
        ("run", run_run, "make one backup", "Run a job now. The exit status is 0 only when all of it succeeded."),
        ("status", run_status, "tell how the runs of a job went", "Tell how the last ten runs of a job went."),
        ("versions", run_versions, "list the backups of a job", "List the backups of a job, and why each stays."),
        (
            "clear",
            run_clear,
            "remove backups that need not stay",
            "Remove what [keep] lets go, and what an interrupted run left, without a backup.",
        ),
        ("schedule", run_schedule, "let a job run by itself", "Make and start a timer of systemd for a job."),
        ("unschedule", run_unschedule, "let a job run no more", "Stop and remove the timer of a job."),
    ):
        command = add_command(below, name, run, summary, description, f"shadowset job {name} nightly")
        command.add_argument("name", metavar="NAME", help="the job")
        add_json(command)
        if name == "clear":
            command.add_argument("--dry-run", action="store_true", help="only tell what would go")


def _job(options: argparse.Namespace) -> tuple[Paths, Job]:
    from shadowset.requester.jobs.definition import load_job
    from shadowset.vss.paths import Paths

    paths = Paths.from_environment(os.environ)
    return paths, load_job(paths, options.name)


def run_list(options: argparse.Namespace) -> int:
    """List the jobs."""
    from shadowset.requester.cli.output import answer, note
    from shadowset.requester.jobs.definition import job_names, load_job
    from shadowset.requester.jobs.runner import last_run
    from shadowset.requester.jobs.timer import is_scheduled
    from shadowset.requester.sentences import moment_text, table
    from shadowset.vss.codes import VssError
    from shadowset.vss.paths import Paths

    paths = Paths.from_environment(os.environ)
    told: list[dict[str, object]] = []
    rows: list[list[str]] = []
    status = 0
    for name in job_names(paths):
        try:
            job = load_job(paths, name)
        except VssError as error:
            note(f"shadowset: {error}")
            status = 1
            continue
        last = last_run(paths, job)
        scheduled = is_scheduled(name)
        told.append({"job": job, "scheduled": scheduled, "last": last})
        when = job.schedule if scheduled else "by hand"
        rows.append(
            [name, job.target, when, moment_text(last.started) if last else "", last.status if last else "never ran"]
        )
    answer(options.json, told, table(["JOB", "TARGET", "SCHEDULE", "LAST RUN", "RESULT"], rows))
    return status


def run_run(options: argparse.Namespace) -> int:
    """Run a job."""
    from shadowset.requester.cli.output import answer, note
    from shadowset.requester.cli.watch import TerminalObserver
    from shadowset.requester.jobs.history import SUCCEEDED
    from shadowset.requester.jobs.runner import JobRunner

    paths, job = _job(options)
    run = JobRunner(job, paths, TerminalObserver(), lambda sentence: note(f"shadowset: {sentence}")).run()
    answer(options.json, run, _run_text(run))
    for sentence in run.sentences:
        note(f"shadowset: {sentence}")
    return 0 if run.status == SUCCEEDED else 1


def _run_text(run: JobRun) -> str:
    from shadowset.requester.progress import size_text
    from shadowset.requester.sentences import printable

    removed = f"; removed {', '.join(run.removed)}" if run.removed else ""
    resumed = f"; it went on with {run.resumed}, which was interrupted" if run.resumed else ""
    return printable(
        f"Job {run.job} {run.status}: {run.kind} backup {run.version}, {run.files} files, {size_text(run.bytes)}, "
        f"{size_text(run.stored_bytes)} of it new{resumed}{removed}."
    )


def run_status(options: argparse.Namespace) -> int:
    """Tell how the runs went; the exit status is that of the last one."""
    from shadowset.requester.cli.output import answer
    from shadowset.requester.jobs.history import SUCCEEDED, runs
    from shadowset.requester.jobs.runner import last_run
    from shadowset.requester.progress import size_text
    from shadowset.requester.sentences import moment_text, table

    paths, job = _job(options)
    found, last = runs(paths, job.name), last_run(paths, job)
    found = [*found, *([last] if last is not None and last not in found else [])][-10:]
    rows = [
        [
            moment_text(run.started),
            moment_text(run.ended),
            _status(run),
            run.kind,
            run.version,
            size_text(run.bytes),
            "; ".join(run.sentences),
        ]
        for run in found
    ]
    headings = ["STARTED", "ENDED", "RESULT", "TYPE", "VERSION", "SIZE", "REASONS"]
    answer(options.json, found, table(headings, rows, right=(5,)))
    return 0 if found and found[-1].status == SUCCEEDED else 1


def _status(run: JobRun) -> str:
    return f"{run.status}, resumed" if run.resumed else run.status


def run_versions(options: argparse.Namespace) -> int:
    """List the backups of a job."""
    from shadowset.requester.cli.output import answer
    from shadowset.requester.jobs.keep import kept
    from shadowset.requester.jobs.store import open_store
    from shadowset.requester.observer import Silent
    from shadowset.requester.progress import size_text
    from shadowset.requester.sentences import moment_text, table

    paths, job = _job(options)
    versions = open_store(job, paths, Silent()).versions()
    stay = kept(versions, job.keep)
    rows = [
        [
            version.id,
            moment_text(version.created),
            version.kind,
            "yes" if version.complete else "no",
            size_text(version.bytes),
            version.needs,
            version.trouble or ", ".join(stay.get(version.id, ["goes with the next run"])),
        ]
        for version in versions
    ]
    headings = ["VERSION", "CREATED", "TYPE", "COMPLETE", "SIZE", "BUILDS ON", "STAYS BECAUSE OF"]
    told = [{"version": version, "stays": stay.get(version.id, [])} for version in versions]
    answer(options.json, told, table(headings, rows, right=(4,)))
    return 1 if any(version.trouble for version in versions) else 0


def run_clear(options: argparse.Namespace) -> int:
    """Remove what need not stay."""
    from shadowset.requester.cli.output import answer
    from shadowset.requester.jobs.runner import clear, clear_unfinished, locked, superfluous
    from shadowset.requester.jobs.store import open_store
    from shadowset.requester.observer import Silent
    from shadowset.requester.progress import size_text

    paths, job = _job(options)
    with locked(paths, job):
        store = open_store(job, paths, Silent())
        if options.dry_run:
            gone, freed = [*store.unfinished(), *superfluous(store, job)], 0
        else:
            unfinished = clear_unfinished(store)
            gone, freed = clear(store, job)
            gone = [*unfinished, *gone]
    words = "would be removed" if options.dry_run else f"removed; {size_text(freed)} are free by it"
    answer(options.json, {"removed": gone, "freed": freed}, f"{', '.join(gone) or 'nothing'} {words}")
    return 0


def run_schedule(options: argparse.Namespace) -> int:
    """Make a timer."""
    from shadowset.requester.cli import UsageError
    from shadowset.requester.cli.output import answer
    from shadowset.requester.jobs.timer import schedule

    paths, job = _job(options)
    if paths.config != type(paths).config:
        raise UsageError(f"the units know jobs in {type(paths).config} only, and this one is in {paths.config}")
    path = schedule(job)
    answer(options.json, {"unit": path}, f"Job {job.name} runs {job.schedule}: {path}")
    return 0


def run_unschedule(options: argparse.Namespace) -> int:
    """Remove a timer, also of a job whose file is gone."""
    from shadowset.requester.cli.output import answer
    from shadowset.requester.jobs.timer import unschedule

    path = unschedule(options.name)
    answer(options.json, {"unit": path}, f"Job {options.name} runs by hand only: {path} is gone")
    return 0
