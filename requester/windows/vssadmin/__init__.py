"""The command ``vssadmin``: shadow copies and their storage, with Windows's verbs, switches and output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from shadowset.requester.cli import EXIT_OK, UsageError, guarded


class Command(NamedTuple):
    """One verb and object: where its function is, the switches it takes, and a line of help."""

    function: str
    switches: tuple[str, ...]
    help: str


COMMANDS = {
    ("add", "shadowstorage"): Command(
        "storage.add_storage", ("for", "on", "maxsize"), "protect a device, with its shadow storage"
    ),
    ("create", "shadow"): Command("commands.create_shadow", ("for", "autoretry"), "make a shadow copy of a volume"),
    ("delete", "shadows"): Command(
        "commands.delete_shadows", ("for", "oldest", "all", "shadow", "quiet", "any"), "delete shadow copies"
    ),
    ("delete", "shadowstorage"): Command(
        "storage.delete_storage", ("for", "on", "quiet"), "stop protecting a volume that has no shadow copies"
    ),
    ("list", "providers"): Command("commands.list_providers", (), "list the providers"),
    ("list", "shadows"): Command("commands.list_shadows", ("for", "shadow", "set"), "list shadow copies"),
    ("list", "shadowstorage"): Command("storage.list_storage", ("for", "on"), "list the shadow storage of volumes"),
    ("list", "volumes"): Command("commands.list_volumes", (), "list the volumes that can be copied"),
    ("list", "writers"): Command("commands.list_writers", (), "list the writers and their state"),
    ("query", "reverts"): Command("commands.query_reverts", ("for", "all"), "show how far reverts are"),
    ("resize", "shadowstorage"): Command(
        "storage.resize_storage", ("for", "on", "maxsize"), "limit the shadow storage of a volume"
    ),
    ("revert", "shadow"): Command(
        "commands.revert_shadow", ("shadow", "forcedismount", "quiet"), "take a volume back to a shadow copy"
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed or nothing found to delete, 2 wrong usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return guarded("Error", lambda: _run(given))


def _run(given: list[str]) -> int:
    from shadowset import __version__
    from shadowset.requester.cli.output import say
    from shadowset.requester.windows.vssadmin.arguments import parse_switches
    from shadowset.requester.windows.vssadmin.layout import banner

    if not given or any(one in ("/?", "-?", "--help", "-h") for one in given):
        say(banner(__version__))
        say(usage())
        return EXIT_OK
    command = COMMANDS.get((given[0].lower(), given[1].lower() if len(given) > 1 else ""))
    if command is None:
        raise UsageError(f"there is no command {' '.join(given[:2])!r}; 'vssadmin /?' lists them")
    switches = parse_switches(given[2:], command.switches)
    if "quiet" not in switches.flags:
        say(banner(__version__))
    module, _, name = command.function.partition(".")
    function: Callable[..., int] = getattr(import_module(f"{__name__}.{module}"), name)
    return function(switches)


def usage() -> str:
    """All commands with their switches."""
    from shadowset.requester.windows.vssadmin.arguments import VALUES

    lines = ["---- Commands Supported ----", ""]
    for (verb, target), command in COMMANDS.items():
        lines.append(f"{f'{verb.capitalize()} {target.capitalize()}':<22} - {command.help}")
        shown = [f"/{name}=…" if name in VALUES else f"/{name}" for name in command.switches]
        lines += [f"{'':<25}{' '.join(shown)}"] if shown else []
    return "\n".join(lines)
