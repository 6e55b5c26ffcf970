"""What a MariaDB server is on disk: its data directory, and the files outside that belong to it."""

from __future__ import annotations

import fcntl
import os
import struct

from shadowset.vss.codes import Code, VssError
from shadowset.writers.server_writer import FileSet

MARIADB_WRITER_ID = "c5286be3-381f-4e77-9a52-eeafcd0eea06"
MARIADB_WRITER_NAME = "MariaDB Writer"
SYSTEM_TABLESPACE = "ibdata1"
REDO_LOGS = ("ib_logfile0", "#innodb_redo")
LOCK = "hhqqi4x"
UNKNOWN_PROCESS = -1


def linked_files(data: str) -> list[FileSet]:
    """What lies elsewhere: whole databases behind a link, InnoDB's tables (``.isl``) and links of other tables.

    Errors: OSError.
    """
    directories, files = set(), set()
    for database in os.scandir(data):
        if database.is_symlink():
            directories.add(os.path.realpath(database.path))
        elif database.is_dir():
            files |= {target for entry in os.scandir(database.path) if (target := _target(entry))}
    return [
        *((path, "*", True) for path in sorted(directories)),
        *((os.path.dirname(path), os.path.basename(path), False) for path in sorted(files)),
    ]


def _target(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return os.path.realpath(entry.path)
    if entry.name.endswith(".isl"):
        with open(entry.path, encoding="utf-8") as file:
            return os.path.realpath(file.read().strip())
    return ""


def require_whole(data: str) -> None:
    """Sees that a data directory whose server cannot be asked holds the server's log too.

    Errors: VSS_E_OBJECT_NOT_FOUND.
    """
    if not os.path.exists(f"{data}/{SYSTEM_TABLESPACE}"):
        message = f"{data} is no data directory of MariaDB ({SYSTEM_TABLESPACE} is not there); check its configuration"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
    if not any(os.path.exists(f"{data}/{name}") for name in REDO_LOGS):
        message = f"the log of {data} lies elsewhere, and its server does not run to say where; start the server"
        raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)


def server_process(data: str) -> int:
    """The process that has the data directory locked; 0 when none has, -1 when it cannot be seen from here."""
    try:
        fd = os.open(f"{data}/{SYSTEM_TABLESPACE}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        asked = struct.pack(LOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _whence, _start, _length, pid = struct.unpack(LOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    if kind == fcntl.F_UNLCK:
        return 0
    return int(pid) or UNKNOWN_PROCESS
