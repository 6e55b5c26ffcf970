"""Writers recover inside a fresh copy, through the whole installation: what they write is the copy's alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.requester.backup_components import BackupComponents, ComponentKey
from shadowset.vss.codes import VssError
from shadowset.vss.enums import Attribute, BackupType, Context

pytestmark = pytest.mark.host
ROWS = 3000


class Database:
    """A database on a volume with a transaction under way that has reached its file: no copy of it is clean."""

    def __init__(self, chain: Any, wait_until: Callable[..., Any], place: str) -> None:
        self.chain, self.place = chain, place
        self.journal = f"{chain.directory}/journal"
        self.path = f"{place}/db"
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        self.connection.execute("CREATE TABLE account (amount INTEGER, text TEXT)")
        self.connection.execute("BEGIN")
        self.connection.executemany("INSERT INTO account VALUES (1, ?)", [("x" * 200,)] * ROWS)
        self.connection.execute("COMMIT")
        self.connection.execute("PRAGMA cache_size=5")
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute("UPDATE account SET amount = 2")
        for name in ("keep", "a.tmp", "deep/b.tmp", "deep/keep"):
            os.makedirs(os.path.dirname(f"{place}/{name}"), exist_ok=True)
            Path(f"{place}/{name}").write_text(name)
        os.symlink(chain.directory, f"{place}/deep/link")
        Path(chain.directory, "outside.tmp").touch()
        script = Path(__file__).with_name("recovering_writer.py")
        chain.start(sys.executable, str(script), place, self.journal)
        wait_until("the writer", lambda: any(each["connected"] for each in chain.cli("writers")))

    def make(self, *volumes: str, context: int = Context.APP_ROLLBACK) -> Any:
        with BackupComponents(self.chain.paths) as calls:
            calls.initialize_for_backup()
            calls.set_context(context)
            calls.set_backup_state(True, False, BackupType.FULL)
            (writer,) = calls.gather_writer_metadata().result()
            (component,) = writer.components
            key = ComponentKey(writer.writer_id, writer.instance_id, component.type, "", component.name)
            calls.add_component(key)
            calls.start_snapshot_set()
            for volume in volumes:
                calls.add_to_snapshot_set(volume)
            calls.prepare_for_backup().result()
            return calls.do_snapshot_set().result()

    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Path(self.journal).read_text())
        return found

    def in_copy(self, place: str) -> tuple[int, bool]:
        """The sum in a copy, read without writing anything, and whether the writer was there."""
        database = sqlite3.connect(f"file:{place}/db?immutable=1", uri=True)
        with contextlib.closing(database):
            total = database.execute("SELECT sum(amount) FROM account").fetchone()[0]
            tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master")]
        return total, "recovered" in tables


@pytest.fixture
def database(chain: Any, wait_until: Callable[..., Any]) -> Iterator[Database]:
    chain.add_volumes((("one", "ext4", 64 << 20),))
    made = Database(chain, wait_until, chain.places["one"])
    try:
        yield made
    finally:
        made.connection.close()


def mounted(chain: Any, record: Any, number: int = 0) -> Path:
    done = chain.raw("mount", record.snapshots[number].snapshot_id)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.mark.vss(47, 111)
def test_a_database_is_recovered_inside_the_copy_and_sealed(database: Database, chain: Any) -> None:
    chain.add_volumes((("two", "xfs", 320 << 20),))
    record = database.make("one", "two")
    told = database.told()
    assert told["journal"] and not told["shown"], "it was not clean, and nobody could see it yet"
    assert record.snapshots[0].attributes & Attribute.AUTORECOVER
    assert not record.snapshots[1].attributes & Attribute.AUTORECOVER

    place = mounted(chain, record)
    assert database.in_copy(str(place)) == (ROWS, True)
    names = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.name != "lost+found")
    assert names == ["db", "deep", "deep/keep", "deep/link", "keep"]
    with pytest.raises(OSError, match="Read-only"):
        (place / "new").touch()

    assert Path(chain.directory, "outside.tmp").exists() and Path(database.place, "a.tmp").exists()
    assert database.connection.execute("SELECT sum(amount) FROM account").fetchone() == (2 * ROWS,)
    assert "recovered" not in str(database.connection.execute("SELECT name FROM sqlite_master").fetchall())
    assert list(Path(chain.runtime, "recovery").iterdir()) == [] and list(Path(chain.runtime, "layers").iterdir()) == []

    chain.daemon.kill()
    chain.daemon.wait()
    chain.start_daemon()
    assert database.in_copy(str(place)) == (ROWS, True)
    overlays = Path(chain.paths.storage, "one", "overlays")
    assert [each.name for each in overlays.iterdir()] == [record.snapshots[0].snapshot_id]


@pytest.mark.vss(112)
def test_without_autorecovery_the_copy_is_sealed_at_once(database: Database, chain: Any) -> None:
    record = database.make("one", context=Context.APP_ROLLBACK | Attribute.NO_AUTORECOVERY)
    assert database.told()["path"] == ""
    place = mounted(chain, record)
    assert (place / "db-journal").exists() and (place / "a.tmp").exists()
    with pytest.raises(OSError, match="Read-only"):
        (place / "new").touch()
    told = [entry for entry in record.timeline if entry.phase == "exclude"]
    assert told and "a.tmp" not in told[0].message and "no layer" in told[0].message
    assert "exclude-failed" in {event["name"] for event in chain.cli("events")}


def test_a_coordinator_that_dies_during_recovery_leaves_nothing(
    database: Database, chain: Any, wait_until: Callable[..., Any]
) -> None:
    Path(f"{database.journal}.wait").touch()
    requester = chain.start(sys.executable, "-m", "shadowset.requester.cli", "create", "one")
    wait_until("post-snapshot", lambda: os.path.exists(database.journal))
    chain.daemon.send_signal(signal.SIGKILL)
    chain.daemon.wait()
    requester.wait(30)
    os.unlink(f"{database.journal}.wait")
    chain.start_daemon()
    assert chain.cli("list") in ([], {"snapshots": []}, None)
    wait_until("the pending copy to go", lambda: not chain.describe("one").copies)
    assert list(Path(chain.runtime, "recovery").iterdir()) == [] and list(Path(chain.runtime, "layers").iterdir()) == []
    wait_until("the layer to go", lambda: not list(Path(chain.paths.storage, "one", "overlays").iterdir()))
    wait_until("the writer", lambda: any(each["connected"] for each in chain.cli("writers")))
    database.make("one")
    assert database.told()["journal"]


def test_a_layer_that_cannot_be_opened_voids_the_set(database: Database, chain: Any) -> None:
    overlays = Path(chain.paths.storage, "one", "overlays")
    overlays.write_text("in the way")
    with pytest.raises(VssError, match="cannot be opened to its writers") as caught:
        database.make("one")
    assert caught.value.code == 0x800423FB
    overlays.unlink()
    assert chain.describe("one").copies == []
    database.make("one")


@pytest.mark.vss(116)
def test_a_writer_on_the_list_blocks_the_revert_of_its_volume(database: Database, chain: Any) -> None:
    record = database.make("one")
    assert record.snapshots[0].writer_ids == ["9b1c2a57-5f43-4a5e-8f2b-0d6a1f6c7b11"]
    database.connection.close()
    for process in chain.processes:
        if process is not chain.daemon:
            process.terminate()
            process.wait(30)
    subprocess.run(["umount", database.place], check=True)
    chain.cli("volume", "detach", "one")
    chain.daemon.terminate()
    chain.daemon.wait(60)
    chain.environment["SHADOWSET_CONFIG_DIR"] = f"{chain.directory}/etc"
    chain.start_daemon()
    listed = Path(chain.directory, "etc", "shadowsetd.toml")
    listed.parent.mkdir()
    listed.write_text('[revert]\nblocked-by = ["9B1C2A57-5F43-4A5E-8F2B-0D6A1F6C7B11"]\n')
    done = chain.raw("revert", record.snapshots[0].snapshot_id, "--yes")
    assert done.returncode == 1 and "which blocks reverts" in done.stderr
    listed.unlink()
    chain.cli("revert", record.snapshots[0].snapshot_id, "--yes")
    device = chain.cli("volume", "attach", "one")["device"]
    subprocess.run(["mount", device, database.place], check=True)
    assert database.in_copy(database.place) == (ROWS, True), "a revert brings along what the writer recovered"


@pytest.mark.vss(48)
def test_the_hosts_own_list_counts_beside_writers_that_are_not_there(database: Database, chain: Any) -> None:
    chain.daemon.terminate()
    chain.daemon.wait(60)
    chain.environment["SHADOWSET_CONFIG_DIR"] = f"{chain.directory}/etc"
    listed = Path(chain.directory, "etc", "files-not-to-snapshot.toml")
    listed.parent.mkdir()
    place = database.place
    listed.write_text(f'"Other" = ["{place}/keep", "{chain.directory}/*"]\n"Recovering" = ["{place}/deep/keep"]\n')
    chain.start_daemon()
    deadline = time.monotonic() + 60
    while not any(each["connected"] for each in chain.cli("writers")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    record = database.make("one")
    seen = mounted(chain, record)
    assert not (seen / "keep").exists() and (seen / "deep" / "keep").exists()
    assert Path(place, "keep").exists() and Path(chain.directory, "outside.tmp").exists()
    assert "exclude-failed" not in {event["name"] for event in chain.cli("events")}
    listed.write_text("[")
    with pytest.raises(VssError, match="files-not-to-snapshot"):
        database.make("one")


def test_a_writer_that_keeps_a_file_open_in_the_copy_voids_the_set(
    database: Database, chain: Any, wait_until: Callable[..., Any]
) -> None:
    Path(f"{database.journal}.keep").touch()
    with pytest.raises(VssError, match="still has something open"):
        database.make("one")
    assert chain.describe("one").copies == [] and list(Path(chain.runtime, "recovery").iterdir()) == []
    os.unlink(f"{database.journal}.keep")
    for process in chain.processes:
        if process is not chain.daemon:
            process.terminate()
            process.wait(30)
    script = Path(__file__).with_name("recovering_writer.py")
    chain.start(sys.executable, str(script), database.place, database.journal)
    wait_until("the writer", lambda: any(each["connected"] for each in chain.cli("writers")))
    database.make("one")
    assert list(Path(chain.runtime, "layers").iterdir()) == []
