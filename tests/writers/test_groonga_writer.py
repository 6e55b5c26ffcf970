"""The Groonga writer as a process, event by event, with a real server."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from groonga_server import Groonga, installed, writer_config
from load import Load

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentFlag, ComponentType, FileRestoreStatus, Level, WriterEvent
from shadowset.vss.writer_protocol import EventVolume
from shadowset.writers.groonga.files import GROONGA_WRITER_ID
from shadowset.writers.groonga.order import lock_order
from shadowset.writers.groonga.settings import Settings
from shadowset.writers.naming import component_identity
from shadowset.writers.server_settings import read_settings

E = WriterEvent
LOCK_WORD = slice(44, 48)  # of each file's header: clients that wait for the lock count it up and down


@pytest.fixture(scope="module")
def server() -> Iterator[Groonga]:
    """One for all tests, since each start and end takes a second."""
    if not installed():
        pytest.skip("not installed: groonga-bin")
    top = tempfile.mkdtemp(prefix="ss-groonga-", dir="/tmp")
    made = Groonga(f"{top}/db", f"{top}/run")
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(top, ignore_errors=True)


def load(server: Groonga) -> Load:
    return Load("groonga", server.put, list(range(server.found())))


@pytest.fixture
def loader(server: Groonga) -> Iterator[Load]:
    running = load(server)
    running.wait_for_more()
    yield running
    running.stop()


def start(processes: Any, coordinator: Any, server: Groonga, extra: str = "") -> Any:
    config = writer_config(f"{server.runtime}/writer.toml", server, f"settle_ms = 200\n{extra}")
    agrees = f"test ! -e {server.runtime}/apart || {{ echo 1 row more than $SHADOWSET_RECORDS; false; }}"
    with open(config, "a", encoding="utf-8") as file:
        file.write(f"agree_command = {json.dumps(['sh', '-c', agrees])}\n")
    process = processes.start(
        "-m", "shadowset.writers.groonga.main", "--config", config, STATE_DIRECTORY=f"{server.runtime}/records"
    )
    found = coordinator.writer()
    found.process = process
    return found


@pytest.fixture
def side(server: Groonga, processes: Any, coordinator: Any) -> Any:
    return start(processes, coordinator, server)


def chosen(server: Groonga, **fields: Any) -> list[Component]:
    return [Component(ComponentType.FILEGROUP, *component_identity(server.database), **fields)]


def freeze(side: Any, server: Groonga) -> None:
    side.ok(E.PREPARE_BACKUP, components=chosen(server))
    side.ok(E.PREPARE_SNAPSHOT)
    side.ok(E.FREEZE)


def files(server: Groonga) -> dict[str, str]:
    found = {}
    for path in sorted(Path(server.directory).iterdir()):
        content = bytearray(path.read_bytes())
        content[LOCK_WORD] = bytes(4)
        found[path.name] = hashlib.sha256(content).hexdigest()
    return found


def records(server: Groonga) -> list[str]:
    return os.listdir(f"{server.runtime}/records")


def test_a_database_comes_back_as_it_was_at_the_cut(side: Any, server: Groonga, loader: Load, tmp_path: Path) -> None:
    document = side.ok(E.IDENTIFY).metadata
    assert (document.writer_id, side.hello.level) == (GROONGA_WRITER_ID, Level.BACK_END)
    assert document.components[0].flags & ComponentFlag.BACKUP_RECOVERY
    freeze(side, server)
    assert records(server)
    done, before = loader.done, files(server)
    assert server.found() == done + 1  # searching goes on
    time.sleep(0.5)
    assert (loader.done, files(server)) == (done, before)
    copy = tmp_path / "layer" / os.path.relpath(server.directory, "/")
    shutil.copytree(server.directory, copy)
    shutil.copytree(server.directory, tmp_path / "held")
    side.ok(E.THAW)
    loader.wait_for_more()
    layer = [EventVolume(name="/", mount_points=["/"], recovery_path=str(tmp_path / "layer"))]
    (component,) = side.ok(E.POST_SNAPSHOT, components=chosen(server), volumes=layer).components
    assert json.loads(component.backup_metadata)["copy"] == "locks cleared"
    assert f"Docs={done + 1}" in component.backup_stamp and not records(server)
    assert restore(side, server, component, copy).code == 0
    server.end(signal.SIGTERM)
    assert server.check() == set(range(done + 1))
    server.begin()
    loader.done = done
    apart = Path(server.runtime, "apart")
    apart.touch()
    answer = restore(side, server, component, tmp_path / "held")  # a copy that nobody could write into
    assert answer.code == Code.VSS_E_WRITERERROR_RECOVERY_FAILED
    assert f"its database are apart (1 row more than Docs={done + 1} " in answer.message
    apart.unlink()
    component.backup_stamp = "Docs=1"
    answer = side.ask(E.POST_RESTORE, components=[component], deadline_ms=60_000)
    assert "other records" in answer.message


def restore(side: Any, server: Groonga, component: Component, copy: Path) -> Any:
    component.selected_for_restore = True
    component.file_restore_status = FileRestoreStatus.ALL
    side.ok(E.PRE_RESTORE, components=[component], deadline_ms=60_000)
    shutil.rmtree(server.directory)
    shutil.copytree(copy, server.directory)
    return side.ask(E.POST_RESTORE, components=[component], deadline_ms=60_000)


def test_a_copy_without_the_writer_is_not_sound(server: Groonga, loader: Load, tmp_path: Path) -> None:
    shutil.copytree(server.directory, tmp_path / "copy")
    command = ["grndb", "check", str(tmp_path / "copy" / "db")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("phase", [pytest.param(E.PREPARE_SNAPSHOT, marks=pytest.mark.long), E.FREEZE])
def test_a_killed_writer_holds_nobody_up(side: Any, server: Groonga, loader: Load, phase: WriterEvent) -> None:
    side.ok(E.PREPARE_BACKUP, components=chosen(server))
    side.ok(E.PREPARE_SNAPSHOT)
    if phase is E.FREEZE:
        side.ok(E.FREEZE)
    side.process.kill()
    side.process.wait()
    loader.wait_for_more()
    wait_until_no_records(server)
    assert server.ask("thread_limit") == 2


@pytest.mark.long
def test_a_writer_that_hangs_holds_nobody_up(server: Groonga, loader: Load, processes: Any, coordinator: Any) -> None:
    side = start(processes, coordinator, server, "freeze_timeout_ms = 5000")
    freeze(side, server)
    os.kill(side.process.pid, signal.SIGSTOP)
    try:
        loader.wait_for_more()
    finally:
        os.kill(side.process.pid, signal.SIGCONT)
    answer = side.ask(E.THAW)
    assert answer.code == Code.VSS_E_WRITERERROR_TIMEOUT
    wait_until_no_records(server)


def wait_until_no_records(server: Groonga) -> None:
    end = time.monotonic() + 60
    while records(server):
        assert time.monotonic() < end, "the guard does not end"
        time.sleep(0.02)


def guard_of(pid: int) -> int:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                parent = int(Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == pid and b"groonga.holder" in Path(f"/proc/{name}/cmdline").read_bytes():
                    return int(name)
            except OSError:
                continue
    raise AssertionError("there is no guard")


@pytest.mark.long
def test_a_killed_guard_fails_the_writer_and_its_locks_go(side: Any, server: Groonga, loader: Load) -> None:
    freeze(side, server)
    os.kill(guard_of(side.process.pid), signal.SIGKILL)
    answer = side.ask(E.THAW)
    assert answer.code == Code.VSS_E_WRITERERROR_RETRYABLE
    side.ok(E.ABORT)
    loader.wait_for_more()
    assert not records(server)


@pytest.mark.long
def test_what_both_left_is_cleared_by_the_next_writer(
    side: Any, server: Groonga, loader: Load, processes: Any, coordinator: Any
) -> None:
    freeze(side, server)
    guard = guard_of(side.process.pid)
    for pid in (guard, side.process.pid):  # the guard first: it would see the writer's end
        os.kill(pid, signal.SIGKILL)
    side.process.wait()
    done = loader.done
    time.sleep(0.5)
    assert loader.done == done and records(server)
    start(processes, coordinator, server)
    loader.wait_for_more()
    assert not records(server)


def test_an_abort_releases_at_once(side: Any, server: Groonga, loader: Load) -> None:
    freeze(side, server)
    side.ok(E.ABORT)
    loader.wait_for_more()
    assert not records(server) and server.ask("thread_limit") == 2
    freeze(side, server)
    side.ok(E.THAW)
    loader.wait_for_more()


@pytest.mark.long
def test_more_clients_than_threads_do_not_keep_the_flush_from_working(side: Any, server: Groonga) -> None:
    loaders = [load(server) for _ in range(6)]  # the same documents again and again count once
    try:
        for each in loaders:
            each.wait_for_more(5)
        freeze(side, server)
        side.ok(E.THAW)
        for each in loaders:
            each.wait_for_more(5)
    finally:
        for each in loaders:
            each.stop()


@pytest.mark.long
def test_a_lock_that_somebody_left_fails_the_freeze(side: Any, server: Groonga, loader: Load) -> None:
    side.ok(E.PREPARE_BACKUP, components=chosen(server))
    side.ok(E.PREPARE_SNAPSHOT)
    server.shell("lock_acquire --target_name Docs.body\n")
    answer = side.ask(E.FREEZE, deadline_ms=4000)
    assert (answer.code, answer.veto) == (Code.VSS_E_WRITERERROR_RETRYABLE, True)
    assert "lock_acquire --target_name Docs.body in time" in answer.message
    side.ok(E.ABORT)
    server.shell("lock_release --target_name Docs.body\n")
    loader.wait_for_more()


def test_a_new_table_amid_the_creation_fails_it(side: Any, server: Groonga) -> None:
    server.put(server.found())
    freeze(side, server)
    server.ask("table_create?name=New&flags=TABLE_NO_KEY")
    server.ask("table_remove?name=New")
    server.ask("column_create?table=Docs&name=new&flags=COLUMN_SCALAR&type=Int64")
    answer = side.ask(E.THAW)
    assert answer.code == Code.VSS_E_WRITERERROR_RETRYABLE and "came or went" in answer.message
    server.ask("column_remove?table=Docs&name=new")


@pytest.mark.long
def test_a_killed_server_fails_the_writer(side: Any, server: Groonga) -> None:
    server.put(server.found())
    freeze(side, server)
    server.end()
    answer = side.ask(E.THAW)
    assert answer.code == Code.VSS_E_WRITERERROR_RETRYABLE and "let go of it amid the creation" in answer.message
    server.begin()
    server.put(server.found())


def test_parts_are_locked_in_the_order_in_which_records_reach_them(server: Groonga) -> None:
    (schema,) = server.shell("schema\n")
    first, rest = lock_order(schema["tables"])
    assert first == ["Docs"]
    assert rest[-1] == "Terms.docs_body" and set(rest[:-1]) == {"Docs.body", "Docs.number", "Docs.tag", "Tags", "Terms"}
    assert lock_order({}) == ([], [])
    ring: Any = {
        name: {"key_type": {"name": other, "type": "reference"}, "indexes": [], "columns": {}}
        for name, other in (("A", "B"), ("B", "A"))
    }
    assert lock_order(ring) == (["A"], ["B"])


def test_a_wrong_configuration_is_told(tmp_path: Path, processes: Any) -> None:
    path = tmp_path / "x.toml"
    for text, problem in (
        ("[[server]]\n", "give the absolute path"),
        ('[[server]]\ndatabase = "/d"\nurl = "ftp://x"\n', "give http://HOST:PORT"),
    ):
        path.write_text(text)
        with pytest.raises(VssError, match=problem):
            read_settings(str(path), Settings)
    done = processes.run("-m", "shadowset.writers.groonga.main", "--url", "http://127.0.0.1:1")
    assert (done.returncode == 1 and "name its first file" in done.stderr) or not installed()
