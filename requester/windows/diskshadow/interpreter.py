"""diskshadow's interpreter: which words call which function, for a script or a person."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from shadowset.requester.cli import EXIT_FAILURE, EXIT_OK, UsageError
from shadowset.requester.connection import ServiceUnavailable
from shadowset.requester.sentences import printable
from shadowset.requester.windows.diskshadow import backup, restore, shadows
from shadowset.requester.windows.diskshadow.lines import is_comment, substitute, words
from shadowset.requester.windows.diskshadow.session import Session
from shadowset.requester.windows.scripts import ScriptFailed
from shadowset.vss.codes import VssError

Handler = Callable[[Session, list[str]], None]


class Exit(Exception):
    """EXIT was commanded."""


def _exit(session: Session, given: list[str]) -> None:
    raise Exit


def _reset(session: Session, given: list[str]) -> None:
    session.reset()


def _help(session: Session, given: list[str]) -> None:
    session.tell(commands_text())


COMMANDS: dict[tuple[str, ...], tuple[Handler, str]] = {
    ("set", "context"): (backup.set_context, "CLIENTACCESSIBLE | PERSISTENT [NOWRITERS] | VOLATILE [NOWRITERS]"),
    ("set", "option"): (backup.set_option, "attributes of the copies to come"),
    ("set", "metadata"): (backup.set_metadata, "FILE to which the documents are saved"),
    ("set", "verbose"): (backup.set_verbose, "ON | OFF"),
    ("set",): (backup.show_settings, "show the settings"),
    ("load", "metadata"): (restore.load_metadata, "FILE with the documents of a backup"),
    ("writer", "verify"): (backup.verify_writer, "a writer or component that must be in the set or restore"),
    ("writer", "exclude"): (backup.exclude_writer, "a writer or component that must not"),
    ("add", "volume"): (backup.add_volume, "VOLUME [PROVIDER ID] [ALIAS NAME]"),
    ("add", "alias"): (backup.add_alias, "NAME VALUE"),
    ("add",): (backup.show_added, "show volumes and aliases"),
    ("create",): (backup.create, "make the shadow copy set"),
    ("exec",): (backup.execute, "FILE to run, with the aliases in its environment"),
    ("begin", "backup"): (backup.begin_backup, "make the set part of a full backup"),
    ("end", "backup"): (backup.end_backup, "tell the writers that the backup is complete"),
    ("begin", "restore"): (restore.begin_restore, "let the writers make way"),
    ("end", "restore"): (restore.end_restore, "let the writers take over"),
    ("simulate", "restore"): (restore.simulate_restore, "show what would be restored"),
    ("list", "writers"): (shadows.list_writers, "[METADATA | DETAILED | STATUS]"),
    ("list", "shadows"): (shadows.list_shadows, "ALL | SET ID | ID ID"),
    ("list", "providers"): (shadows.list_providers, "list the providers"),
    ("delete", "shadows"): (shadows.delete_shadows, "ALL | VOLUME V | OLDEST V | SET ID | ID ID | EXPOSED DIRECTORY"),
    ("import",): (shadows.import_set, "take in a shadow copy of another host from a file"),
    ("mask",): (shadows.mask, "hide the disks of a set"),
    ("expose",): (shadows.expose, "ID DIRECTORY"),
    ("unexpose",): (shadows.unexpose, "ID | DIRECTORY"),
    ("break",): (shadows.break_set, "[WRITABLE] SET DIRECTORY for the volumes"),
    ("revert",): (shadows.revert, "ID to which its volume goes back"),
    ("reset",): (_reset, "forget everything; volatile copies go"),
    ("help",): (_help, "show this"),
    ("exit",): (_exit, "end; volatile copies go"),
}


def commands_text() -> str:
    """All commands, one a line."""
    return "\n".join(f"{' '.join(command).upper():<18} {text}" for command, (_, text) in COMMANDS.items())


def perform(session: Session, line: str) -> None:
    """Do what one line says. Errors: UsageError, VssError, OSError, Exit."""
    if is_comment(line):
        return
    text, used = substitute(line, session.aliases, os.environ)
    for name, value in used.items():
        session.tell(printable(f"-> %{name}% = {value}"))
    given = words(text)
    for length in (2, 1):
        found = COMMANDS.get(tuple(word.lower() for word in given[:length]))
        if found and len(given) >= length:
            handler = found[0]
            if handler in (backup.show_settings, backup.show_added) and len(given) > 1:
                break
            handler(session, given[length:])
            return
    raise UsageError(f"there is no command {' '.join(given[:2])!r}; HELP lists them")


def run_script(session: Session, lines: Iterable[str]) -> int:
    """Do all lines, up to the first that fails; returns the exit status."""
    for line in lines:
        session.tell(printable(f"-> {line.strip()}"))
        try:
            perform(session, line)
        except Exit:
            break
        except (UsageError, VssError, OSError) as error:
            if isinstance(error, ServiceUnavailable):
                raise
            session.complain(f"Error: {sentence(error)}")
            return EXIT_FAILURE
    return EXIT_OK


def run_prompt(session: Session, read: Callable[[str], str]) -> int:
    """Do what a person types; mistakes and failures are told, and the next line is asked for."""
    while True:
        try:
            perform(session, read("DISKSHADOW> "))
        except (Exit, EOFError):
            return EXIT_OK
        except ScriptFailed as error:
            session.complain(f"Error: {error}")
            return EXIT_FAILURE
        except (UsageError, VssError, OSError) as error:
            session.complain(f"Error: {sentence(error)}")


def sentence(error: Exception) -> str:
    """What to say of a failure."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
