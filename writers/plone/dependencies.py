"""Which component of which writer stands for what the farm's register names."""

from __future__ import annotations

from shadowset.vss.codes import Code, VssError
from shadowset.writers.groonga.files import GROONGA_WRITER_ID
from shadowset.writers.index.writer import INDEX_WRITER_ID
from shadowset.writers.mariadb.files import MARIADB_WRITER_ID
from shadowset.writers.metadata_builder import ComponentBuilder
from shadowset.writers.naming import component_identity
from shadowset.writers.plone.register import Database, Index
from shadowset.writers.postgresql.files import POSTGRESQL_WRITER_ID
from shadowset.writers.sqlite.naming import SQLITE_WRITER_ID

WRITERS = {
    "groonga": GROONGA_WRITER_ID,
    "mariadb": MARIADB_WRITER_ID,
    "postgresql": POSTGRESQL_WRITER_ID,
    "sqlite": SQLITE_WRITER_ID,
    "tantivy": INDEX_WRITER_ID,
    "xapian": INDEX_WRITER_ID,
}
REMOTE = "\\\\"


def depend(component: ComponentBuilder, on: Database | Index) -> None:
    """Adds the dependency; one on another host in the remote form.

    Errors: VSS_E_NOT_SUPPORTED for an engine that no writer is known for.
    """
    if on.engine not in WRITERS:
        known = ", ".join(WRITERS)
        message = f"the farm's register says engine {on.engine} for {on.name}, and no writer is known for it ({known})"
        raise VssError(Code.VSS_E_NOT_SUPPORTED, message)
    if on.host:  # its paths mean nothing here
        directory, _, name = on.location.strip("/").replace("/", "\\").rpartition("\\")
    else:
        directory, name = component_identity(on.location)
    if isinstance(on, Database) and on.database:
        directory, name = f"{directory}\\{name}".strip("\\"), on.database
    host = f"{REMOTE}{on.host}\\" if on.host else ""
    component.add_dependency(WRITERS[on.engine], f"{host}{directory}", name)
