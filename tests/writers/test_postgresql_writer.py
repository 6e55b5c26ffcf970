"""The PostgreSQL writer as a process, event by event, with a real server on a plain directory."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="not installed: psycopg")

from postgresql_server import Cluster, binaries, writer_config

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import (
    Attribute,
    BackupType,
    ComponentFlag,
    ComponentType,
    FileRestoreStatus,
    Level,
    RollForward,
    WriterEvent,
)
from shadowset.vss.writer_protocol import EventVolume
from shadowset.writers.naming import component_identity, component_path
from shadowset.writers.postgresql.archive import ArchivingServer, Position, segments_since
from shadowset.writers.postgresql.files import (
    POSTGRESQL_WRITER_ID,
    directories,
    server_process,
)
from shadowset.writers.postgresql.settings import ClusterSettings, Settings, discover
from shadowset.writers.server_settings import read_settings

E = WriterEvent
MAIN = "shadowset.writers.postgresql.main"
ROLLBACK = int(Attribute.ROLLBACK_RECOVERY)


@pytest.fixture(scope="module")
def only_cluster() -> Iterator[Cluster]:
    if os.geteuid():
        pytest.skip("needs root, to run the server as its owner")
    if not binaries():
        pytest.skip("not installed: postgresql")
    top = tempfile.mkdtemp(prefix="ss-pg-", dir="/tmp")
    os.chmod(top, 0o755)
    made = None
    try:
        made = Cluster(f"{top}/main", f"{top}/run", tablespace=f"{top}/away")
        yield made
    finally:
        if made is not None:
            made.end()
            print(Path(f"{made.runtime}/log").read_text()[-3000:])
        shutil.rmtree(top, ignore_errors=True)


@pytest.fixture
def cluster(only_cluster: Cluster) -> Cluster:
    """The same for all tests: it takes longer to make than they take to run."""
    only_cluster.wait_for_sessions()
    return only_cluster


@pytest.fixture
def temporary(runtime: str) -> str:
    """Where writers have their temporary files, which the server's owner can reach."""
    os.chmod(runtime, 0o755)
    os.mkdir(f"{runtime}/tmp", 0o755)
    return f"{runtime}/tmp"


@pytest.fixture
def side(cluster: Cluster, processes: Any, coordinator: Any, tmp_path: Path, temporary: str) -> Any:
    config = writer_config(str(tmp_path / "postgresql.toml"), cluster)
    side_process = processes.start("-m", MAIN, "--config", config, TMPDIR=temporary)
    found = coordinator.writer()
    found.process = side_process
    return found


def chosen(cluster: Cluster, **fields: Any) -> list[Component]:
    return [Component(ComponentType.FILEGROUP, *component_identity(cluster.data), **fields)]


def prepare(side: Any, cluster: Cluster) -> None:
    side.ok(E.PREPARE_BACKUP, components=chosen(cluster))
    side.ok(E.PREPARE_SNAPSHOT)


def sessions(cluster: Cluster) -> list[int]:
    rows = cluster.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'shadowset writer'")
    return [row[0] for row in rows]


def test_the_document_names_every_directory(side: Any, cluster: Cluster) -> None:
    document = side.ok(E.IDENTIFY).metadata
    component, member = document.components
    assert side.hello.writer_id == POSTGRESQL_WRITER_ID
    assert side.hello.level == Level.BACK_END
    assert component_path(component.logical_path, component.name) == cluster.data
    assert (member.full_path, member.selectable, member.file_sets) == (f"{component.full_path}\\postgres", False, ())
    away = os.path.dirname(cluster.data) + "/away"
    assert [(files.path, files.filespec, files.recursive) for files in component.files] == [
        (cluster.data, "*", True),
        (away, "*", True),
    ]
    assert {files.filespec for files in document.exclude_files} == {"postmaster.pid", "postmaster.opts"}


def test_a_cycle_leaves_position_and_no_session(side: Any, cluster: Cluster) -> None:
    prepare(side, cluster)
    assert len(sessions(cluster)) == 1
    side.ok(E.FREEZE)
    side.ok(E.THAW)
    (component,) = side.ok(E.POST_SNAPSHOT, components=chosen(cluster)).components
    assert '"method": "checkpoint and cut"' in component.backup_metadata
    assert component.backup_stamp.count("/") == 1
    side.ok(E.BACKUP_SHUTDOWN)
    assert sessions(cluster) == []


def test_no_log_backup_builds_on_a_server_that_was_down(side: Any, cluster: Cluster) -> None:
    cluster.end("fast")
    prepare(side, cluster)
    side.ok(E.FREEZE)
    side.ok(E.THAW)
    (component,) = side.ok(E.POST_SNAPSHOT, components=chosen(cluster)).components
    assert json.loads(component.backup_metadata)["method"] == component.backup_stamp == "cold"
    with pytest.raises(VssError, match="whose stamp is 'cold'; make a full backup"):
        Position.parse(component.backup_stamp)


def test_a_directory_outside_the_set_is_named(side: Any, cluster: Cluster) -> None:
    volumes = [EventVolume(name="data", mount_points=[cluster.data])]
    side.ok(E.PREPARE_BACKUP, components=chosen(cluster), volumes=volumes)
    answer = side.ask(E.PREPARE_SNAPSHOT, volumes=volumes)
    assert (answer.code, answer.veto) == (Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT, False)
    assert "/away lies on no volume" in answer.message


def test_a_server_killed_before_the_freeze_vetoes(side: Any, cluster: Cluster) -> None:
    prepare(side, cluster)
    (backend,) = sessions(cluster)
    os.kill(backend, signal.SIGKILL)  # the server restarts all of its processes
    answer = side.ask(E.FREEZE)
    assert answer.veto
    assert answer.code == Code.VSS_E_WRITERERROR_RETRYABLE
    side.ok(E.ABORT)


def test_a_server_killed_while_frozen_is_told_at_thaw(side: Any, cluster: Cluster) -> None:
    prepare(side, cluster)
    side.ok(E.FREEZE)
    (backend,) = sessions(cluster)
    os.kill(backend, signal.SIGKILL)
    answer = side.ask(E.THAW)
    assert answer.code == Code.VSS_E_WRITERERROR_RETRYABLE
    assert "lost amid the creation" in answer.message


def test_a_tablespace_made_meanwhile_is_told(side: Any, cluster: Cluster) -> None:
    prepare(side, cluster)
    side.ok(E.FREEZE)
    late = os.path.dirname(cluster.data) + "/late"
    os.mkdir(late)
    shutil.chown(late, "postgres", "postgres")
    cluster.sql(f"CREATE TABLESPACE late LOCATION '{late}'")
    answer = side.ask(E.THAW)
    assert "places" in answer.message
    assert answer.code == Code.VSS_E_WRITERERROR_RETRYABLE


def test_a_session_that_hangs_is_given_up(side: Any, cluster: Cluster) -> None:
    prepare(side, cluster)
    (backend,) = sessions(cluster)
    os.kill(backend, signal.SIGSTOP)
    try:
        frozen = side.post(E.FREEZE, deadline_ms=2000)
        aborted = side.post(E.ABORT, deadline_ms=20_000)
        answers = [side.replies.get(timeout=60) for _ in range(2)]
    finally:
        os.kill(backend, signal.SIGCONT)
    assert {answer.seq for answer in answers} == {frozen, aborted}
    prepare(side, cluster)  # and it goes on


def wait_until_archived(cluster: Cluster) -> None:
    end = time.monotonic() + 60
    names = [row[0] for row in cluster.sql("SELECT pg_walfile_name(pg_switch_wal())")]
    while not os.path.exists(f"{cluster.runtime}/archive/{names[0]}"):
        assert time.monotonic() < end, "the log is not archived"
        time.sleep(0.05)


def test_a_running_server_is_stopped_and_the_copy_rolled_forward(side: Any, cluster: Cluster, tmp_path: Path) -> None:
    cluster.sql("CREATE TABLE t (x int); INSERT INTO t VALUES (1)")
    cluster.end("fast")
    subprocess.run(["cp", "-a", cluster.data, str(tmp_path / "cut")], check=True)
    cluster.begin()
    cluster.sql("INSERT INTO t VALUES (2)")
    point = str(cluster.sql("SELECT clock_timestamp()")[0][0])
    time.sleep(0.01)
    cluster.sql("INSERT INTO t VALUES (3)")
    wait_until_archived(cluster)
    old_log = f"{point} timeline 1"
    for roll_forward, rows in ((RollForward.NONE, [1]), (RollForward.PARTIAL, [1, 2]), (RollForward.NONE, [1])):
        wanted = chosen(cluster, selected_for_restore=True, roll_forward=roll_forward, roll_forward_point=old_log)
        side.ok(E.PRE_RESTORE, components=wanted, deadline_ms=120_000)
        assert server_process(cluster.data) == 0
        shutil.rmtree(cluster.data)
        subprocess.run(["cp", "-a", str(tmp_path / "cut"), cluster.data], check=True)
        wanted[0].file_restore_status = FileRestoreStatus.ALL
        side.ok(E.POST_RESTORE, components=wanted, deadline_ms=120_000)
        assert [row[0] for row in cluster.sql("SELECT x FROM t ORDER BY 1")] == rows


def test_a_time_that_the_log_does_not_reach_fails(side: Any, cluster: Cluster) -> None:
    wanted = chosen(cluster, selected_for_restore=True, roll_forward=RollForward.PARTIAL)
    wanted[0].roll_forward_point = "2999-01-01"
    cluster.end("fast")
    kept = f"{os.path.dirname(cluster.data)}/kept"
    subprocess.run(["cp", "-a", cluster.data, kept], check=True)
    wanted[0].file_restore_status = FileRestoreStatus.ALL
    answer = side.ask(E.POST_RESTORE, components=wanted, deadline_ms=120_000)
    assert answer.code == Code.VSS_E_WRITERERROR_RECOVERY_FAILED and "ended with status 1" in answer.message
    assert server_process(cluster.data) == 0
    shutil.rmtree(cluster.data)
    os.rename(kept, cluster.data)


@pytest.fixture
def backup_side(cluster: Cluster, processes: Any, coordinator: Any, tmp_path: Path) -> Any:
    config = writer_config(str(tmp_path / "postgresql.toml"), cluster, more="backup_mode = true\n")
    processes.start("-m", MAIN, "--config", config)
    return coordinator.writer()


def wait_for_no_slot(cluster: Cluster) -> None:
    end = time.monotonic() + 30
    while cluster.sql("SELECT 1 FROM pg_replication_slots"):
        assert time.monotonic() < end, "the slot stays"
        time.sleep(0.05)


def two_places(cluster: Cluster, number: int) -> None:
    """As many transactions that write the same to a table in either place."""
    for _ in range(number):
        cluster.sql("BEGIN; UPDATE here SET x = x + 1; UPDATE there SET x = x + 1; COMMIT")


def copy_of_two_instants(cluster: Cluster, top: Path) -> EventVolume:
    """What a backup of two volumes that are not cut together has; the tablespace lies in ``away``."""
    os.chmod(top, 0o755)
    directory = os.path.dirname(cluster.data)
    subprocess.run(["cp", "-a", cluster.data, f"{top}/main"], check=True)
    two_places(cluster, 20)
    cluster.sql("CHECKPOINT")
    subprocess.run(["cp", "-a", f"{directory}/away", f"{top}/away"], check=True)
    two_places(cluster, 20)
    return EventVolume("top", [directory], recovery_path=str(top))


def sums_in(top: Path, runtime: str) -> tuple[int, int]:
    """What a server says that is started on a copy, as it would be after a restore."""
    for link in (top / "main/pg_tblspc").iterdir():
        link.unlink()
        link.symlink_to(top / "away")
    (top / "main/postmaster.pid").unlink(missing_ok=True)
    other = Cluster.existing(f"{top}/main", runtime, 55460)
    try:
        ((here, there),) = other.sql("SELECT (SELECT sum(x) FROM here), (SELECT sum(x) FROM there)")
    finally:
        other.end()
    return int(here or 0), int(there or 0)


def test_backup_mode_mends_a_copy_of_two_instants(backup_side: Any, cluster: Cluster, runtime: str) -> None:
    os.chmod(runtime, 0o755)
    with_label, without = Path(runtime, "with"), Path(runtime, "without")
    rows = "AS SELECT generate_series(1, 100) x"
    cluster.sql(f"CREATE TABLE here {rows}; CREATE TABLE there TABLESPACE away {rows}")
    component, _member = backup_side.ok(E.IDENTIFY).metadata.components
    assert component.flags & ComponentFlag.BACKUP_RECOVERY
    prepare(backup_side, cluster)
    backup_side.ok(E.FREEZE)
    with_label.mkdir()
    volume = copy_of_two_instants(cluster, with_label)
    backup_side.ok(E.THAW)
    subprocess.run(["cp", "-a", with_label, without], check=True)
    answer = backup_side.ok(E.POST_SNAPSHOT, components=chosen(cluster), volumes=[volume])
    facts = json.loads(answer.components[0].backup_metadata)
    assert facts["method"] == "backup mode" and facts["label"].startswith("START WAL LOCATION") and facts["stop"]
    wait_for_no_slot(cluster)

    here, there = sums_in(with_label, f"{runtime}/pg")
    assert here == there >= 5050 + 100 * 20
    here, there = sums_in(without, f"{runtime}/pg")
    assert here != there, "without backup mode the copy is torn, so this test can fail"
    cluster.sql("DROP TABLE here, there")


def test_backup_mode_needs_a_place_in_the_copy_and_ends_with_the_session(backup_side: Any, cluster: Cluster) -> None:
    prepare(backup_side, cluster)
    backup_side.ok(E.FREEZE)
    assert cluster.sql("SELECT temporary FROM pg_replication_slots") == [(True,)]
    backup_side.ok(E.THAW)
    answer = backup_side.ask(E.POST_SNAPSHOT, components=chosen(cluster))
    assert answer.code == Code.VSS_E_WRITERERROR_NONRETRYABLE
    assert f"{cluster.data} cannot be written to in the copy" in answer.message
    backup_side.ok(E.ABORT)
    wait_for_no_slot(cluster)


class Listener:
    """A socket of a server that a cluster might reach out to; ``calls`` are those who did."""

    def __init__(self, directory: str) -> None:
        os.makedirs(directory)
        shutil.chown(directory, "postgres", "postgres")
        self.conninfo = f"host={directory} port=5432 dbname=x"
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(f"{directory}/.s.PGSQL.5432")
        os.chmod(f"{directory}/.s.PGSQL.5432", 0o777)
        self.socket.listen(8)
        self.socket.settimeout(60)

    def wait_for_call(self) -> None:
        self.socket.accept()[0].close()

    def calls(self) -> int:
        """How many came since it was asked last."""
        self.socket.settimeout(0)
        for number in itertools.count():
            try:
                self.socket.accept()[0].close()
            except BlockingIOError:
                return number
        raise AssertionError


@pytest.fixture
def outgoing(cluster: Cluster, runtime: str) -> Iterator[Listener]:
    """A cluster that does what others notice: it subscribes, has slots, prepared transactions and libraries."""
    os.chmod(runtime, 0o755)
    listener = Listener(f"{runtime}/publisher")
    wanted = {"wal_level": "logical", "max_prepared_transactions": "7", "track_commit_timestamp": "on",
              "session_preload_libraries": "auto_explain"}  # fmt: skip
    for name, value in wanted.items():
        cluster.sql(f"ALTER SYSTEM SET {name} = '{value}'")
    cluster.end("fast")
    cluster.begin()
    cluster.sql("SELECT pg_create_logical_replication_slot('reader', 'pgoutput')")
    cluster.sql("CREATE TABLE kept (x int); CREATE TABLE away_kept (x int) TABLESPACE away")
    options = "connect = false, slot_name = 's', create_slot = false"
    cluster.sql(f"CREATE SUBSCRIPTION s CONNECTION '{listener.conninfo}' PUBLICATION p WITH ({options})")
    cluster.sql("ALTER SUBSCRIPTION s ENABLE")
    listener.wait_for_call()
    try:
        yield listener
    finally:
        cluster.wait_for_sessions()
        cluster.sql("ALTER SUBSCRIPTION s DISABLE")
        cluster.sql("ALTER SUBSCRIPTION s SET (slot_name = NONE)")
        cluster.sql("DROP SUBSCRIPTION s")
        cluster.sql("ROLLBACK PREPARED 'in doubt'")
        cluster.sql("SELECT pg_drop_replication_slot('reader')")
        cluster.sql("DROP TABLE kept, away_kept")
        cluster.sql("ALTER SYSTEM RESET ALL")
        cluster.end("fast")
        listener.socket.close()


def copied_cluster(cluster: Cluster, top: Path) -> EventVolume:
    """A copy as it is at a cut, where the server does nothing just then."""
    top.mkdir()
    os.chmod(top, 0o755)
    for name in {"main", "away", "late"} & set(os.listdir(os.path.dirname(cluster.data))):
        subprocess.run(["cp", "-a", f"{os.path.dirname(cluster.data)}/{name}", f"{top}/{name}"], check=True)
    return EventVolume("top", [os.path.dirname(cluster.data)], recovery_path=str(top))


def tree_of(top: str) -> dict[str, tuple[int, int, str]]:
    """All that is below a directory: names, sizes, times, and where links lead to."""
    found = {}
    for path in Path(top).rglob("*"):
        status = path.lstat()
        found[str(path)] = (status.st_size, status.st_mtime_ns, os.readlink(path) if path.is_symlink() else "")
    return found


def controlled(cluster: Cluster, data: str) -> dict[str, str]:
    lines = cluster.run("pg_controldata", "-D", data).splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.vss(111)
def test_a_copy_recovers_in_itself_and_nobody_else_notices(
    side: Any, cluster: Cluster, outgoing: Listener, runtime: str
) -> None:
    prepare(side, cluster)
    cluster.sql("INSERT INTO kept SELECT generate_series(1, 1000); INSERT INTO away_kept SELECT x FROM kept")
    cluster.sql("BEGIN; INSERT INTO kept VALUES (0); PREPARE TRANSACTION 'in doubt'")
    side.ok(E.FREEZE)
    volume = copied_cluster(cluster, Path(runtime, "copy"))
    side.ok(E.THAW)
    cluster.end()  # whoever calls, archives or writes from now on is the copy
    copy = f"{runtime}/copy/main"
    links = {name: os.readlink(f"{copy}/pg_tblspc/{name}") for name in os.listdir(f"{copy}/pg_tblspc")}
    before = controlled(cluster, copy)
    assert before["Database cluster state"] == "in production"
    live = tree_of(os.path.dirname(cluster.data))
    outgoing.calls()

    answer = side.ok(E.POST_SNAPSHOT, components=chosen(cluster), volumes=[volume], context=ROLLBACK)
    assert json.loads(answer.components[0].backup_metadata)["copy"] == "recovered"
    assert answer.components[0].backup_stamp == "recovered", "no log goes on from here"
    assert outgoing.calls() == 0
    assert tree_of(os.path.dirname(cluster.data)) == live
    assert {name: os.readlink(f"{copy}/pg_tblspc/{name}") for name in os.listdir(f"{copy}/pg_tblspc")} == links
    after = controlled(cluster, copy)
    assert after["Database cluster state"] == "shut down"
    same = (
        "Database system identifier",
        "wal_level setting",
        "max_prepared_xacts setting",
        "track_commit_timestamp setting",
    )
    assert [after[name] for name in same] == [before[name] for name in same]
    assert not os.path.exists(f"{copy}/postmaster.pid")
    assert len([name for name in os.listdir(f"{copy}/pg_wal") if len(name) == 24]) <= 3
    assert os.listdir(f"{copy}/pg_replslot") == ["reader"]
    assert os.listdir(f"{runtime}/tmp") == []

    for name, target in links.items():
        os.unlink(f"{copy}/pg_tblspc/{name}")
        os.symlink(f"{runtime}/copy/{os.path.basename(target)}", f"{copy}/pg_tblspc/{name}")
    cluster.run("pg_checksums", "--check", "-D", copy)
    with open(f"{copy}/postgresql.conf", "a") as file:
        file.write("max_logical_replication_workers = 0\n")
    other = Cluster.existing(copy, f"{runtime}/pg", 55460)
    try:
        assert other.sql("SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM away_kept)") == [(1000, 1000)]
        assert other.sql("SELECT gid FROM pg_prepared_xacts") == [("in doubt",)]
    finally:
        other.end()
    told = Path(f"{other.runtime}/log").read_text()
    assert "shut down at" in told and "redo starts" not in told and "not properly shut down" not in told


def cut(side: Any, cluster: Cluster, runtime: str, *statements: str) -> EventVolume:
    """A copy that has something to recover, taken by a writer that is now at post-snapshot."""
    os.chmod(runtime, 0o755)
    prepare(side, cluster)
    for statement in statements:
        cluster.sql(statement)
    side.ok(E.FREEZE)
    volume = copied_cluster(cluster, Path(runtime, "copy"))
    side.ok(E.THAW)
    return volume


def failed_recovery(side: Any, cluster: Cluster, volume: EventVolume, **fields: Any) -> str:
    """What the writer says of a copy that it could not recover; the copy is as it was, or begins again."""
    answer = side.ask(E.POST_SNAPSHOT, components=chosen(cluster), volumes=[volume], context=ROLLBACK, **fields)
    assert (answer.code, answer.veto) == (Code.VSS_E_WRITERERROR_RECOVERY_FAILED, False)
    (component,) = answer.components
    assert component.post_snapshot_failure_message == component.failure.message == answer.message
    state = controlled(cluster, f"{volume.recovery_path}/main")["Database cluster state"]
    assert state in ("in production", "in crash recovery")
    return str(answer.message)


def test_only_the_copies_that_shall_recover_do(side: Any, cluster: Cluster, runtime: str) -> None:
    volume = cut(side, cluster, runtime, "SELECT 1")
    (component,) = side.ok(E.POST_SNAPSHOT, components=chosen(cluster), volumes=[volume]).components
    assert "copy" not in json.loads(component.backup_metadata) and component.backup_stamp
    assert os.path.exists(f"{runtime}/copy/main/postmaster.pid")


def test_a_tablespace_that_the_log_would_make_again_is_refused(side: Any, cluster: Cluster, runtime: str) -> None:
    """Replayed, it would be linked to the live directory, and all that follows written there."""
    late = f"{os.path.dirname(cluster.data)}/away/within"
    os.mkdir(late)
    shutil.chown(late, "postgres", "postgres")
    made = f"CREATE TABLESPACE within LOCATION '{late}'"
    volume = cut(side, cluster, runtime, made, "DROP TABLESPACE within")
    assert f'"{late}" was made after the last checkpoint' in failed_recovery(side, cluster, volume)
    assert os.listdir(late) == []
    os.rmdir(late)


def test_a_link_inside_the_copy_is_not_followed(side: Any, cluster: Cluster, runtime: str) -> None:
    volume = cut(side, cluster, runtime, "SELECT 1")
    os.symlink(f"{cluster.data}/base/1", f"{runtime}/copy/main/base/99999")
    assert "base/99999 in the copy is a link" in failed_recovery(side, cluster, volume)


@pytest.fixture
def slow_side(processes: Any, coordinator: Any, cluster: Cluster, runtime: str, tmp_path: Path, temporary: str) -> Any:
    """A writer whose server in the copy does not come to an end; its process is told in ``copy/pid``."""
    slow = Path(runtime, "slow")
    slow.mkdir()
    for name in ("pg_controldata", "pg_waldump"):
        (slow / name).symlink_to(f"{binaries()}/{name}")
    (slow / "postgres").write_text(f"#!/bin/sh\necho $$ > {runtime}/copy/pid.new\n"
                                   f"mv {runtime}/copy/pid.new {runtime}/copy/pid\nexec sleep 1000\n")  # fmt: skip
    (slow / "postgres").chmod(0o755)
    config = writer_config(str(tmp_path / "slow.toml"), cluster, more=f'bin_directory = "{slow}"\n')
    process = processes.start("-m", MAIN, "--config", config, TMPDIR=temporary)
    found = coordinator.writer()
    found.process = process
    return found


def wait_for_end(pid: int) -> None:
    """A process that has ended may wait for its parent."""
    end = time.monotonic() + 60
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            assert time.monotonic() < end, "it runs on"
            time.sleep(0.05)


def test_a_recovery_that_takes_too_long_is_ended(slow_side: Any, cluster: Cluster, runtime: str) -> None:
    volume = cut(slow_side, cluster, runtime, "SELECT 1")
    os.chmod(volume.recovery_path, 0o777)
    assert "does not recover in time" in failed_recovery(slow_side, cluster, volume, deadline_ms=8_000)
    wait_for_end(int(Path(runtime, "copy/pid").read_text()))


def test_a_killed_writer_takes_its_server_along(slow_side: Any, cluster: Cluster, runtime: str) -> None:
    volume = cut(slow_side, cluster, runtime, "SELECT 1")
    os.chmod(volume.recovery_path, 0o777)
    slow_side.post(E.POST_SNAPSHOT, components=chosen(cluster), volumes=[volume], context=ROLLBACK)
    end = time.monotonic() + 60
    while not os.path.exists(f"{runtime}/copy/pid"):
        assert time.monotonic() < end, "the server is not started"
        time.sleep(0.05)
    slow_side.process.kill()
    wait_for_end(int(Path(runtime, "copy/pid").read_text()))


def test_backup_mode_and_recovery_in_every_copy_go_together(
    processes: Any, coordinator: Any, cluster: Cluster, runtime: str, tmp_path: Path
) -> None:
    config = writer_config(str(tmp_path / "all.toml"), cluster, more='backup_mode = true\nrecover_copies = "all"\n')
    lines = Path(config).read_text().splitlines(keepends=True)
    Path(config).write_text("".join(line for line in lines if not line.startswith("restore_command")))
    processes.start("-m", MAIN, "--config", config)
    side = coordinator.writer()
    volume = cut(side, cluster, runtime, "CREATE TABLE kept AS SELECT generate_series(1, 10) x")
    try:
        (component,) = side.ok(E.POST_SNAPSHOT, components=chosen(cluster), volumes=[volume]).components
        facts = json.loads(component.backup_metadata)
        assert (facts["method"], facts["copy"]) == ("backup mode", "recovered")
        copy = f"{runtime}/copy/main"
        assert controlled(cluster, copy)["Database cluster state"] == "shut down"
        assert not os.path.exists(f"{copy}/backup_label")
    finally:
        cluster.sql("DROP TABLE kept")


def test_another_cluster_in_its_place_is_noticed(side: Any, cluster: Cluster) -> None:
    wanted = chosen(cluster, selected_for_restore=True, backup_metadata='{"system": "17"}')
    side.ok(E.PRE_RESTORE, components=wanted, deadline_ms=120_000)
    wanted[0].file_restore_status = FileRestoreStatus.ALL
    answer = side.ask(E.POST_RESTORE, components=wanted, deadline_ms=120_000)
    assert answer.code == Code.VSS_E_WRITERERROR_RECOVERY_FAILED
    assert "another cluster" in answer.message


def test_a_page_that_is_not_what_was_written_is_found(side: Any, cluster: Cluster) -> None:
    cluster.sql("CREATE TABLE spoiled AS SELECT generate_series(1, 1000) x")
    ((file,),) = cluster.sql("SELECT pg_relation_filepath('spoiled')")
    wanted = chosen(cluster, selected_for_restore=True)
    side.ok(E.PRE_RESTORE, components=wanted, deadline_ms=120_000)
    with open(f"{cluster.data}/{file}", "r+b") as table:
        table.seek(8192 + 100)
        table.write(b"\xff" * 16)
    wanted[0].file_restore_status = FileRestoreStatus.ALL
    answer = side.ask(E.POST_RESTORE, components=wanted, deadline_ms=120_000)
    assert answer.code == Code.VSS_E_WRITERERROR_RECOVERY_FAILED
    assert "the database postgres is not sound: invalid page in block 1 " in answer.message
    cluster.sql("DROP TABLE spoiled")
    assert cluster.sql("SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'") == [(0,)]


def test_every_page_is_read_after_a_restore(processes: Any, coordinator: Any, cluster: Cluster, tmp_path: Path) -> None:
    """amcheck knows tables and B-trees; a page of another index is found by its checksum."""
    config = writer_config(str(tmp_path / "checksums.toml"), cluster, more="checksums = true\n")
    processes.start("-m", MAIN, "--config", config)
    side = coordinator.writer()
    cluster.sql("CREATE TABLE hashed AS SELECT generate_series(1, 1000) x; CREATE INDEX h ON hashed USING hash (x)")
    ((file,),) = cluster.sql("SELECT pg_relation_filepath('h')")
    wanted = chosen(cluster, selected_for_restore=True, file_restore_status=FileRestoreStatus.ALL)
    side.ok(E.PRE_RESTORE, components=wanted, deadline_ms=120_000)
    (component,) = side.ok(E.POST_RESTORE, components=wanted, deadline_ms=120_000).components
    assert json.loads(component.restore_metadata) == {
        "amcheck": ["postgres", "template1"], "not checked": [], "checksums": "every page",
    }  # fmt: skip

    side.ok(E.PRE_RESTORE, components=wanted, deadline_ms=120_000)
    with open(f"{cluster.data}/{file}", "r+b") as index:
        index.seek(8192 + 4000)
        index.write(b"\xff" * 16)
    answer = side.ask(E.POST_RESTORE, components=wanted, deadline_ms=120_000)
    assert answer.code == Code.VSS_E_WRITERERROR_RECOVERY_FAILED
    assert "pages are not what was written" in answer.message and file in answer.message
    assert server_process(cluster.data) == 0, "it is not put to work"
    cluster.begin()
    cluster.sql("DROP TABLE hashed")


@pytest.fixture
def archiving(cluster: Cluster) -> Iterator[ArchivingServer]:
    """A session of a role with no more rights than the manual says."""
    cluster.sql("CREATE ROLE backup LOGIN")
    cluster.sql("GRANT pg_checkpoint, pg_read_all_settings TO backup")
    server = ArchivingServer(cluster.connection.replace("user=postgres", "user=backup"))
    try:
        yield server
    finally:
        server.close()
        cluster.sql("DROP OWNED BY backup; DROP ROLE backup")


GRANT_LOG = "GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal() TO backup"


def test_the_log_ends_for_a_role_that_may_only_that(archiving: ArchivingServer, cluster: Cluster) -> None:
    with pytest.raises(VssError, match="give the writer's role what it lacks"):
        archiving.finish_segment(30, lambda: False)
    cluster.sql(GRANT_LOG)
    end = archiving.finish_segment(60, lambda: False)
    archive = f"{cluster.runtime}/archive"
    assert os.path.getsize(f"{archive}/{end.segment}") == end.segment_size == 16 << 20
    assert segments_since(archive, cluster.data, end.position, end) == [end.segment]


def test_a_log_that_is_not_archived_is_told(archiving: ArchivingServer, cluster: Cluster) -> None:
    cluster.sql(GRANT_LOG)
    cluster.sql("ALTER SYSTEM SET archive_command = 'false'")
    cluster.sql("SELECT pg_reload_conf()")
    try:
        with pytest.raises(VssError, match=r"did not archive [0-9A-F]{24} in time") as caught:
            archiving.finish_segment(1, lambda: False)
        assert caught.value.code == Code.VSS_E_WRITERERROR_RETRYABLE
    finally:
        cluster.sql("ALTER SYSTEM RESET archive_command")
        cluster.sql("SELECT pg_reload_conf()")


def test_a_log_backup_without_an_archive_fails_its_component(side: Any, cluster: Cluster) -> None:
    log = {"backup_type": BackupType.LOG, "components": chosen(cluster, previous_backup_stamp="0/1 timeline 1")}
    side.ok(E.PREPARE_BACKUP, **log)
    side.ok(E.PREPARE_SNAPSHOT, **log)
    side.ok(E.FREEZE)
    side.ok(E.THAW)
    answer = side.ask(E.POST_SNAPSHOT, **log)
    assert answer.code == Code.VSS_E_WRITERERROR_NONRETRYABLE and "archive_directory; add it" in answer.message
    assert answer.components[0].failure.message == answer.message
    assert sessions(cluster) == []


def test_files_tell_running_from_stale(tmp_path: Path) -> None:
    for directory in ("pg_wal", "pg_tblspc", "elsewhere"):
        (tmp_path / directory).mkdir()
    with pytest.raises(VssError, match="no PostgreSQL cluster"):
        directories(str(tmp_path))
    (tmp_path / "PG_VERSION").write_text("15\n")
    (tmp_path / "pg_tblspc" / "16385").symlink_to(tmp_path / "elsewhere")
    assert directories(str(tmp_path)) == [str(tmp_path), str(tmp_path / "elsewhere")]
    assert server_process(str(tmp_path)) == 0
    for text in ("", "not a number\n", f"{os.getpid()}\n", "0\n", "-1\n"):
        (tmp_path / "postmaster.pid").write_text(text)
        assert server_process(str(tmp_path)) == 0  # this process lives, and its directory is another one


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[cluster]]\n", "neither connection nor data_directory"),
        ('[[cluster]]\ndata_directory = "relative"\n', "absolute"),
        ('[[cluster]]\nconnection = "x"\nstop_command = ["y"]\n', "add data_directory"),
        ('[[cluster]]\ndata_directory = "/x"\nstart_command = ["y"]\n', "add connection"),
        ('[[cluster]]\nconnection = "x"\nrestore_command = "y"\nrecover_copies = "all"\n', "no log can be rolled"),
        ('[[cluster]]\nconnection = "x"\nchecksums = true\n', "add stop_command and start_command"),
        ('[[cluster]]\nconnection = "x"\nrecover_copies = "some"\n', "Invalid enum value"),
        ('[[cluster]]\nconnection = "host=x password = secret"\n', "put it into ~/.pgpass"),
        ('[[cluster]]\nconnection = "postgresql://ada:secret@x/y"\n', "put it into ~/.pgpass"),
        ("clusters = 1\n", "unknown field"),
        ("[[", "cannot be used"),
    ],
)
def test_a_wrong_configuration_is_told(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(VssError, match=problem) as caught:
        read_settings(str(path), Settings)
    assert str(path) in caught.value.message


def test_no_password_is_taken_from_a_command_line(processes: Any) -> None:
    done = processes.run("-m", "shadowset.writers.postgresql.main", "host=/x", "host=/x password=secret")
    assert done.returncode == 1
    assert "the connection 2 has a password" in done.stderr and "secret" not in done.stderr
    assert not ClusterSettings(connection="host=/x passfile=/etc/shadowset/pgpass").problem()


def test_running_servers_are_found_by_their_sockets(cluster: Cluster) -> None:
    assert [each.connection for each in discover(cluster.runtime)] == [
        f"host={cluster.runtime} port={cluster.port} dbname=postgres"
    ]
    assert discover("/proc/none") == []
