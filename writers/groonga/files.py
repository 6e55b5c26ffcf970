"""What a Groonga database is on disk, and who has it open."""

from __future__ import annotations

import os
import shutil

from shadowset.vss.codes import Code, VssError
from shadowset.writers.server_writer import FileSet

GROONGA_WRITER_ID = "5d0f4c8e-2f37-49fb-9c6b-6a1e6f0a7c52"
GROONGA_WRITER_NAME = "Groonga Writer"
PROGRAMS = ("groonga", "grndb")


def require_programs() -> None:
    """Errors: VSS_E_NOT_SUPPORTED when Groonga's own programs are not installed."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        message = f"{missing[0]} is not there; install Groonga's programs (Debian: groonga-bin)"
        raise VssError(Code.VSS_E_NOT_SUPPORTED, message)


def database_files(database: str) -> list[FileSet]:
    """Its first file, and those whose names go on after a dot. Errors: VSS_E_OBJECT_NOT_FOUND."""
    directory, name = os.path.split(database)
    if not os.path.isfile(database):
        message = f"the Groonga database {database} cannot be seen; check its configuration"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
    return [(directory, name, False), (directory, f"{name}.*", False)]


def user_of(database: str) -> int:
    """A process that has the database open; 0 when none can be seen."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return next((pid for pid in pids if pid != os.getpid() and uses(pid, database)), 0)


def uses(pid: int, database: str) -> bool:
    """Whether a process has the database open, as far as can be seen."""
    try:
        mark = f" {os.stat(database).st_ino} "  # the device's number is another one there on btrfs
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
            return any(mark in line and line.rstrip().endswith(database) for line in file)
    except OSError:
        return False
