"""The command ``shadowset``.

One module per group of commands, each with ``register`` (its parsers) and functions that run. What a command needs
beyond argparse is imported when it runs, so that help and mistakes in typing are answered at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

DESCRIPTION = """\
Consistent shadow copies of live volumes, with the applications taking part.

Shadow copies are made of protected volumes ('shadowset volume add'). Applications that run a writer
bring their files into order for the instant of the cut. Copies are named by id (a unique beginning is
enough), by device name (HarddiskVolumeShadowCopy3) or by device number (3)."""

EPILOG = """\
exit status:
  0  done
  1  failed, or done in part; one sentence on standard error says why
  2  wrong usage, or no coordinator to talk to
  130  interrupted; the session was aborted

environment:
  SHADOWSET_RUNTIME_DIR  sockets and devices (default /run/shadowset)
  SHADOWSET_STATE_DIR    catalogue and shadow storage (default /var/lib/shadowset)
  SHADOWSET_CONFIG_DIR   the coordinator's files (default /etc/shadowset)

example:
  shadowset volume add data /dev/sdb1 --storage /var/lib/shadowset/storage/data
  shadowset volume attach data
  mount /dev/shadowset/data /srv/data
  shadowset create data
  shadowset list
"""


GROUPS = (
    "service",
    "setup",
    "volumes",
    "storage",
    "create",
    "run",
    "listing",
    "health",
    "mounts",
    "sharing",
    "device",
    "delete",
    "undelete",
    "delta",
    "retention",
    "writers",
    "providers",
    "backup",
    "backups",
    "extract",
    "jobs",
    "break_command",
    "transport",
    "restore",
    "afterwards",
    "revert",
    "samba",
    "metrics",
    "selftest",
    "top",
    "page",
    "documents",
)
"""The modules, in the order in which their commands are listed."""


class UsageError(Exception):
    """The command line asks for something that makes no sense; ends with status 2."""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from shadowset import __version__
    from shadowset.requester.cli.known_words import Parser

    whole: argparse.ArgumentParser = Parser(
        prog="shadowset",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    whole.add_argument("--version", action="version", version=f"shadowset {__version__}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in GROUPS:
        importlib.import_module(f"{__name__}.{name}").register(commands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    top = parser()
    options, unknown = top.parse_known_args(arguments)
    if unknown and not getattr(options, "hands_on", False):
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    options.handed_on = unknown
    return guarded("shadowset", lambda: int(options.run(options)))


def guarded(prefix: str, run: Callable[[], int]) -> int:
    """Run a command; returns its exit status. A refusal or failure becomes one sentence after ``prefix``."""
    # A name that the terminal's character set cannot show must not end a command half-way.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(prefix, run)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Let everything be cleaned up on the way out, as after Ctrl-C."""
    sys.exit(128 + number)


def _run(prefix: str, run: Callable[[], int]) -> int:
    try:
        status = run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _complain(prefix, "interrupted; the session was aborted", EXIT_INTERRUPTED)
    except UsageError as error:
        return _complain(prefix, str(error), EXIT_USAGE)
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except Exception as error:
        return _complain(prefix, *failure(error))
    return status


def failure(error: Exception) -> tuple[str, int]:
    """The sentence and exit status of a failure; what is none of ours to explain is raised again."""
    from shadowset.requester.connection import ServiceUnavailable
    from shadowset.vss.codes import VssError

    if isinstance(error, ServiceUnavailable):
        return error.message, EXIT_USAGE
    if isinstance(error, VssError):
        return str(error), EXIT_FAILURE
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}", EXIT_FAILURE
    raise error


def _complain(prefix: str, sentence: str, status: int) -> int:
    from shadowset.requester.cli.output import note

    note(f"{prefix}: {sentence}")
    return status
