"""The Redis writer as a process, event by event, with a real server."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("redis", reason="not installed: redis")

from redis_server import Redis, installed

from shadowset.vss.codes import Code, VssError
from shadowset.vss.components import Component
from shadowset.vss.enums import ComponentType, FileRestoreStatus, Level, WriterEvent
from shadowset.writers.naming import component_identity
from shadowset.writers.redis.server import PAUSE_SECONDS, REWRITE, Pause
from shadowset.writers.redis.settings import Settings
from shadowset.writers.redis.writer import REDIS_WRITER_ID
from shadowset.writers.server_settings import read_settings

E = WriterEvent


@pytest.fixture(params=["append-only", "saved"])
def server(request: pytest.FixtureRequest) -> Iterator[Redis]:
    if not installed():
        pytest.skip("not installed: redis-tools")
    top = tempfile.mkdtemp(prefix="ss-redis-", dir="/tmp")
    made = Redis(top, request.param == "append-only")
    try:
        made.client().mset({f"key{number}": "x" * 100 for number in range(1000)})
        yield made
    finally:
        made.end()
        shutil.rmtree(top, ignore_errors=True)


@pytest.fixture
def side(server: Redis, processes: Any, coordinator: Any) -> Any:
    process = processes.start("-m", "shadowset.writers.redis.main", "--config", server.writer_config())
    found = coordinator.writer()
    found.process = process
    return found


class Client(threading.Thread):
    """Counts up all the time; ``longest`` is the longest wait."""

    def __init__(self, server: Redis) -> None:
        super().__init__(daemon=True)
        self.count, self.longest, self.stop = 0, 0.0, False
        self._client = server.client()
        self.start()

    def run(self) -> None:
        while not self.stop:
            started = time.monotonic()
            self.count = int(self._client.incr("count"))
            self.longest = max(self.longest, time.monotonic() - started)

    def wait_for_more(self) -> None:
        before, end = self.count, time.monotonic() + 30
        while self.count < before + 5:
            assert time.monotonic() < end, "the client stands still"
            time.sleep(0.01)


@pytest.fixture
def client(server: Redis) -> Iterator[Client]:
    running = Client(server)
    running.wait_for_more()
    yield running
    running.stop = True
    running.join(30)


def chosen(server: Redis, **fields: Any) -> list[Component]:
    return [Component(ComponentType.FILEGROUP, *component_identity(server.data), **fields)]


def freeze(side: Any, server: Redis) -> None:
    side.ok(E.PREPARE_BACKUP, components=chosen(server))
    side.ok(E.PREPARE_SNAPSHOT)
    side.ok(E.FREEZE)


def files(server: Redis) -> dict[str, str]:
    paths = [path for path in Path(server.data).rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_server_comes_back_as_it_was_at_the_cut(side: Any, server: Redis, client: Client, tmp_path: Path) -> None:
    document = side.ok(E.IDENTIFY).metadata
    assert (document.writer_id, side.hello.level) == (REDIS_WRITER_ID, Level.BACK_END)
    freeze(side, server)
    count, before = int(server.client().get("count")), files(server)  # reading goes on; the client may hear it later
    time.sleep(PAUSE_SECONDS + 1)  # the pause is renewed
    assert (client.count, files(server)) == (count, before)
    subprocess.run(["cp", "-a", server.data, str(tmp_path / "cut")], check=True)
    side.ok(E.THAW)
    client.wait_for_more()
    wanted = side.ok(E.POST_SNAPSHOT, components=chosen(server)).components
    client.stop = True
    client.join(30)
    server.client().flushall()
    wanted[0].selected_for_restore = True
    side.ok(E.PRE_RESTORE, components=wanted, deadline_ms=60_000)
    shutil.rmtree(server.data)
    subprocess.run(["cp", "-a", str(tmp_path / "cut"), server.data], check=True)
    wanted[0].file_restore_status = FileRestoreStatus.ALL
    side.ok(E.POST_RESTORE, components=wanted, deadline_ms=60_000)
    assert int(server.client().get("count")) == count
    server.client().delete("key1")
    side.ok(E.PRE_RESTORE, components=wanted, deadline_ms=60_000)
    answer = side.ask(E.POST_RESTORE, components=wanted, deadline_ms=60_000)
    if server.client().info("persistence")["aof_enabled"]:  # else the deletion was never saved
        assert "lasting keys" in answer.message


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_writer_that_dies_or_hangs_holds_nobody_up(
    side: Any, server: Redis, client: Client, number: signal.Signals
) -> None:
    usual = rewrite_setting(server)
    freeze(side, server)
    if appends(server):
        assert (rewrite_setting(server), usual) == ("0", "100")
    os.kill(side.process.pid, number)
    try:
        client.wait_for_more()
        if number == signal.SIGSTOP:
            os.kill(side.process.pid, signal.SIGCONT)
            answer = side.ask(E.THAW)
            assert answer.code == Code.VSS_E_WRITERERROR_RETRYABLE
            assert "ended too early" in answer.message
    finally:
        if number == signal.SIGSTOP:
            os.kill(side.process.pid, signal.SIGCONT)
    end = time.monotonic() + 30
    while rewrite_setting(server) != usual:  # by the guard, in place of a killed writer
        assert time.monotonic() < end, "the append-only file would never be rewritten again"
        time.sleep(0.05)


def appends(server: Redis) -> bool:
    return bool(server.client().info("persistence")["aof_enabled"])


def rewrite_setting(server: Redis) -> str:
    return str(server.client().config_get(REWRITE)[REWRITE])


def test_a_lost_server_fails_the_freeze(side: Any, server: Redis) -> None:
    side.ok(E.PREPARE_BACKUP, components=chosen(server))
    side.ok(E.PREPARE_SNAPSHOT)
    server.end()
    answer = side.ask(E.FREEZE)
    assert (answer.code, answer.veto) == (Code.VSS_E_WRITERERROR_RETRYABLE, True)


def test_a_pause_knows_whether_it_was_late(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    pause = Pause(lambda: calls.append(time.monotonic()))
    pause.begin()
    assert pause.running
    assert pause.end()
    assert not pause.running
    monkeypatch.setattr("shadowset.writers.redis.server.PAUSE_SECONDS", -1.0)
    pause.begin()
    assert not pause.end()
    assert calls


def test_a_wrong_configuration_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    for text, problem in (
        ("[[server]]\n", "has no socket"),
        ('[[server]]\nsocket = "/s"\nfiles = ["a/b"]\n', "give names"),
        ('[[server]]\nsocket = "/s"\nstop_command = ["y"]\n', "add data_directory"),
    ):
        path.write_text(text)
        with pytest.raises(VssError, match=problem):
            read_settings(str(path), Settings)
