"""The SQLite writer as a process, against databases that other processes use.

The writer never runs inside the test's process: POSIX locks are per process, and this one opens and closes the files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowset.vss.codes import Code
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, FileRestoreStatus, Level, WriterEvent
from shadowset.vss.metadata import LocationMapping
from shadowset.vss.writer_protocol import EventVolume
from shadowset.writers.naming import component_identity, component_path
from shadowset.writers.sqlite.database import integrity_problem
from shadowset.writers.sqlite.naming import SQLITE_WRITER_ID

E = WriterEvent
CLIENT = """
import sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
while True:
    t = time.monotonic()
    c.execute("BEGIN IMMEDIATE"); c.execute("INSERT INTO t (x) VALUES (randomblob(200))"); c.execute("COMMIT")
    print(time.monotonic() - t, flush=True)
    time.sleep(0.002)
"""
HOLDER = """
import sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute(sys.argv[2]).fetchall()
print("held", flush=True)
time.sleep(60)
"""


def make_database(path: Path, mode: str = "wal", rows: int = 20) -> Path:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
    connection.executemany("INSERT INTO t (x) VALUES (?)", [("a" * 300,)] * rows)
    connection.close()
    return path


def chosen(*paths: Path, **fields: Any) -> list[Component]:
    return [Component(ComponentType.DATABASE, *component_identity(str(path)), **fields) for path in paths]


def fingerprint(*paths: Path) -> dict[str, str]:
    """What a shadow copy would have: databases with their logs and journals, without shared memory."""
    files = [file for path in paths for file in path.parent.glob(path.name + "*") if not file.name.endswith("-shm")]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def count(path: Path) -> int:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = connection.execute("SELECT count(*) FROM t").fetchone()[0]
    connection.close()
    return int(rows)


@pytest.fixture
def start(processes: Any, coordinator: Any) -> Callable[..., Any]:
    def begin(*arguments: str) -> Any:
        begin.process = processes.start("-m", "shadowset.writers.sqlite.main", *arguments)
        return coordinator.writer()

    return begin


class Client:
    """Another process that writes one database all the time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.latencies: list[float] = []
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        try:
            self.latencies.extend(float(line) for line in self.process.stdout or ())
        except ValueError:
            return

    def wait_for_commits(self, number: int = 5) -> None:
        before, end = len(self.latencies), time.monotonic() + 20
        while len(self.latencies) < before + number:
            assert self.process.poll() is None, "the client got an error"
            assert time.monotonic() < end, "the client does not go on"
            time.sleep(0.01)


@pytest.fixture
def clients(processes: Any, tmp_path: Path) -> Iterator[list[Client]]:
    paths = [make_database(tmp_path / f"{mode}.db", mode) for mode in ("wal", "delete")]
    running = [Client(processes.start("-c", CLIENT, str(path), stdout=subprocess.PIPE)) for path in paths]
    for client in running:
        client.wait_for_commits()
    yield running
    for client in running:
        client.process.kill()
        client.process.wait()


def freeze(side: Any, *paths: Path) -> None:
    side.ok(E.PREPARE_BACKUP, components=chosen(*paths))
    side.ok(E.PREPARE_SNAPSHOT)
    side.ok(E.FREEZE, level=Level.BACK_END)


def test_each_database_is_a_component(start: Any, tmp_path: Path) -> None:
    first = make_database(tmp_path / "one.db")
    make_database(tmp_path / "two.db", "delete")
    side = start("--name", "shop", str(tmp_path / "*.db"), str(tmp_path / "missing.sqlite"))
    assert (side.hello.writer_id, side.hello.instance_name) == (SQLITE_WRITER_ID, "shop")
    assert side.hello.level == Level.BACK_END
    metadata = side.ok(E.IDENTIFY).metadata
    assert [component.name for component in metadata.components] == ["one.db", "two.db"]
    component = metadata.component(*component_identity(str(first)))
    assert component.type == ComponentType.DATABASE
    assert [file.filespec for file in component.database_files] == ["one.db", "one.db-wal", "one.db-journal"]
    assert {excluded.filespec for excluded in metadata.exclude_files} == {"one.db-shm", "two.db-shm"}


def test_a_path_and_its_component_correspond() -> None:
    assert component_identity("/srv/shop/orders.db") == ("srv\\shop", "orders.db")
    assert component_path("srv\\shop", "orders.db") == "/srv/shop/orders.db"
    assert component_identity("/orders.db") == ("", "orders.db")
    assert component_path("", "orders.db") == "/orders.db"


def test_frozen_databases_do_not_change_and_their_clients_only_wait(
    start: Any, clients: list[Client], tmp_path: Path
) -> None:
    paths = [tmp_path / "wal.db", tmp_path / "delete.db"]
    side = start(*map(str, paths))
    freeze(side, *paths)
    before = fingerprint(*paths)
    copies = tmp_path / "copy"
    copies.mkdir()
    for file in before:
        shutil.copy(file, copies)
    time.sleep(0.5)
    assert fingerprint(*paths) == before, "frozen means frozen"
    side.ok(E.THAW)
    answer = side.ok(E.POST_SNAPSHOT, components=chosen(*paths))
    assert all(component.backup_metadata for component in answer.components)
    for client in clients:
        client.wait_for_commits()
    assert fingerprint(*paths) != before, "the clients do write"
    assert max(max(client.latencies) for client in clients) > 0.3, "somebody had to wait"
    for path in paths:
        assert 20 < count(copies / path.name) < count(path)


def test_a_killed_writer_holds_nobody_up(start: Any, clients: list[Client], tmp_path: Path) -> None:
    paths = [tmp_path / "wal.db", tmp_path / "delete.db"]
    side = start(*map(str, paths))
    freeze(side, *paths)
    start.process.send_signal(signal.SIGKILL)
    assert side.closed.wait(10)
    for client in clients:
        client.wait_for_commits()


def test_a_lost_coordinator_releases_the_databases(start: Any, clients: list[Client], tmp_path: Path) -> None:
    paths = [tmp_path / "wal.db", tmp_path / "delete.db"]
    side = start(*map(str, paths))
    freeze(side, *paths)
    side.drop()
    for client in clients:
        client.wait_for_commits()


def test_abort_releases_the_databases(start: Any, clients: list[Client], tmp_path: Path) -> None:
    paths = [tmp_path / "wal.db", tmp_path / "delete.db"]
    side = start(*map(str, paths))
    freeze(side, *paths)
    side.ok(E.ABORT)
    for client in clients:
        client.wait_for_commits()


def test_sigterm_while_frozen_releases_the_databases(start: Any, clients: list[Client], tmp_path: Path) -> None:
    paths = [tmp_path / "wal.db", tmp_path / "delete.db"]
    side = start(*map(str, paths))
    freeze(side, *paths)
    start.process.terminate()
    assert start.process.wait(15) == 0
    for client in clients:
        client.wait_for_commits()


def test_only_the_chosen_databases_are_held(start: Any, clients: list[Client], tmp_path: Path) -> None:
    side = start(str(tmp_path / "*.db"))
    freeze(side, tmp_path / "wal.db")
    clients[1].wait_for_commits()
    frozen = len(clients[0].latencies)
    clients[1].wait_for_commits()
    assert len(clients[0].latencies) <= frozen + 1
    side.ok(E.THAW)


def test_a_database_that_stays_busy_is_named(start: Any, processes: Any, tmp_path: Path) -> None:
    free, busy = make_database(tmp_path / "a.db"), make_database(tmp_path / "b.db", "delete")
    side = start("--busy-timeout-ms", "200", str(tmp_path / "*.db"))
    side.ok(E.PREPARE_BACKUP, components=chosen(free, busy))
    side.ok(E.PREPARE_SNAPSHOT)
    holder = processes.start("-c", HOLDER, str(busy), "BEGIN IMMEDIATE", stdout=subprocess.PIPE)
    assert holder.stdout.readline() == "held\n"
    answer = side.ask(E.FREEZE)
    assert (answer.veto, answer.code) == (True, Code.VSS_E_WRITERERROR_RETRYABLE)
    assert str(busy) in answer.message
    connection = sqlite3.connect(free, timeout=0)
    connection.execute("INSERT INTO t (x) VALUES (1)")
    connection.commit()
    connection.close()
    holder.kill()
    side.ok(E.ABORT)
    freeze(side, free, busy)
    side.ok(E.THAW)


def test_a_database_outside_the_set_is_reported_without_veto(start: Any, tmp_path: Path) -> None:
    path = make_database(tmp_path / "a.db")
    side = start(str(path))
    side.ok(E.PREPARE_BACKUP, components=chosen(path))
    answer = side.ask(E.PREPARE_SNAPSHOT, volumes=[EventVolume("other", ["/elsewhere"])])
    assert (answer.veto, answer.code) == (False, Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT)
    side.ok(E.PREPARE_SNAPSHOT, volumes=[EventVolume("right", [str(tmp_path)])])


def test_without_components_the_volumes_decide(start: Any, tmp_path: Path) -> None:
    path = make_database(tmp_path / "a.db")
    side = start(str(path))
    for mount, held in (("/elsewhere", False), (str(tmp_path), True)):
        volumes = [EventVolume("v", [mount])]
        side.ok(E.PREPARE_BACKUP, select_components=False, volumes=volumes)
        side.ok(E.PREPARE_SNAPSHOT, select_components=False, volumes=volumes)
        side.ok(E.FREEZE, select_components=False)
        probe = [sys.executable, "-c", "import sqlite3,sys; sqlite3.connect(sys.argv[1], 0).execute('BEGIN IMMEDIATE')"]
        result = subprocess.run([*probe, str(path)], capture_output=True, check=False)
        assert (result.returncode != 0) == held
        side.ok(E.THAW)


def test_an_unknown_component_is_refused(start: Any, tmp_path: Path) -> None:
    side = start(str(make_database(tmp_path / "a.db")))
    answer = side.ask(E.PREPARE_BACKUP, components=chosen(tmp_path / "b.db"))
    assert (answer.veto, answer.code) == (True, Code.VSS_E_OBJECT_NOT_FOUND)


def test_the_restore_cycle_brings_back_what_was_copied(start: Any, tmp_path: Path) -> None:
    """With a stale log beside the lost database, which would corrupt the restored one if it stayed."""
    path = make_database(tmp_path / "a.db")
    side = start(str(path))
    freeze(side, path)
    copy = tmp_path / "copy.db"
    shutil.copy(path, copy)
    side.ok(E.THAW)
    crash = "import os,sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute('DELETE FROM t'); c.commit(); os._exit(0)"
    subprocess.run([sys.executable, "-c", crash, str(path)], check=True)
    assert (tmp_path / "a.db-wal").stat().st_size > 0
    path.write_bytes(b"not a database any more" * 100)
    component = chosen(path, selected_for_restore=True)
    side.ok(E.PRE_RESTORE, components=component)
    assert not (tmp_path / "a.db-wal").exists()
    assert not (tmp_path / "a.db-shm").exists()
    shutil.copy(copy, path)
    component[0].file_restore_status = FileRestoreStatus.ALL
    side.ok(E.POST_RESTORE, components=component)
    assert count(path) == 20


@pytest.mark.parametrize(("mode", "held_by"), [("wal", "SELECT * FROM t"), ("delete", "BEGIN IMMEDIATE")])
def test_a_database_in_use_is_not_restored(start: Any, processes: Any, tmp_path: Path, mode: str, held_by: str) -> None:
    path = make_database(tmp_path / "a.db", mode)
    side = start("--busy-timeout-ms", "200", str(path))
    holder = processes.start("-c", HOLDER, str(path), held_by, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == "held\n"
    answer = side.ask(E.PRE_RESTORE, components=chosen(path, selected_for_restore=True))
    assert (answer.veto, answer.code) == (True, Code.VSS_E_WRITERERROR_RETRYABLE)
    assert answer.components[0].pre_restore_failure_message == answer.message
    holder.kill()
    holder.wait()
    side.ok(E.PRE_RESTORE, components=chosen(path, selected_for_restore=True))


def test_a_bad_restore_is_reported(start: Any, tmp_path: Path) -> None:
    path = make_database(tmp_path / "a.db", rows=500)
    side = start(str(path))
    component = chosen(path, selected_for_restore=True, file_restore_status=FileRestoreStatus.ALL)
    side.ok(E.PRE_RESTORE, components=component)
    damaged = bytearray(path.read_bytes())
    damaged[8192:16384] = b"\xff" * 8192
    path.write_bytes(damaged)
    answer = side.ask(E.POST_RESTORE, components=component)
    assert (answer.veto, answer.code) == (False, Code.VSS_E_WRITERERROR_RECOVERY_FAILED)
    assert str(path) in answer.components[0].post_restore_failure_message
    path.unlink()
    assert "missing" in side.ask(E.POST_RESTORE, components=component).message


def test_a_restore_to_a_new_target_leaves_the_live_database_alone(start: Any, tmp_path: Path) -> None:
    path, target = make_database(tmp_path / "a.db"), tmp_path / "target"
    target.mkdir()
    (target / "a.db-wal").write_bytes(b"stale")
    keeper = sqlite3.connect(path)
    keeper.execute("INSERT INTO t (x) VALUES (1)")
    keeper.commit()
    side = start(str(path))
    mapping = LocationMapping(str(tmp_path), "a.db", False, str(target))
    component = chosen(
        path, selected_for_restore=True, new_targets=[mapping], file_restore_status=FileRestoreStatus.ALL
    )
    side.ok(E.PRE_RESTORE, components=component)
    assert (tmp_path / "a.db-wal").exists()
    assert not (target / "a.db-wal").exists()
    shutil.copy(path, target / "a.db")
    side.ok(E.POST_RESTORE, components=component)
    keeper.close()


def test_settings_come_from_a_file_and_mistakes_are_named(start: Any, processes: Any, tmp_path: Path) -> None:
    path, config = make_database(tmp_path / "a.db"), tmp_path / "writer.toml"
    config.write_text(f'databases = ["{path}"]\nname = "from-file"\nfreeze_timeout_ms = 1234\n')
    side = start("--config", str(config))
    assert (side.hello.instance_name, side.hello.freeze_timeout_ms) == ("from-file", 1234)
    for text, complaint in (("datbases = []", "datbases"), ("databases = 3", "type list"), ("= [", "cannot be read")):
        config.write_text(text)
        result = processes.run("-m", "shadowset.writers.sqlite.main", "--config", str(config))
        assert result.returncode == 1
        assert complaint in result.stderr
        assert "Traceback" not in result.stderr
    assert processes.run("-m", "shadowset.writers.sqlite.main").returncode == 1


WITHOUT_RIGHTS = """
import os, sys
from shadowset.writers.sqlite.main import main
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
sys.exit(main(sys.argv[1:]))
"""  # rights go after the imports, since the interpreter may lie where only root can look


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start a process that is not")
def test_it_needs_no_rights_but_those_on_the_database(processes: Any, coordinator: Any, runtime: str) -> None:
    nobody = 65534
    os.chmod(runtime, 0o755)
    os.chmod(coordinator.path, 0o777)
    home = Path(runtime, "data")
    home.mkdir()
    path = make_database(home / "a.db")
    os.chown(home, nobody, nobody)
    os.chown(path, nobody, nobody)
    processes.start("-c", WITHOUT_RIGHTS, str(path))
    side = coordinator.writer()
    freeze(side, path)
    connection = sqlite3.connect(path, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        connection.execute("BEGIN IMMEDIATE")
    connection.close()
    side.ok(E.THAW)
    side.ok(E.PRE_RESTORE, components=chosen(path, selected_for_restore=True))


def test_the_check_after_a_restore_changes_nothing(tmp_path: Path) -> None:
    """Or the log that was restored would be gone, and the files be not as in the backup."""
    live, restored = str(tmp_path / "live.db"), str(tmp_path / "restored.db")
    with contextlib.closing(sqlite3.connect(live)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t(x)")
        for end in ("", "-wal"):
            shutil.copy(f"{live}{end}", f"{restored}{end}")
    before = {end: Path(f"{restored}{end}").read_bytes() for end in ("", "-wal")}
    assert integrity_problem(restored) == ""
    assert {end: Path(f"{restored}{end}").read_bytes() for end in ("", "-wal")} == before
