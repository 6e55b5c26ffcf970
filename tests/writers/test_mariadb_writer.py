"""The MariaDB writer as a process, event by event, with a real server on a plain directory."""

from __future__ import annotations

import hashlib
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

pytest.importorskip("pymysql", reason="not installed: PyMySQL")

from mariadb_server import MariaDb, installed, writer_config
from mariadb_trials import check_long_statement, check_restore, chosen, freeze

from shadowset.vss.codes import Code, VssError
from shadowset.vss.enums import Level, WriterEvent
from shadowset.vss.writer_protocol import EventVolume
from shadowset.writers.mariadb.files import MARIADB_WRITER_ID, linked_files, require_whole, server_process
from shadowset.writers.mariadb.server import release_of
from shadowset.writers.mariadb.settings import Settings, discover
from shadowset.writers.server_settings import read_settings

E = WriterEvent
MAIN = "shadowset.writers.mariadb.main"
RIGHTS = "RELOAD, PROCESS, BINLOG MONITOR, SELECT"  # those of the page


@pytest.fixture(scope="module")
def only_server() -> Iterator[MariaDb]:
    if os.geteuid():
        pytest.skip("needs root, to run the server as its owner")
    if not installed():
        pytest.skip("not installed: mariadb-server-core")
    top = tempfile.mkdtemp(prefix="ss-my-", dir="/tmp")
    os.chmod(top, 0o755)
    made = None
    try:
        made = MariaDb(f"{top}/data", f"{top}/run", binary_log=f"{top}/logs/binary")
        made.fill()
        made.sql("CREATE USER backup@localhost", f"GRANT {RIGHTS} ON *.* TO backup@localhost")
        yield made
    finally:
        if made is not None:
            made.end()
        shutil.rmtree(top, ignore_errors=True)


@pytest.fixture
def server(only_server: MariaDb) -> MariaDb:
    """The same for all tests: it takes longer to make than they take to run."""
    if not server_process(only_server.data):
        only_server.begin()
    return only_server


@pytest.fixture
def side(server: MariaDb, processes: Any, coordinator: Any, tmp_path: Path, request: Any) -> Any:
    """Held by backup stages, or, where a test wants both, by the global read lock, as a MySQL server is."""
    more = f"read_lock = {str(getattr(request, 'param', False)).lower()}\n"
    config = Path(writer_config(str(tmp_path / "mariadb.toml"), server, more))
    config.write_text(config.read_text().replace('user = "root"', 'user = "backup"'))
    process = processes.start("-m", MAIN, "--config", str(config))
    found = coordinator.writer()
    found.process = process
    return found


class Clients:
    """One thread for each table, each adding a row at a time."""

    def __init__(self, server: MariaDb) -> None:
        self.done = [0, 0, 0]
        self.longest = 0.0
        self._stop = False
        self._server = server
        self._threads = [
            threading.Thread(target=self._work, args=(number, name))
            for number, name in enumerate(("money", "notes", "marks"))
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, number: int, table: str) -> None:
        with self._server.connect(database="bank") as connection, connection.cursor() as cursor:
            while not self._stop:
                started = time.monotonic()
                cursor.execute(f"INSERT INTO {table} (x) VALUES ({self.done[number]})")
                self.done[number] += 1
                self.longest = max(self.longest, time.monotonic() - started)

    def wait_for_commits(self, number: int = 5) -> None:
        before, end = list(self.done), time.monotonic() + 30
        while any(done < was + number for done, was in zip(self.done, before, strict=True)):
            assert time.monotonic() < end, f"the clients stand still: {self.done}"
            time.sleep(0.01)

    def end(self) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join(60)


@pytest.fixture
def clients(server: MariaDb) -> Iterator[Clients]:
    running = Clients(server)
    running.wait_for_commits()
    yield running
    running.end()


def tables(server: MariaDb) -> dict[str, str]:
    """The files of the tables that have no log of their own, and the binary log."""
    paths = [path for pattern in ("*.MY*", "*.MA*") for path in Path(f"{server.data}/bank").glob(pattern)]
    paths += list(Path(os.path.dirname(server.binary_log)).glob("binary.0*"))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_the_document_names_every_place(side: Any, server: MariaDb) -> None:
    document = side.ok(E.IDENTIFY).metadata
    (component,) = document.components
    assert (side.hello.writer_id, side.hello.level) == (MARIADB_WRITER_ID, Level.BACK_END)
    assert [(files.path, files.filespec, files.recursive) for files in component.files] == [
        (server.data, "*", True),
        (os.path.dirname(server.binary_log), "binary.*", False),
    ]


@pytest.mark.parametrize("side", [False, True], indirect=True, ids=["stages", "lock"])
def test_frozen_means_frozen_and_nobody_fails(side: Any, server: MariaDb, clients: Clients, request: Any) -> None:
    freeze(side, server)
    before, done = tables(server), list(clients.done)
    time.sleep(0.5)
    assert tables(server) == before
    assert [now - was for now, was in zip(clients.done, done, strict=True)] == [0, 0, 0]
    assert server.sql("SELECT count(*) FROM bank.money")[0][0] > 0  # reading goes on
    side.ok(E.THAW)
    clients.wait_for_commits()
    (component,) = side.ok(E.POST_SNAPSHOT, components=chosen(server)).components
    method = "global read lock" if request.node.callspec.params["side"] else "backup stages"
    assert f'"method": "{method}"' in component.backup_metadata
    assert component.backup_stamp.startswith("binary.0")
    clients.end()
    assert clients.longest > 0.4


@pytest.mark.parametrize("side", [False, True], indirect=True, ids=["stages", "lock"])
def test_a_killed_writer_holds_nobody_up(side: Any, server: MariaDb, clients: Clients) -> None:
    freeze(side, server)
    os.kill(side.process.pid, signal.SIGKILL)
    clients.wait_for_commits()


@pytest.mark.parametrize("side", [False, True], indirect=True, ids=["stages", "lock"])
def test_a_stopped_writer_is_given_up_by_the_server(side: Any, server: MariaDb, clients: Clients) -> None:
    freeze(side, server, deadline_ms=2000)
    os.kill(side.process.pid, signal.SIGSTOP)
    try:
        clients.wait_for_commits()  # the server's own clock has ended the session
    finally:
        os.kill(side.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("side", [False, True], indirect=True, ids=["stages", "lock"])
def test_a_session_that_was_lost_is_told(side: Any, server: MariaDb) -> None:
    freeze(side, server)
    holders = server.sql("SELECT id FROM information_schema.processlist WHERE user = 'backup'")
    for (number,) in holders:
        server.sql(f"KILL {number}")
    answer = side.ask(E.THAW)
    assert answer.code == Code.VSS_E_WRITERERROR_RETRYABLE
    assert "lost amid the creation" in answer.message


@pytest.mark.parametrize("side", [False, True], indirect=True, ids=["stages", "lock"])
def test_a_long_statement_makes_the_freeze_fail_in_time(side: Any, server: MariaDb) -> None:
    check_long_statement(side, server)


def test_a_place_outside_the_set_is_named(side: Any, server: MariaDb) -> None:
    volumes = [EventVolume(name="data", mount_points=[server.data])]
    side.ok(E.PREPARE_BACKUP, components=chosen(server), volumes=volumes)
    answer = side.ask(E.PREPARE_SNAPSHOT, volumes=volumes)
    assert answer.code == Code.VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT
    assert "/logs lies on no volume" in answer.message
    side.ok(E.ABORT)


def test_a_destroyed_server_comes_back_checked(side: Any, server: MariaDb, tmp_path: Path) -> None:
    check_restore(side, server, str(tmp_path / "cut"))


def test_releases_are_told_apart() -> None:
    versions = ("8.4.2", "8.0.36-log", "10.11.6-MariaDB-0+deb12u1-log", "nonsense")
    assert [release_of(version) for version in versions] == [(8, 4), (8, 0), (10, 11), (0, 0)]


def test_files_tell_what_belongs_to_the_server(tmp_path: Path) -> None:
    with pytest.raises(VssError, match="no data directory"):
        require_whole(str(tmp_path))
    (tmp_path / "ibdata1").touch()
    with pytest.raises(VssError, match="lies elsewhere"):
        require_whole(str(tmp_path))
    (tmp_path / "ib_logfile0").touch()
    require_whole(str(tmp_path))
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "far.isl").write_text("/far/bank/far.ibd\n")
    (tmp_path / "bank" / "notes.MYD").symlink_to("/far/notes.MYD")
    (tmp_path / "shop").symlink_to("/far/shop")
    assert linked_files(str(tmp_path)) == [
        ("/far/shop", "*", True),
        ("/far/bank", "far.ibd", False),
        ("/far", "notes.MYD", False),
    ]
    assert server_process(str(tmp_path)) == 0
    assert discover(str(tmp_path / "none")) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[server]]\n", "neither socket nor data_directory"),
        ('[[server]]\nsocket = "x"\nstop_command = ["y"]\n', "add data_directory"),
        ('[[server]]\ndata_directory = "/x"\nstart_command = ["y"]\n', "add socket"),
        ('[[server]]\npassword = "x"\n', "unknown field"),
    ],
)
def test_a_wrong_configuration_is_told(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(VssError, match=problem):
        read_settings(str(path), Settings)
