"""Which files are databases: paths, and patterns that are looked at anew whenever somebody asks.

A pattern (``*``, ``?``, ``[…]``, and ``**`` for directories at any depth) may match anything, so of what it finds only
files that begin as databases do are taken. A path without any of these is taken as it is.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Collection, Sequence

from shadowset.vss.codes import VssError
from shadowset.writers.naming import component_identity
from shadowset.writers.sqlite.naming import SIDE_FILES

LOG = logging.getLogger("shadowset.writer.sqlite")
HEADER = b"SQLite format 3\x00"


def find_databases(patterns: Sequence[str], in_use: Collection[str]) -> list[str]:
    """The files that exist now; what is missing or cannot be a component is left out with a line in the log.

    The files ``in_use`` (real paths) are those that this process has open: they are not looked into, because closing
    them would drop its locks.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        paths = _matches(os.path.abspath(pattern), in_use)
        if not paths:
            LOG.warning("no database matches %s: it is left out", pattern)
        for path in paths:
            try:
                component_identity(path)
            except VssError as error:
                LOG.warning("%s", error.message)
            else:
                found[path] = None
    return list(found)


def _matches(pattern: str, in_use: Collection[str]) -> list[str]:
    if not glob.has_magic(pattern):
        return [os.path.realpath(pattern)] if os.path.isfile(pattern) else []
    paths = dict.fromkeys(os.path.realpath(path) for path in sorted(glob.glob(pattern, recursive=True)))
    return [path for path in paths if path in in_use or _is_database(path)]


def _is_database(path: str) -> bool:
    if path.endswith(SIDE_FILES) or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(HEADER)) == HEADER
    except PermissionError:
        return True  # it may be one, and is refused by name when it is opened
    except OSError:
        return False
