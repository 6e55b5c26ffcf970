"""``shadowset doctor`` and ``shadowset explain``: what will hurt, and what happened, in plain words."""

from __future__ import annotations

import argparse
import os

from shadowset.requester.cli.options import Commands, add_command, add_json


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    doctor = add_command(
        commands,
        "doctor",
        run_doctor,
        "find what will hurt, and say how to mend it",
        "Look over this host for what fails now or will one day: kernel, clock, memory, the coordinator, its units\n"
        "and sockets, writers, volumes, shadow storage, and what earlier runs left behind. Each finding says what it\n"
        "is about, its cause and the next step. Nothing is changed. Ends with status 1 when there is a problem;\n"
        "warnings alone end with 0. It needs no coordinator, and sees most as root.",
        "shadowset doctor\nshadowset doctor --json",
    )
    add_json(doctor)
    explain = add_command(
        commands,
        "explain",
        run_explain,
        "tell the story of a set in plain words",
        "Tell how a shadow copy set was made: who took part, how long applications stood still, what was slow, what\n"
        "failed and why, and what became of its copies since. A failed set is named by its whole id, as 'shadowset\n"
        "events' shows it; 'last' is the newest set.",
        "shadowset explain last\nshadowset explain 3f2a",
    )
    explain.add_argument("set", metavar="SET", help="a set's id or a copy of it, or 'last'")
    add_json(explain)


def run_doctor(options: argparse.Namespace) -> int:
    """Examine this host."""
    from shadowset.requester.cli.output import emit_json, say
    from shadowset.requester.doctor.examine import CHECKS, ask, examine
    from shadowset.requester.doctor.finding import PROBLEM, Patient
    from shadowset.requester.doctor.host import Host
    from shadowset.requester.sentences import printable
    from shadowset.vss.paths import Paths

    paths = Paths.from_environment(os.environ)
    found = examine(Patient(host=Host(), paths=paths, told=ask(paths)))
    problems = sum(finding.level == PROBLEM for finding in found)
    if options.json:
        emit_json(found)
        return int(problems > 0)
    for finding in found:
        say(printable(f"{finding.level:<8} {finding.object}: {finding.cause}."))
        say(printable(f"         {finding.next[:1].upper()}{finding.next[1:]}."))
    counted = f"{_number(problems, 'problem')} and {_number(len(found) - problems, 'warning')}"
    say(f"{len(CHECKS)} checks found {counted if found else 'nothing that will hurt'}.")
    return int(problems > 0)


def _number(count: int, what: str) -> str:
    return f"{count or 'no'} {what}" + ("" if count == 1 else "s")


def run_explain(options: argparse.Namespace) -> int:
    """Tell the story of a set."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.listing import find_record
    from shadowset.requester.cli.output import emit_json, say
    from shadowset.requester.explain import story
    from shadowset.requester.sentences import printable

    with Administration(client="shadowset explain") as administration:
        record = find_record(administration, options.set)
        told = story(record, administration.list_events())
    if options.json:
        emit_json(told)
    else:
        say("\n".join(printable(line.sentence) for line in told))
    return 0
