"""The coordinator's own state in SQLite: volumes, shadow copy sets, shadow copies, counters and events.

A set that stands here as CREATED exists: this is the commit record for the pending copies of all providers. A shadow
copy is first marked ``deleting`` and forgotten when its provider has deleted it, so that a deletion survives a restart
of either side. Calls are short and synchronous; callers see to it that none happens while file systems are frozen.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Attribute, SnapshotState
from shadowset.vss.requester_protocol import DeletedCopy, EventRecord, SetRecord, SnapshotProperties

SCHEMA_VERSION = 2
KEPT_EVENTS = 10_000
KEPT_FAILED_SETS = 100

_SCHEMA = """
CREATE TABLE volumes (name TEXT PRIMARY KEY, origin TEXT NOT NULL, storage TEXT NOT NULL, chunk_size INTEGER NOT NULL,
    attached INTEGER NOT NULL, via TEXT NOT NULL, device TEXT NOT NULL);
CREATE TABLE sets (set_id TEXT PRIMARY KEY, created_ns INTEGER NOT NULL, status INTEGER NOT NULL, record BLOB NOT NULL);
CREATE TABLE snapshots (snapshot_id TEXT PRIMARY KEY, set_id TEXT NOT NULL REFERENCES sets(set_id),
    volume TEXT NOT NULL, deleting INTEGER NOT NULL, properties BLOB NOT NULL);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, time_ns INTEGER NOT NULL, name TEXT NOT NULL,
    message TEXT NOT NULL, volume TEXT NOT NULL, set_id TEXT NOT NULL);
"""

_UPGRADES = {
    1: """
ALTER TABLE events ADD COLUMN actor TEXT NOT NULL DEFAULT '';
CREATE TABLE deleted (snapshot_id TEXT PRIMARY KEY REFERENCES snapshots(snapshot_id) ON DELETE CASCADE,
    left_ms INTEGER NOT NULL, actor TEXT NOT NULL, deleted_ns INTEGER NOT NULL);
""",
}
"""What makes the next version out of each earlier one; a new catalogue goes through all of them."""

GONE, ASIDE = 1, 2
"""Values of ``deleting``: to be deleted by the provider as soon as it can; deleted, but to be taken back if wanted."""


@dataclass(frozen=True)
class VolumeRow:
    """A protected volume; ``via`` and ``device`` are how it is attached."""

    name: str
    origin: str
    storage: str
    chunk_size: int
    attached: bool = False
    via: str = ""
    device: str = ""


class Catalogue:
    """One data base file."""

    def __init__(self, path: str) -> None:
        """Open or create it. Errors: VssError for a file of a newer version, or one that cannot be used."""
        self.path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._check_whole()
            self._prepare()
            os.chmod(path, 0o600)
        except sqlite3.Error as error:
            raise VssError(
                Code.E_UNEXPECTED,
                f"the catalogue {path} cannot be used: {error}; put a backup of it in its place, or, if it is damaged, "
                f"move it away with what stands beside it as {os.path.basename(path)}-*, and add the volumes again: "
                f"their storages bring their copies along",
            ) from None

    def _check_whole(self) -> None:
        """Errors: sqlite3.DatabaseError; better now than in the middle of a set."""
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(f"it is damaged: {' '.join(str(found).split())}")

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise VssError(
                Code.VSS_E_NOT_SUPPORTED,
                f"the catalogue {self.path} has schema version {version}, this shadowsetd knows {SCHEMA_VERSION}; "
                f"start the newer shadowsetd that wrote it",
            )
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version=1; COMMIT;")
            version = 1
        for before in range(version, SCHEMA_VERSION):
            self._db.executescript(f"BEGIN; {_UPGRADES[before]} PRAGMA user_version={before + 1}; COMMIT;")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # ---- volumes ----

    def volumes(self) -> list[VolumeRow]:
        """All protected volumes."""
        rows = self._db.execute(
            "SELECT name, origin, storage, chunk_size, attached, via, device FROM volumes ORDER BY name"
        )
        return [
            VolumeRow(name, origin, storage, size, bool(attached), via, device)
            for name, origin, storage, size, attached, via, device in rows
        ]

    def put_volume(self, row: VolumeRow) -> None:
        """Add or replace."""
        self._db.execute(
            "INSERT OR REPLACE INTO volumes VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.name, row.origin, row.storage, row.chunk_size, int(row.attached), row.via, row.device),
        )

    def remove_volume(self, name: str) -> None:
        """Forget a volume; what its provider had no time to delete is ``buried``."""
        with self._transaction():
            self._db.execute(
                "DELETE FROM deleted WHERE snapshot_id IN (SELECT snapshot_id FROM snapshots WHERE volume = ?)", (name,)
            )
            self._db.execute("UPDATE snapshots SET deleting = ?, volume = '' WHERE volume = ?", (GONE, name))
            self._db.execute("DELETE FROM volumes WHERE name = ?", (name,))

    # ---- counters and settings ----

    def next_device_numbers(self, count: int) -> list[int]:
        """Device numbers, which are never given twice."""
        with self._transaction():
            row = self._db.execute("SELECT value FROM counters WHERE name = 'device'").fetchone()
            first = (row[0] if row else 0) + 1
            self._db.execute("INSERT OR REPLACE INTO counters VALUES ('device', ?)", (first + count - 1,))
        return list(range(first, first + count))

    def skip_device_numbers(self, last: int) -> None:
        """None up to ``last`` is given any more: an earlier catalogue gave them, and somebody may still read there."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO counters VALUES ('device', 0)")
            self._db.execute("UPDATE counters SET value = MAX(value, ?) WHERE name = 'device'", (last,))

    def setting(self, name: str) -> str:
        """A stored text, "" when there is none."""
        row = self._db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def set_setting(self, name: str, value: str) -> None:
        """Store a text."""
        self._db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    def frozen_ms(self, writer_id: str, instance_name: str) -> float:
        """How long a writer was frozen the last time, 0 when that is not known."""
        return float(self.setting(_frozen_setting(writer_id, instance_name)) or 0)

    def set_frozen_ms(self, writer_id: str, instance_name: str, milliseconds: float) -> None:
        """Store how long a writer was frozen."""
        self.set_setting(_frozen_setting(writer_id, instance_name), f"{milliseconds:.3f}")

    # ---- sets and copies ----

    def put_set(self, record: SetRecord) -> None:
        """Record a set with its copies: from here on, and not before, a CREATED set exists."""
        created = record.status is SnapshotState.CREATED
        with self._transaction():
            self._db.execute(
                "INSERT INTO sets VALUES (?, ?, ?, ?)",
                (record.set_id, record.created_ns, int(record.status), msgspec.json.encode(record)),
            )
            for copy in record.snapshots if created else ():
                self._db.execute(
                    "INSERT INTO snapshots VALUES (?, ?, ?, 0, ?)",
                    (copy.snapshot_id, record.set_id, copy.original_volume, msgspec.json.encode(copy)),
                )
            self._db.execute(
                "DELETE FROM sets WHERE status <> ?1 AND set_id NOT IN "
                "(SELECT set_id FROM sets WHERE status <> ?1 ORDER BY created_ns DESC LIMIT ?2)",
                (int(SnapshotState.CREATED), KEPT_FAILED_SETS),
            )

    def add_imported(self, record: SetRecord, copy: SnapshotProperties) -> None:
        """Record a copy that was imported, and its set unless that stands here already."""
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO sets VALUES (?, ?, ?, ?)",
                (record.set_id, record.created_ns, int(record.status), msgspec.json.encode(record)),
            )
            self._db.execute(
                "INSERT INTO snapshots VALUES (?, ?, ?, 0, ?)",
                (copy.snapshot_id, record.set_id, copy.original_volume, msgspec.json.encode(copy)),
            )

    def set_record(self, set_id: str) -> SetRecord | None:
        """A set with the copies that are left of it, or None."""
        row = self._db.execute("SELECT record FROM sets WHERE set_id = ?", (set_id,)).fetchone()
        if row is None:
            return None
        record = msgspec.json.decode(row[0], type=SetRecord)
        record.snapshots = self.snapshots(set_id=set_id)
        return record

    def is_created(self, set_id: str) -> bool:
        """Whether this set exists: the commit rule."""
        row = self._db.execute("SELECT status FROM sets WHERE set_id = ?", (set_id,)).fetchone()
        return row is not None and row[0] == SnapshotState.CREATED

    def snapshots(self, snapshot_id: str = "", set_id: str = "", volume: str = "") -> list[SnapshotProperties]:
        """Copies that are not being deleted; empty filters match all."""
        rows = self._db.execute(
            "SELECT properties FROM snapshots WHERE deleting = 0 AND (?1 = '' OR snapshot_id = ?1)"
            " AND (?2 = '' OR set_id = ?2) AND (?3 = '' OR volume = ?3)",
            (snapshot_id, set_id, volume),
        )
        found = [msgspec.json.decode(row[0], type=SnapshotProperties) for row in rows]
        return sorted(found, key=lambda copy: copy.device_number)

    def snapshot(self, snapshot_id: str) -> SnapshotProperties:
        """One copy. Errors: VSS_E_OBJECT_NOT_FOUND."""
        found = self.snapshots(snapshot_id=snapshot_id) if snapshot_id else []
        if not found:
            message = f"there is no shadow copy {snapshot_id[:80]!r}; 'shadowset list' shows what there is"
            raise VssError(Code.VSS_E_OBJECT_NOT_FOUND, message)
        return found[0]

    def attributes_of(self, snapshot_id: str) -> int:
        """Those that the copy was made with; 0 when it does not stand here."""
        return sum(copy.attributes & ~Attribute.EXPOSED_LOCALLY for copy in self.snapshots(snapshot_id=snapshot_id))

    def deleting(self, volume: str) -> list[str]:
        """Copies of a volume that its provider must still delete."""
        rows = self._db.execute("SELECT snapshot_id FROM snapshots WHERE deleting = ? AND volume = ?", (GONE, volume))
        return [row[0] for row in rows]

    def buried(self) -> set[str]:
        """Copies of volumes that were removed before a provider could delete them: they go wherever they appear."""
        return set(self.deleting(""))

    def volume_of(self, snapshot_id: str) -> str | None:
        """The volume of a copy that stands here, also as one that is being deleted or is aside; None without one."""
        row = self._db.execute("SELECT volume FROM snapshots WHERE snapshot_id = ?", (snapshot_id,)).fetchone()
        return row and str(row[0])

    def mark_deleting(self, snapshot_ids: Iterable[str]) -> None:
        """From here on these copies do not exist for anybody; their provider will be told until it has done it."""
        with self._transaction():
            for snapshot_id in snapshot_ids:
                self._db.execute("DELETE FROM deleted WHERE snapshot_id = ?", (snapshot_id,))
                self._db.execute("UPDATE snapshots SET deleting = ? WHERE snapshot_id = ?", (GONE, snapshot_id))

    def put_aside(self, snapshot_id: str, left_ms: int, actor: str, deleted_ns: int) -> None:
        """From here on this copy does not exist for anybody, and can be taken back for ``left_ms``."""
        with self._transaction():
            self._db.execute("UPDATE snapshots SET deleting = ? WHERE snapshot_id = ?", (ASIDE, snapshot_id))
            self._db.execute(
                "INSERT OR REPLACE INTO deleted VALUES (?, ?, ?, ?)", (snapshot_id, left_ms, actor, deleted_ns)
            )

    def take_back(self, snapshot_id: str) -> None:
        """A copy that was put aside exists again."""
        with self._transaction():
            self._db.execute("DELETE FROM deleted WHERE snapshot_id = ?", (snapshot_id,))
            self._db.execute("UPDATE snapshots SET deleting = 0 WHERE snapshot_id = ?", (snapshot_id,))

    def aside(self, volume: str = "") -> list[DeletedCopy]:
        """Copies that can be taken back, of one volume or of all."""
        rows = self._db.execute(
            "SELECT properties, left_ms, deleted_ns, actor FROM snapshots JOIN deleted USING (snapshot_id)"
            " WHERE deleting = ?1 AND (?2 = '' OR volume = ?2)",
            (ASIDE, volume),
        )
        return [DeletedCopy(msgspec.json.decode(row[0], type=SnapshotProperties), *row[1:]) for row in rows]

    def is_aside(self, snapshot_id: str) -> bool:
        """Whether this copy was deleted and can be taken back."""
        return any(row.copy.snapshot_id == snapshot_id for row in self.aside())

    def age_aside(self, passed_ms: int) -> None:
        """So much of the time in which they can be taken back has passed for all of them."""
        self._db.execute("UPDATE deleted SET left_ms = left_ms - ?", (passed_ms,))

    def forget_snapshot(self, snapshot_id: str) -> None:
        """The provider has deleted it."""
        self._db.execute("DELETE FROM snapshots WHERE snapshot_id = ?", (snapshot_id,))

    def update_snapshot(self, copy: SnapshotProperties) -> None:
        """Changed properties."""
        self._db.execute(
            "UPDATE snapshots SET properties = ? WHERE snapshot_id = ?", (msgspec.json.encode(copy), copy.snapshot_id)
        )

    # ---- events ----

    def add_event(
        self, name: str, message: str, volume: str = "", set_id: str = "", time_ns: int = 0, actor: str = ""
    ) -> None:
        """Append to the event list; the oldest go when it is full."""
        cursor = self._db.execute(
            "INSERT INTO events (time_ns, name, message, volume, set_id, actor) VALUES (?, ?, ?, ?, ?, ?)",
            (time_ns or time.time_ns(), name, message, volume, set_id, actor),
        )
        self._db.execute("DELETE FROM events WHERE id <= ?", ((cursor.lastrowid or 0) - KEPT_EVENTS,))

    def events(self, after: int = 0) -> list[EventRecord]:
        """Events with a higher id, oldest first."""
        rows = self._db.execute(
            "SELECT id, time_ns, name, message, volume, set_id, actor FROM events WHERE id > ? ORDER BY id", (after,)
        )
        return [EventRecord(*row) for row in rows]

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._db.execute("ROLLBACK" if kind else "COMMIT")


def _frozen_setting(writer_id: str, instance_name: str) -> str:
    return f"frozen-ms {writer_id} {instance_name}".rstrip()
