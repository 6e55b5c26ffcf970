"""``shadowset writers detect``, ``test`` and ``window``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json, add_wait, parse_duration

if TYPE_CHECKING:
    from shadowset.requester.writer_trial import Trial


def register(actions: Commands) -> None:
    """Add the actions of this module."""
    detect = add_command(
        actions,
        "detect",
        run_detect,
        "propose writers for what runs on this host",
        "Look at this host's processes, sockets and files, and print a configuration for the writer of each\n"
        "application that is found. Nothing is asked, and nothing is changed. With --write each configuration\n"
        "becomes a file in writers.d in the configuration directory; a file that is there stays as it is.",
        "shadowset writers detect\nshadowset writers detect --write",
    )
    detect.add_argument("--write", action="store_true", help="write the files that are not there yet")
    add_json(detect)
    test = add_command(
        actions,
        "test",
        run_test,
        "freeze and thaw one writer alone",
        "Make a shadow copy set with one writer alone, and delete it at once: shows how long each step took, how\n"
        "long the application was frozen, and what went wrong. It counts as no backup. The volumes with the\n"
        "writer's files are cut, as in a backup.",
        "shadowset writers test 'PostgreSQL Writer'",
    )
    test.add_argument("name", metavar="NAME", help="the writer's name, or its instance's name or id")
    test.add_argument(
        "--volume", action="append", default=[], metavar="VOLUME", help="cut this volume too; may be repeated"
    )
    add_wait(test)
    add_json(test)
    _register_window(actions)


def _register_window(actions: Commands) -> None:
    window = add_command(
        actions,
        "window",
        run_window,
        "set how long writers of a class may be frozen",
        "Set how long a writer, and all others of its class, may be frozen, whatever they themselves say. It holds at\n"
        "once, and until the coordinator ends; with --keep it is written into the coordinator's files too.",
        "shadowset writers window 'PostgreSQL Writer' 90s --keep\nshadowset writers window 'PostgreSQL Writer' 0s",
    )
    window.add_argument("name", metavar="NAME", help="the writer's name, or its instance's name or id")
    window.add_argument("time", metavar="TIME", type=parse_duration, help="as 30s or 2m; 0s: as it was configured")
    window.add_argument("--keep", action="store_true", help="keep it when the coordinator starts anew")
    add_json(window)


def run_window(options: argparse.Namespace) -> int:
    """Set the freeze window of a writer's class."""
    import os

    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.output import answer
    from shadowset.requester.cli.writers import writers_table
    from shadowset.requester.writer_trial import find_writers
    from shadowset.requester.writer_windows import keep_window
    from shadowset.vss.paths import Paths

    with Administration(client="shadowset writers window") as administration:
        found = find_writers(administration.list_writers(), options.name)
        if options.keep:
            directory = Paths.from_environment(os.environ).daemon_drop_ins
            keep_window(directory, found[0].writer_id, options.time * 1000)
        writers = administration.set_writer_window(found[0].writer_id, options.time * 1000)
    answer(options.json, writers, writers_table(writers))
    return 0


def run_detect(options: argparse.Namespace) -> int:
    """Print, and maybe write, the proposals."""
    import os

    from shadowset.requester.cli.output import emit_json, say
    from shadowset.requester.detect.applications import detect
    from shadowset.requester.detect.host import Host
    from shadowset.requester.detect.write import write
    from shadowset.requester.sentences import plain, printable
    from shadowset.vss.paths import Paths

    proposals = detect(Host())
    directory = f"{Paths.from_environment(os.environ).config}/writers.d"
    written = write(proposals, directory) if options.write else {}
    if options.json:
        emit_json([{**plain(each), "written": written.get(f"{directory}/{each.file}", False)} for each in proposals])
        return 0
    for proposal in proposals:
        path = f"{directory}/{proposal.file}"
        say(printable(f"# {proposal.writer}: {proposal.found}"))
        if proposal.text:
            say(printable(f"# {path}{_what_became(path, written)}"))
            say(f"# systemctl enable --now {proposal.unit}")
        if proposal.advice:
            say(printable(f"# By hand: {proposal.advice}"))
        say("\n".join(map(printable, proposal.text.splitlines())) + "\n")
    return 0


def _what_became(path: str, written: dict[str, bool]) -> str:
    if path not in written:
        return ""
    return ": written" if written[path] else ": is there already, and stays as it is"


def run_test(options: argparse.Namespace) -> int:
    """Freeze and thaw a writer; status 1 when it reports a failure."""
    from shadowset.requester.cli.output import emit_json, say
    from shadowset.requester.writer_trial import try_writer

    trial = try_writer(options.name, tuple(options.volume), options.wait)
    if options.json:
        emit_json(trial)
    else:
        say(trial_text(trial))
    return 1 if trial.failure.code else 0


def trial_text(trial: Trial) -> str:
    """The trial in words."""
    from shadowset.requester.sentences import fields, table
    from shadowset.vss.codes import code_name

    rows = []
    for entry in trial.phases:
        outcome = entry.message or (code_name(entry.code) if entry.code else "done")
        rows.append([entry.phase, f"{entry.end_ms - entry.start_ms:.1f}", outcome])
    failure = trial.failure
    result = f"{code_name(failure.code)}: {failure.message}" if failure.code else "it can be frozen and thawed"
    head = fields(
        [
            ("Writer", trial.writer),
            ("Components", ", ".join(trial.components)),
            ("Volumes", ", ".join(trial.volumes)),
            ("Frozen", f"{trial.frozen_ms:.1f} ms of at most {trial.limit_ms / 1000:g} s"),
            ("Result", result),
        ]
    )
    return f"{head}\n\n{table(['STEP', 'MS', 'RESULT'], rows, right=(1,))}"
