"""How the file of a database and the name of its component correspond.

``/srv/shop/orders.db`` is the component ``srv\\shop\\orders.db``: logical path ``srv\\shop``, name ``orders.db``. So
the name is unique on the machine whichever instance of the writer protects the file, and another writer that knows the
file can declare a dependency on its component.
"""

from __future__ import annotations

import os

from shadowset.vss.codes import Code, VssError

SQLITE_WRITER_ID = "66a1ada7-319a-42d1-8f24-6ffa1700c734"
SQLITE_WRITER_NAME = "SQLite Writer"
UNUSABLE = frozenset("\\*?[")
SIDE_FILES = ("-wal", "-shm", "-journal")


def component_identity(database: str) -> tuple[str, str]:
    """Logical path and name of the component of a database file. SQLite follows links, so they are followed here too.

    Errors: E_INVALIDARG for a path that file specifications cannot express.
    """
    path = os.path.realpath(database)
    if UNUSABLE & set(path):
        raise VssError(Code.E_INVALIDARG, f"{path} cannot be a component: rename it without any of \\ * ? [")
    directory, name = os.path.split(path)
    return directory.strip("/").replace("/", "\\"), name


def database_path(logical_path: str, name: str) -> str:
    """The database file of a component."""
    return os.path.join("/", logical_path.replace("\\", "/"), name)
