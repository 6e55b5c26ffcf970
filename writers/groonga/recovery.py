"""A database of which a copy was made: its locks are cleared, and it is checked with Groonga's own program."""

from __future__ import annotations

import subprocess

from shadowset.vss.codes import Code, VssError
from shadowset.writers.groonga.server import counts, stamp_of
from shadowset.writers.groonga.shell import Shell

CHECKER = "grndb"
NOT_CLOSED = "Database wasn't closed successfully"
FAILED = Code.VSS_E_WRITERERROR_RECOVERY_FAILED


def recover(database: str, seconds: float) -> tuple[str, str]:
    """Clears the locks that were held at the cut, and checks; nobody else may have this database open.

    Returns what had to be done and the number of records of each table. A database whose process could not be asked to
    flush carries the mark of one that was not closed; Groonga takes that away after it has looked at every part.
    Errors: VSS_E_WRITERERROR_RECOVERY_FAILED with the checker's words.
    """
    try:
        with Shell(database) as shell:
            shell.ask("lock_clear", seconds)
            records = stamp_of(counts(shell, database))
        problem, done = _run("check", database, seconds), "locks cleared"
        if problem.startswith(NOT_CLOSED) and len(problem.splitlines()) == 1:
            problem, done = _run("recover", database, seconds), "locks cleared, recovered"
            problem = problem or _run("check", database, seconds)
    except VssError as error:
        raise VssError(FAILED, error.message) from error
    if problem:
        first = problem.splitlines()[0]
        raise VssError(FAILED, f"grndb check says of {database}: {first}; use another backup, or grndb recover")
    return done, records


def _run(action: str, database: str, seconds: float) -> str:
    try:
        done = subprocess.run(
            [CHECKER, action, database], capture_output=True, text=True, errors="replace", timeout=seconds,
            stdin=subprocess.DEVNULL, check=False, cwd="/",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VssError(FAILED, f"grndb {action} of {database} did not end ({error}); run it by hand") from error
    words = (done.stdout + done.stderr).strip()
    return words or f"status {done.returncode}" if done.returncode else ""
