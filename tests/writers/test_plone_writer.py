"""The Plone writer as a process, event by event, with tables such as RelStorage's in a real PostgreSQL server.

The farm itself, with Zope and requests, is in tests/chain/test_plone_farm.py.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="not installed: psycopg")

import psycopg
from postgresql_server import Cluster, binaries

from shadowset.vss.codes import Code
from shadowset.vss.components import Component, RestoreSubcomponent
from shadowset.vss.enums import ComponentType, FileRestoreStatus, Level, WriterEvent
from shadowset.vss.writer_protocol import EventVolume
from shadowset.writers.mariadb.files import MARIADB_WRITER_ID
from shadowset.writers.naming import component_identity
from shadowset.writers.plone.blobs import blob_path
from shadowset.writers.postgresql.files import POSTGRESQL_WRITER_ID

E = WriterEvent
MAIN = "shadowset.writers.plone.main"
FARM = [Component(ComponentType.FILEGROUP, "", "Farm")]
COMMIT = "SELECT pg_advisory_xact_lock(-1)"
TABLES = "CREATE TABLE object_state (zoid BIGINT PRIMARY KEY, tid BIGINT, state BYTEA)"
BLOB = "\\x80" + b"cZODB.blob\nBlob\nq".hex()


class Farm:
    """Two databases of Zope's in one cluster, with their register."""

    def __init__(self, cluster: Cluster, top: str) -> None:
        self.cluster, self.top = cluster, top
        self.blobs, self.config = f"{top}/blobs", ""
        cluster.sql("CREATE ROLE farm LOGIN")  # with the rights of the page
        for name in ("main", "c1"):
            cluster.sql(f"CREATE DATABASE plone_{name}")
            cluster.sql(TABLES, f"plone_{name}")
            cluster.sql("GRANT SELECT ON object_state TO farm", f"plone_{name}")
            cluster.sql("INSERT INTO object_state VALUES (0, 100, NULL)", f"plone_{name}")
        cluster.sql("CREATE DATABASE farm_config OWNER farm")
        os.makedirs(self.blobs)
        self.add_blob(7, 100)

    def add_blob(self, zoid: int, tid: int) -> None:
        self.cluster.sql(f"INSERT INTO object_state VALUES ({zoid}, {tid}, '{BLOB}')", "plone_c1")
        path = blob_path(self.blobs, zoid, tid)
        os.makedirs(os.path.dirname(path))
        Path(path).write_bytes(b"blob")

    def sql(self, statement: str) -> Any:
        return self.cluster.sql(statement, "farm_config")

    def register(self) -> None:
        place = f"'postgresql', '{self.cluster.data}'"
        self.sql(
            "INSERT INTO farm_databases (name, role, engine, location, database, mount_point, blobs) VALUES"
            f" ('main', 'config', {place}, 'plone_main', '/', ''),"
            f" ('register', 'config', {place}, 'farm_config', '', ''),"
            f" ('c1', 'content', {place}, 'plone_c1', '/dept1', '{self.blobs}')"
        )
        self.sql("INSERT INTO farm_databases (name, role, engine, location, host) VALUES"
                 " ('bills', 'third-party', 'mariadb', '/var/lib/mysql', 'db7')")  # fmt: skip
        self.sql("INSERT INTO farm_sites VALUES ('/dept1/site', 'c1', 1), ('/dept1/gone', 'c1', 5)")


class Site(http.server.BaseHTTPRequestHandler):
    """An application with one site."""

    def do_GET(self) -> None:
        found = self.path.startswith("/dept1/site/@search")
        body = json.dumps({"items_total": 3}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        return


@pytest.fixture(scope="module")
def whole_farm() -> Iterator[Farm]:
    if os.geteuid():
        pytest.skip("needs root, to run the server as its owner")
    if not binaries():
        pytest.skip("not installed: postgresql")
    top = tempfile.mkdtemp(prefix="ss-plone-", dir="/tmp")
    os.chmod(top, 0o755)
    cluster = None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        cluster = Cluster(f"{top}/main", f"{top}/run", 55433)
        farm = Farm(cluster, top)
        farm.config = config_file(farm, server.server_address[1])
        yield farm
    finally:
        server.shutdown()
        server.server_close()
        if cluster is not None:
            cluster.end()
        shutil.rmtree(top, ignore_errors=True)


def config_file(farm: Farm, port: int) -> str:
    connection = farm.cluster.connection.replace("user=postgres dbname=postgres", "user=farm dbname=farm_config")
    Path(f"{farm.top}/plone.toml").write_text(
        f'command_seconds = 5\n[farm]\nconnection = "{connection}"\nurl = "http://127.0.0.1:{port}"\n'
        f'stop_command = ["touch", "{farm.top}/stopped"]\nstart_command = ["rm", "{farm.top}/stopped"]\n'
    )
    return f"{farm.top}/plone.toml"


@pytest.fixture
def farm(whole_farm: Farm, processes: Any) -> Farm:
    if not whole_farm.sql("SELECT to_regclass('farm_databases')")[0][0]:
        for _ in range(2):  # what is there already is left as it is
            assert processes.run("-m", MAIN, "--config", whole_farm.config, "--create-register").returncode == 0
        whole_farm.register()
    return whole_farm


@pytest.fixture
def side(farm: Farm, processes: Any, coordinator: Any) -> Any:
    process = processes.start("-m", MAIN, "--config", farm.config)
    found = coordinator.writer()
    found.process = process
    return found


def freeze(side: Any, **fields: Any) -> None:
    side.ok(E.PREPARE_BACKUP, components=FARM)
    side.ok(E.PREPARE_SNAPSHOT, components=FARM, **fields)
    side.ok(E.FREEZE, level=Level.FRONT_END, **fields)


def commits(farm: Farm, database: str = "plone_c1", milliseconds: int = 300) -> bool:
    """Whether a commit as RelStorage's gets its lock in this time."""
    with psycopg.connect(farm.cluster.connection, dbname=database) as session:
        session.execute(f"SET lock_timeout = {milliseconds}")
        try:
            session.execute(COMMIT)
        except psycopg.errors.LockNotAvailable:
            return False
        return True


def wait_for_commits(farm: Farm) -> None:
    assert commits(farm, milliseconds=30_000) and commits(farm, "plone_main", 30_000)


def backed_up(side: Any) -> list[Component]:
    freeze(side)
    side.ok(E.THAW)
    found: list[Component] = side.ok(E.POST_SNAPSHOT, components=FARM).components
    return found


def test_the_document_depends_on_the_databases_writers(side: Any, farm: Farm) -> None:
    metadata = side.ok(E.IDENTIFY).metadata
    paths = {component.full_path: component for component in metadata.components}
    assert set(paths) == {
        "Farm",
        "Farm\\Config\\main",
        "Farm\\Config\\register",
        "Farm\\Content\\c1",
        "Farm\\ThirdParty\\bills",
    }
    assert {path for path, each in paths.items() if each.selectable} == {"Farm", "Farm\\Content\\c1"}
    (content,) = paths["Farm\\Content\\c1"].dependencies
    directory, name = component_identity(farm.cluster.data)
    assert (content.writer_id, content.logical_path, content.component_name) == (
        POSTGRESQL_WRITER_ID, f"{directory}\\{name}", "plone_c1",
    )  # fmt: skip
    (remote,) = paths["Farm\\ThirdParty\\bills"].dependencies
    assert (remote.writer_id, remote.logical_path) == (MARIADB_WRITER_ID, "\\\\db7\\var\\lib")
    assert len(paths["Farm"].dependencies) == 4


def test_frozen_commits_wait_and_administration_is_refused(side: Any, farm: Farm) -> None:
    side.ok(E.PREPARE_BACKUP, components=FARM)
    side.ok(E.PREPARE_SNAPSHOT, components=FARM)
    with pytest.raises(psycopg.Error, match="the farm is being copied, so its administration is closed"):
        farm.sql("INSERT INTO farm_stores VALUES ('x', '/x')")
    assert farm.cluster.sql("SELECT pg_try_advisory_lock(-2)", "plone_c1") == [(False,)], "no packing"
    assert commits(farm)
    side.ok(E.FREEZE, level=Level.FRONT_END)
    assert not commits(farm) and not commits(farm, "plone_main")
    side.ok(E.THAW)
    wait_for_commits(farm)
    (component,) = side.ok(E.POST_SNAPSHOT, components=FARM).components
    assert json.loads(component.backup_metadata)["tids"] == {"main": 100, "c1": 100}
    done = Component(ComponentType.FILEGROUP, "", "Farm", backup_succeeded=True, backup_stamp=component.backup_stamp)
    side.ok(E.BACKUP_COMPLETE, components=[done])
    assert farm.sql("SELECT value FROM farm_meta WHERE key = 'last_backup'") == [(component.backup_stamp,)]


def test_a_transaction_over_two_databases_is_not_deadlocked(side: Any, farm: Farm) -> None:
    """It has one lock and wants the other; the writer, which may have that one, gives way."""
    side.ok(E.PREPARE_BACKUP, components=FARM)
    side.ok(E.PREPARE_SNAPSHOT, components=FARM)
    with (
        psycopg.connect(farm.cluster.connection, dbname="plone_main") as one,
        psycopg.connect(farm.cluster.connection, dbname="plone_c1") as other,
    ):
        one.execute(COMMIT)
        waiting = side.post(E.FREEZE, level=Level.FRONT_END)
        time.sleep(0.2)
        other.execute(COMMIT)
        assert side.replies.empty()
        other.commit()
        one.commit()
        answer = side.reply(waiting)
    assert (answer.code, answer.veto) == (0, False), answer.message
    side.ok(E.THAW)


def test_commits_that_do_not_end_fail_the_freeze(side: Any, farm: Farm) -> None:
    side.ok(E.PREPARE_BACKUP, components=FARM)
    side.ok(E.PREPARE_SNAPSHOT, components=FARM)
    with psycopg.connect(farm.cluster.connection, dbname="plone_main") as one:
        one.execute(COMMIT)
        answer = side.ask(E.FREEZE, level=Level.FRONT_END, deadline_ms=3000)
    assert (answer.veto, answer.code) == (True, Code.VSS_E_WRITERERROR_RETRYABLE)
    assert "commits did not come to rest" in answer.message
    side.ok(E.ABORT)
    wait_for_commits(farm)


def test_a_pack_under_way_is_told(side: Any, farm: Farm) -> None:
    with psycopg.connect(farm.cluster.connection, dbname="plone_c1") as packer:
        packer.execute("SELECT pg_advisory_lock(-2)")
        answer = side.ask(E.PREPARE_SNAPSHOT, components=FARM)
    assert answer.veto and "plone_c1 is being packed" in answer.message


@pytest.mark.parametrize("end", ["kill", "hang", "abort"])
def test_the_hold_ends_with_the_writer(side: Any, farm: Farm, end: str) -> None:
    freeze(side, deadline_ms=4000)
    assert not commits(farm)
    if end == "abort":
        side.ok(E.ABORT)
    else:
        side.process.send_signal(signal.SIGKILL if end == "kill" else signal.SIGSTOP)
    wait_for_commits(farm)
    if end == "hang":
        side.process.send_signal(signal.SIGCONT)
        answer = side.ask(E.THAW)
        assert answer.code, "a hold that did not last is told"


def test_a_volume_outside_the_set_is_named(side: Any, farm: Farm) -> None:
    volumes = [EventVolume("db", [farm.cluster.data])]
    answer = side.ask(E.PREPARE_SNAPSHOT, components=FARM, volumes=volumes)
    assert (answer.code, answer.veto) == (Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT, False)
    assert farm.blobs in answer.message and farm.cluster.data not in answer.message


def selected(component: Component, *members: str) -> list[Component]:
    parts = [RestoreSubcomponent("Farm\\Content", member) for member in members]
    return [
        Component(component.type, component.logical_path, component.name, backup_metadata=component.backup_metadata,
                  selected_for_restore=True, file_restore_status=FileRestoreStatus.ALL, restore_subcomponents=parts)
    ]  # fmt: skip


def test_a_farm_is_taken_back_only_when_it_agrees(side: Any, farm: Farm) -> None:
    (component,) = backed_up(side)
    wanted = selected(component)
    side.ok(E.PRE_RESTORE, components=wanted)
    assert os.path.exists(f"{farm.top}/stopped")
    side.ok(E.POST_RESTORE, components=wanted)
    assert not os.path.exists(f"{farm.top}/stopped")
    assert farm.sql("SELECT path, documents FROM farm_sites") == [("/dept1/site", 3)]

    side.ok(E.PRE_RESTORE, components=wanted)
    blob = blob_path(farm.blobs, 7, 100)
    os.rename(blob, f"{blob}.away")
    farm.cluster.sql("UPDATE object_state SET tid = 99 WHERE zoid = 0", "plone_main")
    answer = side.ask(E.POST_RESTORE, components=wanted)
    os.rename(f"{blob}.away", blob)
    farm.cluster.sql("UPDATE object_state SET tid = 100 WHERE zoid = 0", "plone_main")
    assert answer.code == Code.VSS_E_WRITERERROR_RECOVERY_FAILED
    assert f"1 blobs of c1 are missing: {blob}" in answer.message
    assert "the last transaction of main is 99, and was 100" in answer.message
    assert os.path.exists(f"{farm.top}/stopped"), "a farm that does not agree is not started"


def test_a_content_database_alone_is_waited_for(side: Any, farm: Farm) -> None:
    (component,) = backed_up(side)
    wanted = selected(component, "c1")
    side.ok(E.PRE_RESTORE, components=wanted)
    assert farm.sql("SELECT name, state FROM farm_databases WHERE state <> 'attached'") == [("c1", "detached")]
    answer = side.ask(E.POST_RESTORE, components=wanted)
    assert "the database plone_c1 is still the one that was there before" in answer.message
    assert not os.path.exists(f"{farm.top}/stopped"), "the rest of the farm goes on"

    side.ok(E.PRE_RESTORE, components=wanted)
    waiting = side.post(E.POST_RESTORE, components=wanted)
    farm.cluster.sql("CREATE DATABASE other TEMPLATE plone_c1")
    farm.cluster.sql("DROP DATABASE plone_c1")
    farm.cluster.sql("ALTER DATABASE other RENAME TO plone_c1")
    answer = side.reply(waiting)
    assert (answer.code, answer.veto) == (0, False), answer.message
    assert farm.sql("SELECT count(*) FROM farm_databases WHERE state <> 'attached'") == [(0,)]


def test_a_lost_register_leaves_the_writer_there(side: Any, farm: Farm, processes: Any, coordinator: Any) -> None:
    farm.cluster.end("fast")
    try:
        assert side.ok(E.IDENTIFY).metadata.components == ()
        answer = side.ask(E.PREPARE_SNAPSHOT, components=FARM)
        assert answer.veto and "takes no session" in answer.message
    finally:
        farm.cluster.begin()


def test_a_writer_without_a_farm_says_so(farm: Farm, processes: Any) -> None:
    result = processes.run("-m", MAIN)
    assert result.returncode == 1 and "give a configuration file" in result.stderr
    Path(f"{farm.top}/wrong.toml").write_text('[farm]\nconnection = "x"\nstop_command = ["x"]\n')
    result = processes.run("-m", MAIN, "--config", f"{farm.top}/wrong.toml")
    assert result.returncode == 1 and "give both or none" in result.stderr
